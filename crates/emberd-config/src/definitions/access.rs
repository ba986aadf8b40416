//! Options of who may use the daemon.

use crate::definition::{DefaultValue, Definition, Key};
use crate::form::Form;
use crate::web_origin::{WEB_ORIGIN_BYTES_MAX, WEB_ORIGINS_MAX};

const BASE: Definition = Definition::BASE;

pub(super) const ALLOWED_ORIGIN: Definition = Definition {
    key: Key::AllowedOrigin,
    name: "allowed-origin",
    value_name: "URL",
    form: Form::WebOrigins { most: WEB_ORIGINS_MAX, bytes_max: WEB_ORIGIN_BYTES_MAX },
    about: "Origin of web pages that may use the API, such as https://console.example",
    detail: "Each request of such a page needs an access key (`emberctl key create`), also over a \
        Unix socket and with `--insecure-no-auth`. Repeat the flag, or separate origins by commas. \
        Scheme, host and port must be exactly those of the page. Over `http://`, who can change \
        what the network carries can change the page; that is safe for `localhost` only.",
    ..BASE
};

pub(super) const USERS: Definition = Definition {
    key: Key::Access,
    name: "access",
    value_name: "RULE",
    form: Form::AccessRules { most: 64 },
    about: "User or group that may use the Unix socket without a key, and with which role",
    detail: "`uid:1000=user` or `gid:100=viewer`; the first rule that fits counts. Roles are \
        `viewer`, `user`, `operator` and `admin`. Root and the daemon's own user may do \
        everything. With a rule, every user can connect to the socket. In the file, each is \
        `[[access]]` with `uid` or `gid`, and `role`.",
    ..BASE
};

pub(super) const INSECURE_NO_AUTH: Definition = Definition {
    key: Key::InsecureNoAuth,
    name: "insecure-no-auth",
    value_name: "BOOL",
    default: DefaultValue::Text("false"),
    form: Form::Flag,
    about: "Serve everybody who can connect over TCP, without a key",
    detail: "For networks that nobody else uses. Without it, an address that is not loopback \
        needs keys (`emberctl key create`).",
    ..BASE
};

pub(super) const KEY_FILE: Definition = Definition {
    key: Key::KeyFile,
    name: "key-file",
    value_name: "FILE",
    about: "File with one access key, beside those of `emberctl key`",
    detail: "The key may do everything and never expires. The file holds it as it is sent: `emb_`, \
        8 of `a-z0-9`, `_`, and 32 letters and digits. It is read when the daemon starts.",
    ..BASE
};
