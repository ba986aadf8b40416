//! Attributes of a file, as sent to the host.

use std::collections::HashMap;
use std::fs::{self, File, FileType as StdFileType, Metadata};
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use emberd_proto::{FileEntry, FileType, GuestPath};

use super::errors::FileError;
use super::place::Place;

/// Maximum number of bytes read from a passwd or group file (1 MiB).
const NAMES_BYTES_MAX: u64 = 1 << 20;

/// Names of users and groups by number.
#[derive(Debug)]
pub struct Names {
    users: HashMap<u32, String>,
    groups: HashMap<u32, String>,
}

impl Names {
    /// Reads the current names.
    pub fn read() -> Self {
        Self { users: names("/etc/passwd", None), groups: names("/etc/group", None) }
    }

    /// Reads the current names of the owner and the group of one file.
    fn of(metadata: &Metadata) -> Self {
        let users = names("/etc/passwd", Some(metadata.uid()));
        Self { users, groups: names("/etc/group", Some(metadata.gid())) }
    }

    /// Returns the attributes of `path`, whose `metadata` was read.
    pub fn entry(&self, path: &Path, metadata: &Metadata) -> FileEntry {
        let file_type = file_type(metadata.file_type());
        let is_link = file_type == FileType::Symlink;
        let target = is_link.then(|| fs::read_link(path).ok()).flatten();
        let led_to = is_link.then(|| fs::metadata(path).ok()).flatten();
        FileEntry {
            path: GuestPath(path.into()),
            file_type,
            size: metadata.size(),
            mode: metadata.mode() & 0o7777,
            uid: metadata.uid(),
            gid: metadata.gid(),
            owner: self.users.get(&metadata.uid()).cloned(),
            group: self.groups.get(&metadata.gid()).cloned(),
            modified_ms: metadata
                .mtime()
                .saturating_mul(1000)
                .saturating_add(metadata.mtime_nsec() / 1_000_000),
            target: target.map(GuestPath),
            target_type: led_to.map(|metadata| self::file_type(metadata.file_type())),
        }
    }
}

/// Returns the names in a passwd or group file by number: all, or that of `wanted` alone.
fn names(path: &str, wanted: Option<u32>) -> HashMap<u32, String> {
    let text = read_start(Path::new(path)).unwrap_or_default();
    let accounts = text.lines().rev().filter_map(account);
    let of_interest = accounts.filter(|(number, _)| wanted.is_none_or(|wanted| *number == wanted));
    // If several lines have the same number, the first is used, as in getpwuid(3).
    of_interest.map(|(number, name)| (number, name.to_owned())).collect()
}

/// Reads a passwd or group file, up to its size limit.
fn read_start(path: &Path) -> io::Result<String> {
    let mut bytes = Vec::new();
    File::open(path)?.take(NAMES_BYTES_MAX).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Parses number and name of a line of passwd(5) or group(5).
fn account(line: &str) -> Option<(u32, &str)> {
    let mut fields = line.split(':');
    let name = fields.next()?;
    Some((fields.nth(1)?.parse().ok()?, name))
}

fn file_type(file_type: StdFileType) -> FileType {
    match file_type {
        kind if kind.is_file() => FileType::File,
        kind if kind.is_dir() => FileType::Directory,
        kind if kind.is_symlink() => FileType::Symlink,
        _ => FileType::Other,
    }
}

/// Returns the type of the file that a path resolves to.
pub fn stat(place: &Place, path: &GuestPath) -> Result<FileEntry, FileError> {
    stat_at(&place.resolve(path)?)
}

/// Returns the attributes of an absolute path.
pub fn stat_at(path: &Path) -> Result<FileEntry, FileError> {
    let metadata = fs::symlink_metadata(path).map_err(FileError::system("look at", path))?;
    Ok(Names::of(&metadata).entry(path, &metadata))
}

/// Returns the maximum size of `entry` as JSON, in bytes, which keeps frames small for any names.
pub fn json_bytes_max(entry: &FileEntry) -> usize {
    let texts = [&entry.owner, &entry.group].into_iter().flatten().map(String::len);
    let paths = [Some(&entry.path), entry.target.as_ref()].into_iter().flatten();
    let paths = paths.map(|path| path.as_path().as_os_str().len());
    // JSON encodes a control character as six bytes; the rest of an entry takes less than 300.
    300 + 6 * texts.chain(paths).sum::<usize>()
}
