//! A directory, and paths below it that cannot lead outside it.
//!
//! A path is walked part by part from an open directory, so that concurrent changes cannot
//! redirect it. Links are followed if they stay inside.

use std::ffi::OsStr;
use std::fs;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Component, Path, PathBuf};
use std::rc::Rc;

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag, openat, readlinkat};
use nix::sys::stat::{FchmodatFlags, Mode, UtimensatFlags, fchmodat, utimensat};
use nix::sys::time::TimeSpec;

use crate::error::TarError;
use crate::{NAME_BYTES_MAX, Time};

/// Flags for opening a directory to pass through, which needs no permission to read it.
const THROUGH: OFlag = OFlag::O_PATH.union(OFlag::O_DIRECTORY).union(OFlag::O_CLOEXEC);

/// Makes a directory of this name.
pub type Make<'a> = dyn Fn(BorrowedFd<'_>, &OsStr) -> Result<(), Errno> + 'a;

/// A directory that paths cannot leave.
pub struct Within {
    path: PathBuf,
    root: Rc<OwnedFd>,
    /// The directory of the last walk, because most entries are next to the one before.
    last: Option<(PathBuf, Rc<OwnedFd>)>,
}

impl Within {
    /// Returns the paths below the existing `directory`.
    pub fn new(directory: &Path) -> Result<Self, TarError> {
        let root = openat(AT_FDCWD, directory, THROUGH, Mode::empty())
            .map_err(TarError::file("open", directory))?;
        let path = fs::read_link(magic(root.as_fd())).map_err(TarError::file("open", directory))?;
        Ok(Self { path, root: Rc::new(root), last: None })
    }

    /// Forgets the directory of the last walk, because a directory is being replaced.
    pub fn forget(&mut self) {
        self.last = None;
    }

    /// Opens the parent directory of `path`. `make` creates missing directories on the way.
    pub fn parent(
        &mut self,
        path: &Path,
        make: Option<&Make<'_>>,
    ) -> Result<Rc<OwnedFd>, TarError> {
        let parent = path.parent().unwrap_or(Path::new(""));
        if let Some((known, fd)) = &self.last
            && known == parent
        {
            return Ok(Rc::clone(fd));
        }
        let mut at = Rc::clone(&self.root);
        for part in parent {
            let failed = |errno| TarError::file("open", path)(errno);
            let next = match enter(at.as_fd(), part) {
                Err(Errno::ENOENT) => {
                    let make = make.ok_or_else(|| failed(Errno::ENOENT))?;
                    make(at.as_fd(), part).map_err(TarError::file("make", path))?;
                    enter(at.as_fd(), part)
                }
                Err(Errno::ENOTDIR | Errno::ELOOP) => self.follow(at.as_fd(), part)?,
                entered => entered,
            };
            at = Rc::new(next.map_err(failed)?);
        }
        self.last = Some((parent.to_owned(), Rc::clone(&at)));
        Ok(at)
    }

    /// Returns the directory itself.
    pub fn root(&self) -> Rc<OwnedFd> {
        Rc::clone(&self.root)
    }

    /// Opens the directory that the link `name` resolves to, if it is inside.
    fn follow(&self, at: BorrowedFd<'_>, name: &OsStr) -> Result<Result<OwnedFd, Errno>, TarError> {
        if readlinkat(at, name).is_err() {
            return Ok(Err(Errno::ENOTDIR));
        }
        let opened = match openat(at, name, THROUGH, Mode::empty()) {
            Ok(opened) => opened,
            Err(errno) => return Ok(Err(errno)),
        };
        // Checked on the open file, so that the link cannot change in between.
        let real = fs::read_link(magic(opened.as_fd()));
        if real.is_ok_and(|real| real.starts_with(&self.path)) {
            return Ok(Ok(opened));
        }
        Err(TarError::Invalid("a link leads outside the directory"))
    }
}

/// Opens the directory `name`, which must not be a link.
pub fn enter(at: BorrowedFd<'_>, name: &OsStr) -> Result<OwnedFd, Errno> {
    openat(at, name, THROUGH | OFlag::O_NOFOLLOW, Mode::empty())
}

/// Changes the mode of an open file, whatever flags it was opened with.
pub fn set_mode(fd: BorrowedFd<'_>, mode: u32) -> Result<(), Errno> {
    let mode = Mode::from_bits_truncate(mode);
    fchmodat(AT_FDCWD, &magic(fd), mode, FchmodatFlags::FollowSymlink)
}

/// Changes the time of an open file, whatever flags it was opened with.
pub fn set_time(fd: BorrowedFd<'_>, time: Time) -> Result<(), Errno> {
    let (read, written) = times(time);
    utimensat(AT_FDCWD, &magic(fd), &read, &written, UtimensatFlags::FollowSymlink)
}

/// Changes the time of `name`, which may be a link.
pub fn set_time_at(at: BorrowedFd<'_>, name: &OsStr, time: Time) -> Result<(), Errno> {
    let (read, written) = times(time);
    utimensat(at, name, &read, &written, UtimensatFlags::NoFollowSymlink)
}

/// The access time is not changed.
fn times(time: Time) -> (TimeSpec, TimeSpec) {
    (TimeSpec::UTIME_OMIT, TimeSpec::new(time.seconds, time.nanos.into()))
}

/// Returns the kernel's path of an open file.
fn magic(fd: BorrowedFd<'_>) -> PathBuf {
    format!("/proc/self/fd/{}", fd.as_raw_fd()).into()
}

/// Returns the path below the directory for a name in an archive; empty for the directory itself.
pub fn plain(name: &[u8]) -> Result<PathBuf, TarError> {
    if name.len() > NAME_BYTES_MAX {
        return Err(TarError::Invalid("a name is longer than 4095 bytes"));
    }
    let mut plain = PathBuf::new();
    for part in Path::new(OsStr::from_bytes(name)).components() {
        match part {
            Component::Normal(part) => plain.push(part),
            Component::ParentDir => {
                return Err(TarError::Invalid("the archive has a path with `..`"));
            }
            Component::CurDir | Component::RootDir | Component::Prefix(_) => {}
        }
    }
    Ok(plain)
}
