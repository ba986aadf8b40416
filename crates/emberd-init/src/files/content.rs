//! Reads the content of files in pieces, and writes files atomically.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Read, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _, fchown};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use emberd_proto::frame::BULK_BYTES_MAX;
use emberd_proto::{FileEntry, GuestMessage, GuestPath};
use nix::libc::{O_NOCTTY, O_NONBLOCK};

use super::entry::{Names, stat_at};
use super::errors::FileError;
use super::place::{Owner, Place, follow};
use super::stream::{Sink, Source};

/// Default mode of a new file.
const FILE_MODE: u32 = 0o644;

/// Prefix of the names of files that are being written.
const UNFINISHED_PREFIX: &str = ".emberd-unfinished-";

/// Largest file that is read before its size is sent (64 KiB). Files in `/sys` report a larger
/// size than they have.
const READ_AHEAD_BYTES_MAX: u64 = BULK_BYTES_MAX as u64;

/// Maximum number of bytes read from a file of size 0, as in `/proc` (1 MiB).
const UNSIZED_BYTES_MAX: u64 = 1 << 20;

/// Returns whether `name` is that of a file that is being written.
pub fn is_unfinished(name: &std::ffi::OsStr) -> bool {
    name.as_encoded_bytes().starts_with(UNFINISHED_PREFIX.as_bytes())
}

/// Opens the regular file that `path` refers to. Does not wait for a FIFO without a writer or
/// similar files.
pub fn open(path: &Path) -> Result<(File, fs::Metadata), FileError> {
    let flags = O_NONBLOCK | O_NOCTTY;
    let opened = OpenOptions::new().read(true).custom_flags(flags).open(path);
    let file = opened.map_err(FileError::system("open", path))?;
    let metadata = file.metadata().map_err(FileError::system("look at", path))?;
    if metadata.is_dir() {
        return Err(FileError::wrong_type(path, "a directory"));
    }
    if !metadata.is_file() {
        return Err(FileError::wrong_type(path, "no regular file"));
    }
    Ok((file, metadata))
}

/// Sends the attributes of the file, and `length` bytes of it from `offset` on.
pub fn read(
    place: &Place,
    path: &GuestPath,
    offset: u64,
    length: Option<u64>,
    sink: &Sink,
) -> Result<(), FileError> {
    let path = place.resolve_file(path)?;
    let (mut file, metadata) = open(&path)?;
    let mut entry = Names::read().entry(&path, &metadata);
    let failed = |error: io::Error| FileError::system("read", &path)(error);
    if entry.size <= READ_AHEAD_BYTES_MAX {
        let mut content = Vec::new();
        let most = if entry.size == 0 { UNSIZED_BYTES_MAX } else { entry.size };
        (&file).take(most).read_to_end(&mut content).map_err(failed)?;
        entry.size = content.len() as u64;
        sink.send(GuestMessage::File(entry))?;
        let from = content.len().min(usize::try_from(offset).unwrap_or(usize::MAX));
        let length = length.unwrap_or(u64::MAX);
        return send(&mut content[from..].take(length), sink).map_err(failed)?;
    }
    let rest = entry.size.saturating_sub(offset);
    sink.send(GuestMessage::File(entry))?;
    file.seek(SeekFrom::Start(offset.min(metadata.len()))).map_err(failed)?;
    // Sends no more than announced, even if the file grows.
    send(&mut file.take(rest.min(length.unwrap_or(u64::MAX))), sink).map_err(failed)?
}

/// Sends all content of `from`; the outer result is that of reading.
fn send(from: &mut impl Read, sink: &Sink) -> io::Result<Result<(), FileError>> {
    loop {
        let mut piece = Vec::with_capacity(BULK_BYTES_MAX);
        from.by_ref().take(BULK_BYTES_MAX as u64).read_to_end(&mut piece)?;
        if piece.is_empty() {
            return Ok(Ok(()));
        }
        if let Err(left) = sink.data(Bytes::from(piece)) {
            return Ok(Err(left));
        }
    }
}

/// Creates or replaces a file with the content of `source`.
pub fn write(
    place: &Place,
    path: &GuestPath,
    mode: Option<u32>,
    source: &mut Source,
) -> Result<FileEntry, FileError> {
    let asked = place.resolve_file(path)?;
    let path = follow(asked.clone())?;
    let before = match fs::symlink_metadata(&path) {
        Ok(metadata) if metadata.is_file() => Some(metadata),
        Ok(metadata) if metadata.is_dir() => {
            return Err(FileError::wrong_type(&path, "a directory"));
        }
        Ok(_) => return Err(FileError::wrong_type(&path, "no regular file")),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(FileError::system("look at", &path)(error)),
    };
    if mode.is_some_and(|mode| mode > 0o7777) {
        return Err(FileError::Invalid("a mode is larger than 0o7777"));
    }
    place.make_parents(&path)?;
    let mut unfinished = Unfinished::beside(&path)?;
    while let Some(piece) = source.next()? {
        unfinished.file.write_all(&piece).map_err(FileError::system("write", &path))?;
    }
    let owner = place.owner.or(before.as_ref().map(Owner::of));
    let mode = mode.or(before.map(|before| before.permissions().mode() & 0o7777));
    unfinished.become_file(&path, owner, mode.unwrap_or(FILE_MODE))?;
    let entry = stat_at(&path)?;
    Ok(FileEntry { path: GuestPath(asked), ..entry })
}

/// A file that has not been moved to its path yet; removed if dropped before.
struct Unfinished {
    file: File,
    path: PathBuf,
    placed: bool,
}

impl Unfinished {
    fn beside(path: &Path) -> Result<Self, FileError> {
        let at = unfinished_path(path);
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&at);
        let file = file.map_err(FileError::system("make a file beside", path))?;
        Ok(Self { file, path: at, placed: false })
    }

    fn become_file(
        mut self,
        path: &Path,
        owner: Option<Owner>,
        mode: u32,
    ) -> Result<(), FileError> {
        if let Some(owner) = owner {
            fchown(&self.file, Some(owner.uid), Some(owner.gid))
                .map_err(FileError::system("change the owner of", path))?;
        }
        self.file
            .set_permissions(Permissions::from_mode(mode))
            .map_err(FileError::system("change the mode of", path))?;
        fs::rename(&self.path, path).map_err(FileError::system("replace", path))?;
        self.placed = true;
        Ok(())
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        if !self.placed {
            // Another process may have removed the file already.
            fs::remove_file(&self.path).ok();
        }
    }
}

/// Returns an unused name in the directory of `path`.
pub fn unfinished_path(path: &Path) -> PathBuf {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    loop {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let at = path.with_file_name(format!("{UNFINISHED_PREFIX}{number}"));
        if fs::symlink_metadata(&at).is_err() {
            return at;
        }
    }
}
