//! The audit journal as configured.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::definition::Key;
use crate::reader::Reader;
use crate::value::AuditChoice;

/// Where the audit journal is in the data directory.
const DIR: &str = "audit";

/// The audit journal as configured.
#[derive(Debug, Clone)]
pub struct AuditOptions {
    /// Whether there is one.
    pub choice: AuditChoice,
    /// Its directory; absolute.
    pub dir: PathBuf,
    /// Size at which a file is full, in MiB.
    pub file_mib: u64,
    /// How long files are kept.
    pub keep: Duration,
    /// Most disk space of all files, in MiB.
    pub keep_mib: u64,
}

/// The options under `data_dir`.
pub(super) fn audit(read: &mut Reader<'_>, data_dir: &Path) -> AuditOptions {
    AuditOptions {
        choice: read.choice(Key::Audit),
        dir: read.path(Key::AuditDir).unwrap_or_else(|| data_dir.join(DIR)),
        file_mib: read.number(Key::AuditFileMib),
        keep: read.duration(Key::AuditKeep),
        keep_mib: read.number(Key::AuditKeepMib),
    }
}
