//! Why an archive was not read, unpacked or made.

use std::io;
use std::path::{Path, PathBuf};

/// Why an archive was not read, unpacked or made.
#[derive(Debug, thiserror::Error)]
pub enum TarError {
    /// The archive is none, or breaks a rule.
    #[error("{0}")]
    Invalid(&'static str),
    /// The archive ends in the middle of something.
    #[error("the archive ends in the middle of an entry")]
    Truncated,
    /// Where the archive comes from, or goes to, failed.
    #[error("the archive cannot be passed on")]
    Stream(#[source] io::Error),
    /// The kernel refused.
    #[error("cannot {verb} {}", path.display())]
    File {
        /// What was tried.
        verb: &'static str,
        /// On what: below the directory when unpacking, a path of the machine when packing.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
}

impl TarError {
    /// A refusal of the kernel, for `map_err`.
    pub(crate) fn file<E: Into<io::Error>>(
        verb: &'static str,
        path: &Path,
    ) -> impl FnOnce(E) -> Self {
        move |source| Self::File { verb, path: path.into(), source: source.into() }
    }

    /// Whether the kernel said that there is nothing.
    pub(crate) fn is_absence(&self) -> bool {
        matches!(self, Self::File { source, .. } if source.kind() == io::ErrorKind::NotFound)
    }
}
