//! Options of the audit journal.

use crate::definition::{DefaultValue, Definition, Key};
use crate::form::Form;
use crate::value::{AuditChoice, TIMEOUT_MS_MAX, possible};

const BASE: Definition = Definition::BASE;

pub(super) const AUDIT: Definition = Definition {
    key: Key::Audit,
    name: "audit",
    value_name: "on|off|required",
    default: DefaultValue::Text("on"),
    form: Form::Choice(possible::<AuditChoice>),
    about: "Whether the daemon keeps an audit journal",
    detail: "With `required`, requests that would be in the journal are refused while it takes no \
        records. With `on`, they go on.",
    ..BASE
};

pub(super) const DIR: Definition = Definition {
    key: Key::AuditDir,
    name: "audit-dir",
    value_name: "DIR",
    default: DefaultValue::Described("audit in the data directory"),
    about: "Directory of the audit journal",
    detail: "Each daemon needs its own directory.",
    ..BASE
};

pub(super) const FILE_MIB: Definition = Definition {
    key: Key::AuditFileMib,
    name: "audit-file-mib",
    value_name: "MIB",
    default: DefaultValue::Text("256"),
    form: Form::SizeMib { least: 1, most: 1 << 20 },
    about: "Size at which a file of the audit journal is full, in MiB or with a unit such as 2GiB",
    detail: "Each day begins a file too.",
    ..BASE
};

pub(super) const KEEP: Definition = Definition {
    key: Key::AuditKeep,
    name: "audit-keep",
    value_name: "DURATION",
    default: DefaultValue::Text("90d"),
    // A day: files are by day.
    form: Form::Duration { least_ms: 24 * 3_600_000, most_ms: TIMEOUT_MS_MAX },
    about: "Time for which files of the audit journal are kept",
    detail: "Older ones are removed when a file begins.",
    ..BASE
};

pub(super) const KEEP_MIB: Definition = Definition {
    key: Key::AuditKeepMib,
    name: "audit-keep-mib",
    value_name: "MIB",
    default: DefaultValue::Text("10240"),
    form: Form::SizeMib { least: 1, most: 1 << 24 },
    about: "Most disk space of the audit journal, in MiB or with a unit such as 2GiB",
    detail: "The oldest files are removed when a file begins. The file that is written is not \
        counted.",
    ..BASE
};
