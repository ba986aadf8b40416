//! Unpacks an archive below a directory, as GNU tar does, but stricter in some cases.
//!
//! An existing file, link or empty directory is replaced, and entries are merged into an existing
//! directory. Modes and times of directories are set last, so that read-only ones can be filled.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{File, Permissions};
use std::io::{self, Read, Seek as _, SeekFrom, Write as _};
use std::os::fd::{AsFd as _, BorrowedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{PermissionsExt as _, fchown};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat};
use nix::sys::stat::{FileStat, Mode, SFlag, fstatat, mkdirat};
use nix::unistd::{Gid, Uid, UnlinkatFlags, fchownat, linkat, mkfifoat, symlinkat, unlinkat};

use crate::error::TarError;
use crate::within::{Within, enter, plain, set_mode, set_time, set_time_at};
use crate::{Entry, Kind, Reader, Time};

/// Maximum number of directories of one archive, because each is kept until the end (1,048,576).
pub const DIRECTORIES_MAX: usize = 1 << 20;

/// Maximum total size of their names, in bytes (64 MiB).
pub const NAMES_BYTES_MAX: usize = 64 << 20;

/// Mode of a directory that the archive has no entry for.
const DIR_MODE: u32 = 0o755;

/// Size of the pieces in which content is copied, in bytes (64 KiB).
const PIECE_BYTES: usize = 64 << 10;

/// Owner of unpacked files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owner {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
}

/// Options for unpacking.
#[derive(Debug, Clone, Copy, Default)]
pub struct UnpackOptions {
    /// Owner of all files; by default the current user. Owners in archives are ignored.
    pub owner: Option<Owner>,
    /// Whether to keep FIFOs and the set-user-id, set-group-id and sticky bits.
    pub special: bool,
    /// Whether to apply the archive's mode of the directory itself.
    pub own_mode: bool,
}

/// Unpacks `from` into the existing `directory`, and reads it to its end.
///
/// # Errors
/// If the archive is malformed, or something cannot be created or would be outside. Entries
/// unpacked before stay.
pub fn unpack(
    from: &mut impl Read,
    directory: &Path,
    options: UnpackOptions,
) -> Result<(), TarError> {
    let within = Within::new(directory)?;
    let mut unpacking =
        Unpacking { within, options, later: BTreeMap::new(), names_bytes: 0, piece: Vec::new() };
    let mut reader = Reader::new(&mut *from);
    let unpacked = unpacking.all(&mut reader);
    // Also after an error, so that existing directories get their modes.
    let settled = unpacking.settle();
    unpacked.and(settled)?;
    // Data after the archive's end is not checked.
    io::copy(from, &mut io::sink()).map_err(TarError::Stream)?;
    Ok(())
}

struct Unpacking {
    within: Within,
    options: UnpackOptions,
    /// Modes and times to set on directories at the end.
    later: BTreeMap<PathBuf, Later>,
    names_bytes: usize,
    piece: Vec<u8>,
}

struct Later {
    mode: Option<u32>,
    time: Time,
}

impl Unpacking {
    fn all<R: Read>(&mut self, reader: &mut Reader<R>) -> Result<(), TarError> {
        while let Some(entry) = reader.next()? {
            let path = plain(&entry.name)?;
            if path.as_os_str().is_empty() {
                if entry.kind == Kind::Directory {
                    let mode = self.options.own_mode.then(|| self.mode(&entry));
                    self.remember(path, Later { mode, time: entry.modified })?;
                }
                continue;
            }
            match &entry.kind {
                Kind::File => self.file(reader, &entry, &path)?,
                Kind::Directory => self.directory(&entry, path)?,
                Kind::Symlink(to) => self.symlink(&entry, to, &path)?,
                Kind::HardLink(to) => self.hard_link(to, &path)?,
                Kind::Fifo if self.options.special => self.fifo(&entry, &path)?,
                Kind::Fifo | Kind::Other => {}
            }
        }
        Ok(())
    }

    fn file<R: Read>(
        &mut self,
        reader: &mut Reader<R>,
        entry: &Entry,
        path: &Path,
    ) -> Result<(), TarError> {
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_CLOEXEC;
        let mode = Mode::S_IRUSR | Mode::S_IWUSR;
        let mut file = File::from(
            self.make(path, |at, name| openat(at, name, flags | OFlag::O_NOFOLLOW, mode))?,
        );
        let failed = |error: io::Error| TarError::file("write", path)(error);
        for segment in entry.segments.iter().flatten() {
            file.seek(SeekFrom::Start(segment.offset)).map_err(failed)?;
            self.copy(reader, &mut file, segment.length, path)?;
        }
        if entry.segments.is_some() {
            file.set_len(entry.size).map_err(failed)?;
        } else {
            self.copy(reader, &mut file, entry.size, path)?;
        }
        if let Some(owner) = self.options.owner {
            fchown(&file, Some(owner.uid), Some(owner.gid)).map_err(failed)?;
        }
        file.set_permissions(Permissions::from_mode(self.mode(entry))).map_err(failed)?;
        set_time(file.as_fd(), entry.modified).map_err(TarError::file("set the time of", path))
    }

    fn copy<R: Read>(
        &mut self,
        reader: &mut Reader<R>,
        file: &mut File,
        length: u64,
        path: &Path,
    ) -> Result<(), TarError> {
        self.piece.resize(PIECE_BYTES, 0);
        let mut left = length;
        while left > 0 {
            let most = usize::try_from(left).unwrap_or(PIECE_BYTES).min(PIECE_BYTES);
            let count = reader.data(&mut self.piece[..most])?;
            if count == 0 {
                return Err(TarError::Truncated);
            }
            file.write_all(&self.piece[..count]).map_err(TarError::file("write", path))?;
            left -= count as u64;
        }
        Ok(())
    }

    fn directory(&mut self, entry: &Entry, path: PathBuf) -> Result<(), TarError> {
        let (at, name) = self.parent(&path)?;
        let failed = |errno: Errno| TarError::file("make", &path)(errno);
        match look(at.as_fd(), name) {
            Ok(there) if is_dir(&there) => {
                let mode = there.st_mode & 0o7777;
                if mode & 0o700 != 0o700 {
                    // Without permission, the next entry that needs it fails.
                    enter(at.as_fd(), name).and_then(|fd| set_mode(fd.as_fd(), mode | 0o700)).ok();
                }
            }
            _ => self.make(&path, |at, name| mkdirat(at, name, Mode::S_IRWXU))?,
        }
        self.own(at.as_fd(), name).map_err(failed)?;
        let later = Later { mode: Some(self.mode(entry)), time: entry.modified };
        self.remember(path, later)
    }

    fn symlink(&mut self, entry: &Entry, to: &[u8], path: &Path) -> Result<(), TarError> {
        let to = OsStr::from_bytes(to);
        self.make(path, |at, name| symlinkat(to, at, name))?;
        let (at, name) = self.parent(path)?;
        self.own(at.as_fd(), name)
            .and_then(|()| set_time_at(at.as_fd(), name, entry.modified))
            .map_err(TarError::file("make", path))
    }

    fn fifo(&mut self, entry: &Entry, path: &Path) -> Result<(), TarError> {
        self.make(path, |at, name| mkfifoat(at, name, Mode::S_IRUSR | Mode::S_IWUSR))?;
        let (at, name) = self.parent(path)?;
        let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        self.own(at.as_fd(), name)
            .and_then(|()| openat(&*at, name, flags, Mode::empty()))
            .and_then(|fd| {
                set_mode(fd.as_fd(), self.mode(entry))?;
                set_time(fd.as_fd(), entry.modified)
            })
            .map_err(TarError::file("make", path))
    }

    fn hard_link(&mut self, to: &[u8], path: &Path) -> Result<(), TarError> {
        let target = plain(to)?;
        let failed = |errno: Errno| TarError::file("link to", &target)(errno);
        let of_name = target.file_name();
        let of_name = of_name.ok_or(TarError::Invalid("a hard link leads to the directory"))?;
        let of = self.within.parent(&target, None)?;
        let meant = look(of.as_fd(), of_name).map_err(failed)?;
        let (at, name) = self.parent(path)?;
        let same = |there: FileStat| (there.st_dev, there.st_ino) == (meant.st_dev, meant.st_ino);
        // Linking a file to itself must not replace it.
        if look(at.as_fd(), name).is_ok_and(same) && !is_dir(&meant) {
            return Ok(());
        }
        // The kernel refuses it too, but only after the existing file was removed.
        if is_dir(&meant) {
            return Err(failed(Errno::EPERM));
        }
        self.make(path, |at, name| linkat(&*of, of_name, at, name, AtFlags::empty()))
    }

    /// Creates something at `path`, replacing what exists, unless that is a non-empty directory.
    fn make<T>(
        &mut self,
        path: &Path,
        make: impl Fn(BorrowedFd<'_>, &OsStr) -> Result<T, Errno>,
    ) -> Result<T, TarError> {
        let (at, name) = self.parent(path)?;
        match make(at.as_fd(), name) {
            Err(Errno::EEXIST) => {
                self.within.forget();
                let removed = match unlinkat(&*at, name, UnlinkatFlags::NoRemoveDir) {
                    Err(Errno::EISDIR | Errno::EPERM) => {
                        unlinkat(&*at, name, UnlinkatFlags::RemoveDir)
                    }
                    removed => removed,
                };
                removed.map_err(TarError::file("replace", path))?;
                self.later.remove(path);
                make(at.as_fd(), name)
            }
            other => other,
        }
        .map_err(TarError::file("make", path))
    }

    /// Returns the parent directory of `path`, which is created if missing, and the last part of
    /// the path.
    fn parent<'a>(
        &mut self,
        path: &'a Path,
    ) -> Result<(std::rc::Rc<std::os::fd::OwnedFd>, &'a OsStr), TarError> {
        let options = self.options;
        let make = |at: BorrowedFd<'_>, name: &OsStr| {
            mkdirat(at, name, Mode::from_bits_truncate(DIR_MODE))?;
            own(options.owner, at, name)?;
            // The umask does not apply inside the directory.
            if options.special { set_mode(enter(at, name)?.as_fd(), DIR_MODE) } else { Ok(()) }
        };
        let parent = self.within.parent(path, Some(&make))?;
        Ok((parent, path.file_name().unwrap_or_default()))
    }

    fn own(&self, at: BorrowedFd<'_>, name: &OsStr) -> Result<(), Errno> {
        own(self.options.owner, at, name)
    }

    fn mode(&self, entry: &Entry) -> u32 {
        entry.mode & if self.options.special { 0o7777 } else { 0o777 }
    }

    fn remember(&mut self, path: PathBuf, later: Later) -> Result<(), TarError> {
        let bytes = path.as_os_str().len();
        if self.later.insert(path, later).is_none() {
            self.names_bytes += bytes;
        }
        if self.later.len() > DIRECTORIES_MAX || self.names_bytes > NAMES_BYTES_MAX {
            return Err(TarError::Invalid("the archive has too many directories"));
        }
        Ok(())
    }

    /// Sets modes and times of directories, the deepest first, because others may become
    /// inaccessible.
    fn settle(&mut self) -> Result<(), TarError> {
        let mut settled = Ok(());
        for (path, later) in std::mem::take(&mut self.later).into_iter().rev() {
            settled = settled.and(self.settle_one(&path, &later));
        }
        settled
    }

    fn settle_one(&mut self, path: &Path, later: &Later) -> Result<(), TarError> {
        let directory = match path.file_name() {
            None => self.within.root(),
            Some(name) => {
                // The directory may have been replaced or removed.
                let Ok(at) = self.within.parent(path, None) else { return Ok(()) };
                let Ok(directory) = enter(at.as_fd(), name) else { return Ok(()) };
                directory.into()
            }
        };
        let directory = directory.as_fd();
        later
            .mode
            .map_or(Ok(()), |mode| set_mode(directory, mode))
            .and_then(|()| set_time(directory, later.time))
            .map_err(TarError::file("set mode and time of", path))
    }
}

/// Sets the owner of a new file. Does not follow a link.
fn own(owner: Option<Owner>, at: BorrowedFd<'_>, name: &OsStr) -> Result<(), Errno> {
    let Some(Owner { uid, gid }) = owner else { return Ok(()) };
    let (uid, gid) = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
    fchownat(at, name, uid, gid, AtFlags::AT_SYMLINK_NOFOLLOW)
}

fn look(at: BorrowedFd<'_>, name: &OsStr) -> Result<FileStat, Errno> {
    fstatat(at, name, AtFlags::AT_SYMLINK_NOFOLLOW)
}

fn is_dir(there: &FileStat) -> bool {
    there.st_mode & SFlag::S_IFMT.bits() == SFlag::S_IFDIR.bits()
}
