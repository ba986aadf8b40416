//! Options of TLS.

use crate::definition::{Definition, Key};

const BASE: Definition = Definition::BASE;

pub(super) const CERT: Definition = Definition {
    key: Key::TlsCert,
    name: "tls-cert",
    value_name: "FILE",
    about: "Certificate of the TCP address, in PEM, with those of its issuers behind it",
    detail: "With a certificate, the TCP address takes TLS only. The file is read again when it \
        changes, and on SIGHUP. The old one stays in use if the new one is invalid.",
    ..BASE
};

pub(super) const KEY: Definition = Definition {
    key: Key::TlsKey,
    name: "tls-key",
    value_name: "FILE",
    about: "Private key of `--tls-cert`, in PEM",
    ..BASE
};

pub(super) const CLIENT_CA: Definition = Definition {
    key: Key::TlsClientCa,
    name: "tls-client-ca",
    value_name: "FILE",
    about: "Certificates of issuers, in PEM, of which one must have issued that of each client",
    detail: "Clients without such a certificate are refused.",
    ..BASE
};
