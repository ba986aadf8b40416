//! State of files by which a change is noticed, and records of what was found out about them, so
//! that a daemon that starts again need not find it out again.
//!
//! The time of the last change of an inode is trusted, as git does for its index: no program sets
//! it. A file that changed a moment ago is not settled, because another change in the same tick of
//! the clock would not show.

use std::fs::{self, File, Metadata, Permissions};
use std::io::{self, Read as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;
use std::time::{Duration, SystemTime};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// Age of the last change from which a file is settled. Clocks of file systems tick every few
/// milliseconds, some every two seconds.
const SETTLED: Duration = Duration::from_secs(2);

/// Longest record that is read, in bytes (1 MiB): that of some thousand files.
const RECORD_BYTES_MAX: u64 = 1 << 20;

/// Mode of a record: it has no secrets.
const RECORD_MODE: u32 = 0o644;

/// State of a file. Two that are equal are those of one content, if the first one was settled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stamp {
    device: u64,
    inode: u64,
    size_bytes: u64,
    /// Seconds since the epoch, and nanoseconds.
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    /// Takes the state from what the file system says.
    pub fn of(metadata: &Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size_bytes: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }

    /// Returns whether every change after `now` shows.
    pub fn is_settled(&self, now: SystemTime) -> bool {
        let now = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        // Fits for 290 billion years.
        let settled = i64::try_from(now.saturating_sub(SETTLED).as_secs()).unwrap_or_default();
        self.changed.0 < settled
    }
}

/// Reads the record at `path`, in JSON; none if it is missing, malformed or longer than 1 MiB.
pub fn read_record<T: DeserializeOwned>(path: &Path) -> Option<T> {
    let mut json = Vec::new();
    File::open(path).ok()?.take(RECORD_BYTES_MAX + 1).read_to_end(&mut json).ok()?;
    (json.len() as u64 <= RECORD_BYTES_MAX).then(|| serde_json::from_slice(&json).ok())?
}

/// Writes the record at `path`, whole or not at all.
///
/// # Errors
/// Of the file system.
pub fn write_record(path: &Path, record: &impl Serialize) -> io::Result<()> {
    let json = serde_json::to_vec(record)?;
    let readable = Permissions::from_mode(RECORD_MODE);
    let dir = path.parent().unwrap_or(Path::new("."));
    let new = tempfile::Builder::new().permissions(readable).tempfile_in(dir)?;
    fs::write(new.path(), json)?;
    new.persist(path)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_shows_although_the_time_of_the_content_is_the_old_one() {
        let dir = tempfile::tempdir().unwrap();
        let (file, other) = (dir.path().join("file"), dir.path().join("other"));
        let stamp = || Stamp::of(&file.metadata().unwrap());
        fs::write(&file, "abc").unwrap();
        let before = stamp();
        assert_eq!(stamp(), before);
        let modified = file.metadata().unwrap().modified().unwrap();
        fs::write(&file, "abd").unwrap();
        File::options().write(true).open(&file).unwrap().set_modified(modified).unwrap();
        let changed = stamp();
        assert_eq!((changed.modified, changed.size_bytes), (before.modified, before.size_bytes));
        assert_ne!(changed, before);
        // Another file of that name.
        fs::write(&other, "abd").unwrap();
        fs::rename(other, &file).unwrap();
        assert_ne!(stamp(), changed);
    }

    #[test]
    fn a_file_settles_once_its_clock_has_surely_ticked() {
        let stamp = Stamp::of(&fs::metadata("/proc/self/exe").unwrap());
        let stamp = Stamp { changed: (100, 0), ..stamp };
        let settled_at =
            |secs| stamp.is_settled(SystemTime::UNIX_EPOCH + Duration::from_secs(secs));
        assert_eq!([0, 100, 102, 103].map(settled_at), [false, false, false, true]);
    }

    #[test]
    fn a_record_comes_back_and_anything_else_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("record.json");
        assert_eq!(read_record::<Stamp>(&path), None);
        let stamp = Stamp::of(&dir.path().metadata().unwrap());
        for _ in 0..2 {
            write_record(&path, &stamp).unwrap();
            assert_eq!(read_record(&path), Some(stamp));
        }
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, RECORD_MODE);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        let spaces = usize::try_from(RECORD_BYTES_MAX).unwrap() - 1;
        let long = "1".to_owned() + &" ".repeat(spaces);
        for garbage in ["", "{", "[]", "\"1\""] {
            fs::write(&path, garbage).unwrap();
            assert_eq!(read_record::<u64>(&path), None, "{garbage}");
        }
        fs::write(&path, &long).unwrap();
        assert_eq!(read_record(&path), Some(1));
        fs::write(&path, long + " ").unwrap();
        assert_eq!(read_record::<u64>(&path), None);
        let nowhere = dir.path().join("nowhere/record.json");
        assert_eq!(write_record(&nowhere, &1).unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
