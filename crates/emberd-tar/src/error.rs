//! Errors of reading, unpacking and writing archives.

use std::io;
use std::path::{Path, PathBuf};

/// Why an archive was not read, unpacked or written.
#[derive(Debug, thiserror::Error)]
pub enum TarError {
    /// The data is not an archive, or breaks a rule.
    #[error("{0}")]
    Invalid(&'static str),
    /// The archive ends within an entry.
    #[error("the archive ends in the middle of an entry")]
    Truncated,
    /// The source or the destination of the archive failed.
    #[error("cannot read or write the archive")]
    Stream(#[source] io::Error),
    /// The kernel refused an operation.
    #[error("cannot {verb} {}", path.display())]
    File {
        /// The operation.
        verb: &'static str,
        /// The path: below the directory when unpacking, on the machine when packing.
        path: PathBuf,
        /// The kernel's error.
        source: io::Error,
    },
}

impl TarError {
    /// Returns a kernel error, for `map_err`.
    pub(crate) fn file<E: Into<io::Error>>(
        verb: &'static str,
        path: &Path,
    ) -> impl FnOnce(E) -> Self {
        move |source| Self::File { verb, path: path.into(), source: source.into() }
    }

    /// Returns whether the error means that the path does not exist.
    pub(crate) fn is_absence(&self) -> bool {
        matches!(self, Self::File { source, .. } if source.kind() == io::ErrorKind::NotFound)
    }
}
