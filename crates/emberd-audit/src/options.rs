//! What a journal is opened with, and why it cannot be.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

/// Where a journal is, and how much of it is kept.
#[derive(Debug, Clone)]
pub struct Options {
    /// Its directory, which is created if it is missing.
    pub dir: PathBuf,
    /// Size at which a file is full, in bytes.
    pub file_bytes_max: u64,
    /// How long a file is kept.
    pub keep: Duration,
    /// Most bytes of all files together.
    pub keep_bytes: u64,
}

/// Why a journal cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process writes it.
    #[error("another emberd writes the audit journal in {}", .0.display())]
    InUse(PathBuf),
    /// A file of it cannot be used.
    #[error("cannot use {} for the audit journal", path.display())]
    Io {
        /// The file, or the directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl OpenError {
    pub(crate) fn io(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { path, source }
    }
}
