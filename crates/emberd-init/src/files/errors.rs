//! Errors of file operations, and the refusals they become.

use std::io;
use std::path::{Path, PathBuf};

use emberd_proto::{Refusal, RefusalCode, chain};
use emberd_tar::TarError;
use nix::errno::Errno;

use crate::users::UserError;

/// Why a file operation failed.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// The request breaks a rule.
    #[error("{0}")]
    Invalid(&'static str),
    /// The user does not exist.
    #[error(transparent)]
    User(#[from] UserError),
    /// The file has the wrong type for the operation.
    #[error("{} is {what}", path.display())]
    WrongType {
        /// The path.
        path: PathBuf,
        /// A description of the wrong type.
        what: &'static str,
    },
    /// The path already exists.
    #[error("{} already exists", .0.display())]
    InTheWay(PathBuf),
    /// The kernel refused the operation.
    #[error("cannot {verb} {}", path.display())]
    System {
        /// The operation.
        verb: &'static str,
        /// The path.
        path: PathBuf,
        /// The kernel's error.
        source: io::Error,
    },
    /// An archive could not be unpacked, or a directory could not be packed.
    #[error("{verb}")]
    Archive {
        /// The operation that failed.
        verb: &'static str,
        /// The cause.
        source: TarError,
    },
    /// The host closed the connection, so no answer is sent.
    #[error("the host closed the connection")]
    HostLeft,
}

impl FileError {
    /// Returns a kernel error, for `map_err`.
    pub fn system<E: Into<io::Error>>(verb: &'static str, path: &Path) -> impl FnOnce(E) -> Self {
        move |source| Self::System { verb, path: path.into(), source: source.into() }
    }

    pub fn wrong_type(path: &Path, what: &'static str) -> Self {
        Self::WrongType { path: path.into(), what }
    }

    /// Returns a packing error, for `map_err`.
    pub fn packing(source: TarError) -> Self {
        Self::Archive { verb: "the directory cannot be packed", source }
    }

    /// Returns an unpacking error, for `map_err`.
    pub fn unpacking(source: TarError) -> Self {
        Self::Archive { verb: "the archive cannot be unpacked", source }
    }

    /// Returns the refusal for the host.
    pub fn refusal(&self) -> Refusal {
        let code = match self {
            Self::Invalid(_) => RefusalCode::Invalid,
            Self::User(UserError::Unknown(_)) => RefusalCode::NotFound,
            Self::User(UserError::Read(..)) | Self::HostLeft => RefusalCode::Failed,
            Self::WrongType { .. } => RefusalCode::WrongType,
            Self::InTheWay(_) => RefusalCode::AlreadyExists,
            Self::System { source, .. } => code_of(source),
            Self::Archive { source, .. } => match source {
                TarError::Invalid(_) | TarError::Truncated => RefusalCode::Invalid,
                TarError::Stream(source) | TarError::File { source, .. } => code_of(source),
            },
        };
        Refusal { code, message: chain(self) }
    }
}

/// Returns the refusal code for an errno.
fn code_of(error: &io::Error) -> RefusalCode {
    let Some(errno) = error.raw_os_error().map(Errno::from_raw) else {
        return code_of_kind(error.kind());
    };
    match errno {
        Errno::ENOENT => RefusalCode::NotFound,
        Errno::EEXIST | Errno::ENOTEMPTY => RefusalCode::AlreadyExists,
        Errno::ENOTDIR | Errno::EISDIR | Errno::ENXIO => RefusalCode::WrongType,
        Errno::EACCES | Errno::EPERM | Errno::EROFS => RefusalCode::Denied,
        Errno::ENOSPC | Errno::EDQUOT | Errno::EFBIG => RefusalCode::NoSpace,
        Errno::ENAMETOOLONG | Errno::EINVAL | Errno::ELOOP => RefusalCode::Invalid,
        _ => RefusalCode::Failed,
    }
}

/// As [`code_of`], if only the kind of an error is known.
fn code_of_kind(kind: io::ErrorKind) -> RefusalCode {
    match kind {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => RefusalCode::NoSpace,
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => RefusalCode::Denied,
        _ => RefusalCode::Failed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_says_has_a_kind() {
        let check = |errno: Errno, code| {
            let error = FileError::system("read", Path::new("/x"))(errno);
            assert_eq!(error.refusal().code, code, "{errno}");
        };
        check(Errno::ENOENT, RefusalCode::NotFound);
        check(Errno::ENOTDIR, RefusalCode::WrongType);
        check(Errno::EROFS, RefusalCode::Denied);
        check(Errno::ENOSPC, RefusalCode::NoSpace);
        check(Errno::ELOOP, RefusalCode::Invalid);
        check(Errno::EIO, RefusalCode::Failed);
        let message = FileError::system("read", Path::new("/x"))(Errno::ENOENT).refusal().message;
        assert_eq!(message, "cannot read /x: No such file or directory (os error 2)");
    }
}
