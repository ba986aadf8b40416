//! Why files were not what was asked, and what that is to the host.

use std::io;
use std::path::{Path, PathBuf};

use emberd_proto::{Refusal, RefusalCode};
use emberd_tar::TarError;
use nix::errno::Errno;

use crate::console;
use crate::users::UserError;

/// Why an operation on files was not carried out.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// The request breaks a rule.
    #[error("{0}")]
    Invalid(&'static str),
    /// There is no such user.
    #[error(transparent)]
    User(#[from] UserError),
    /// What is there is not what the operation is for.
    #[error("{} is {what}", path.display())]
    WrongType {
        /// Where.
        path: PathBuf,
        /// What it is, or is not.
        what: &'static str,
    },
    /// Something is in the way.
    #[error("{} is there already", .0.display())]
    InTheWay(PathBuf),
    /// The kernel refused.
    #[error("cannot {verb} {}", path.display())]
    System {
        /// What was tried.
        verb: &'static str,
        /// On what.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// An archive could not be unpacked, or a directory not packed.
    #[error("{verb}")]
    Archive {
        /// What could not be done.
        verb: &'static str,
        /// Why.
        source: TarError,
    },
    /// The host left; nobody is told.
    #[error("the host left")]
    HostLeft,
}

impl FileError {
    /// A refusal of the kernel, for `map_err`.
    pub fn system<E: Into<io::Error>>(verb: &'static str, path: &Path) -> impl FnOnce(E) -> Self {
        move |source| Self::System { verb, path: path.into(), source: source.into() }
    }

    pub fn wrong_type(path: &Path, what: &'static str) -> Self {
        Self::WrongType { path: path.into(), what }
    }

    /// Why a directory was not packed, for `map_err`.
    pub fn packing(source: TarError) -> Self {
        Self::Archive { verb: "the directory cannot be packed", source }
    }

    /// Why an archive was not unpacked, for `map_err`.
    pub fn unpacking(source: TarError) -> Self {
        Self::Archive { verb: "the archive cannot be unpacked", source }
    }

    /// What the host is told.
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
        Refusal { code, message: console::chain(self) }
    }
}

/// What an errno is to the host.
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

/// As [`code_of`], where only the kind of an error was passed on.
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
