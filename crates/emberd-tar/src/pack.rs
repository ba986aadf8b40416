//! Packs a directory as an archive, sorted. A file with several names is packed once.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, Write};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;

use crate::error::TarError;
use crate::{Entry, Kind, Time, Writer};

/// Maximum number of files with several names that are remembered (1,048,576). Further ones are
/// packed once for each name.
const LINKED_MAX: usize = 1 << 20;

/// Options for packing.
#[derive(Debug, Clone, Copy)]
pub struct PackOptions {
    /// Maximum depth of directories; deeper ones are refused. No limit by default.
    pub depth_max: Option<u32>,
    /// Whether to include FIFOs.
    pub fifos: bool,
    /// Whether the directory itself is the first entry, `./`.
    pub itself: bool,
    /// Names to skip.
    pub left_out: fn(&OsStr) -> bool,
}

/// Writes the contents of `directory` to `to`, and the archive's end. Skips sockets, devices, and
/// files that were removed meanwhile.
///
/// # Errors
/// If something cannot be read, `to` fails, or directories are nested too deep.
pub fn pack_directory<W: Write>(
    directory: &Path,
    options: PackOptions,
    to: W,
) -> Result<W, TarError> {
    let mut packing = Packing { writer: Writer::new(to), linked: HashMap::new(), options };
    if options.itself {
        let metadata = fs::metadata(directory).map_err(TarError::file("look at", directory))?;
        packing.writer.append(&entry(Path::new("./"), Kind::Directory, &metadata), io::empty())?;
    }
    let mut left = Vec::new();
    packing.enter(directory, Path::new(""), 0, &mut left)?;
    while let Some((name, depth)) = left.pop() {
        let path = directory.join(&name);
        let packed = match packing.one(&path, &name) {
            Ok(true) => packing.enter(&path, &name, depth, &mut left),
            packed => packed.map(|_| ()),
        };
        match packed {
            // The file was removed in the meantime.
            Err(error) if error.is_absence() => {}
            packed => packed?,
        }
    }
    packing.writer.finish()
}

/// Writes one open file as `name` to `to`, and the archive's end.
///
/// # Errors
/// If it cannot be read, or `to` fails.
pub fn pack_file<W: Write>(
    file: File,
    metadata: &Metadata,
    name: &Path,
    to: W,
) -> Result<W, TarError> {
    let mut writer = Writer::new(to);
    writer.append(&entry(name, Kind::File, metadata), file)?;
    writer.finish()
}

struct Packing<W> {
    writer: Writer<W>,
    /// The first names of files with several names.
    linked: HashMap<(u64, u64), PathBuf>,
    options: PackOptions,
}

impl<W: Write> Packing<W> {
    /// Adds the contents of the directory `path` to the remaining work, so that the first name
    /// comes next.
    fn enter(
        &self,
        path: &Path,
        name: &Path,
        depth: u32,
        left: &mut Vec<(PathBuf, u32)>,
    ) -> Result<(), TarError> {
        if self.options.depth_max.is_some_and(|most| depth >= most) {
            return Err(TarError::Invalid("the directory is nested too deep to be packed"));
        }
        let failed = |error: io::Error| TarError::file("pack", path)(error);
        let entries = fs::read_dir(path).map_err(failed)?;
        let names = entries.map(|entry| Ok(entry?.file_name())).collect::<io::Result<Vec<_>>>();
        let mut names = names.map_err(failed)?;
        names.retain(|name| !(self.options.left_out)(name));
        names.sort_unstable();
        left.extend(names.into_iter().rev().map(|last| (name.join(last), depth + 1)));
        Ok(())
    }

    /// Packs `path` as `name`; returns whether it is a directory.
    fn one(&mut self, path: &Path, name: &Path) -> Result<bool, TarError> {
        let failed = |error: io::Error| TarError::file("pack", path)(error);
        let metadata = fs::symlink_metadata(path).map_err(failed)?;
        let file_type = metadata.file_type();
        if file_type.is_dir() {
            self.writer.append(&entry(name, Kind::Directory, &metadata), io::empty())?;
            return Ok(true);
        }
        let mut key = (metadata.dev(), metadata.ino());
        if let Some(first) = self.linked.get(&key) {
            let kind = Kind::HardLink(first.as_os_str().as_bytes().to_vec());
            self.writer.append(&entry(name, kind, &metadata), io::empty())?;
            return Ok(false);
        }
        if file_type.is_symlink() {
            let to = fs::read_link(path).map_err(failed)?.into_os_string().into_vec();
            self.writer.append(&entry(name, Kind::Symlink(to), &metadata), io::empty())?;
        } else if file_type.is_file() {
            let flags = OFlag::O_NONBLOCK | OFlag::O_NOCTTY | OFlag::O_NOFOLLOW;
            let opened = OpenOptions::new().read(true).custom_flags(flags.bits()).open(path);
            let file = opened.map_err(failed)?;
            let now = file.metadata().map_err(failed)?;
            // The file may have changed its type in the meantime.
            if !now.is_file() {
                return Ok(false);
            }
            self.writer.append(&entry(name, Kind::File, &now), file)?;
            key = (now.dev(), now.ino());
        } else if file_type.is_fifo() && self.options.fifos {
            self.writer.append(&entry(name, Kind::Fifo, &metadata), io::empty())?;
        } else {
            return Ok(false);
        }
        if metadata.nlink() > 1 && self.linked.len() < LINKED_MAX {
            self.linked.insert(key, name.to_owned());
        }
        Ok(false)
    }
}

fn entry(name: &Path, kind: Kind, metadata: &Metadata) -> Entry {
    let mut bytes = name.as_os_str().as_bytes().to_vec();
    if kind == Kind::Directory && !bytes.ends_with(b"/") {
        bytes.push(b'/');
    }
    let size = if kind == Kind::File { metadata.len() } else { 0 };
    Entry {
        name: bytes,
        kind,
        mode: metadata.mode() & 0o7777,
        uid: metadata.uid().into(),
        gid: metadata.gid().into(),
        modified: Time {
            seconds: metadata.mtime(),
            nanos: u32::try_from(metadata.mtime_nsec()).unwrap_or(0),
        },
        size,
        segments: None,
    }
}
