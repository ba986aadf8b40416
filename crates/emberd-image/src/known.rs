//! Files whose content was checked, with what the file system said of each: a daemon that starts
//! again reads none that nothing has changed since.
//!
//! The time of the last change of an inode is trusted, as git does for its index: no program sets
//! it. A file that changed shortly before it was checked is not remembered, because another
//! change in the same tick of the clock would not show.

use std::collections::BTreeMap;
use std::fs::{self, Metadata, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

/// Age of the last change from which a file is remembered. Clocks of file systems tick every few
/// milliseconds, some every two seconds.
const SETTLED: Duration = Duration::from_secs(2);

/// See the module.
pub(crate) struct Known {
    /// Where it is written.
    record: PathBuf,
    stamps: BTreeMap<PathBuf, Stamp>,
    /// Whether there are stamps that are not written.
    is_behind: bool,
}

/// A file as it was when its content was checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Stamp {
    device: u64,
    inode: u64,
    size_bytes: u64,
    /// Seconds since the epoch, and nanoseconds.
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    fn of(metadata: &Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size_bytes: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }

    fn is_settled(&self, now: SystemTime) -> bool {
        let now = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        // Fits for 290 billion years.
        let settled = i64::try_from(now.saturating_sub(SETTLED).as_secs()).unwrap_or_default();
        self.changed.0 < settled
    }
}

impl Known {
    /// Reads what is known: nothing, if `record` cannot be read.
    pub fn read(record: PathBuf) -> Self {
        let json = fs::read(&record).unwrap_or_default();
        let stamps = serde_json::from_slice(&json).unwrap_or_default();
        Self { record, stamps, is_behind: false }
    }

    /// Runs `check`, which reads the file at `path`, unless the file is known.
    pub fn check<E>(
        &mut self,
        path: &Path,
        check: impl FnOnce() -> Result<(), E>,
    ) -> Result<(), E> {
        // Before it is read: a change while it is read shows the next time.
        let stamp = fs::metadata(path).ok().map(|metadata| Stamp::of(&metadata));
        if stamp.is_some() && self.stamps.get(path) == stamp.as_ref() {
            return Ok(());
        }
        check()?;
        if let Some(stamp) = stamp.filter(|stamp| stamp.is_settled(SystemTime::now())) {
            self.stamps.insert(path.to_owned(), stamp);
            self.is_behind = true;
        }
        Ok(())
    }

    /// Writes what is new.
    pub fn save(self) -> io::Result<()> {
        if !self.is_behind {
            return Ok(());
        }
        let json = serde_json::to_vec(&self.stamps).expect("stamps are plain data");
        let readable = Permissions::from_mode(0o644);
        let mut builder = tempfile::Builder::new();
        let dir = self.record.parent().unwrap_or(Path::new("."));
        let new = builder.permissions(readable).tempfile_in(dir)?;
        fs::write(new.path(), json)?;
        new.persist(&self.record)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use tempfile::TempDir;

    use super::*;

    struct Room(TempDir);

    impl Room {
        fn new() -> Self {
            let room = Self(tempfile::tempdir().unwrap());
            fs::write(room.file(), "abc").unwrap();
            room
        }

        fn file(&self) -> PathBuf {
            self.0.path().join("file")
        }

        fn known(&self) -> Known {
            Known::read(self.0.path().join("known.json"))
        }

        /// Remembers the file as it is now, though it is new.
        fn remember(&self) {
            let mut known = self.known();
            let stamp = Stamp::of(&self.file().metadata().unwrap());
            known.stamps.insert(self.file(), stamp);
            known.is_behind = true;
            known.save().unwrap();
        }

        /// Whether the file is read.
        fn is_read(&self) -> bool {
            let mut is_read = false;
            let check = || {
                is_read = true;
                Ok::<_, ()>(())
            };
            self.known().check(&self.file(), check).unwrap();
            is_read
        }
    }

    #[test]
    fn a_known_file_is_read_again_only_after_a_change() {
        let room = Room::new();
        assert!(room.is_read());
        room.remember();
        assert!(!room.is_read());
        let record = room.0.path().join("known.json");
        assert_eq!(record.metadata().unwrap().permissions().mode() & 0o777, 0o644);
        assert_eq!(fs::read_dir(room.0.path()).unwrap().count(), 2);
        // A change after which the content has its old time.
        let modified = room.file().metadata().unwrap().modified().unwrap();
        fs::write(room.file(), "abd").unwrap();
        File::options().write(true).open(room.file()).unwrap().set_modified(modified).unwrap();
        assert!(room.is_read());
        // Another file of that name.
        room.remember();
        assert!(!room.is_read());
        let other = room.0.path().join("other");
        fs::write(&other, "abd").unwrap();
        fs::rename(other, room.file()).unwrap();
        assert!(room.is_read());
        room.remember();
        fs::remove_file(room.file()).unwrap();
        assert!(room.is_read());
    }

    #[test]
    fn only_a_whole_file_that_rests_is_remembered() {
        let room = Room::new();
        let mut known = room.known();
        known.check(&room.file(), || Ok::<_, ()>(())).unwrap();
        assert!(known.stamps.is_empty());
        known.save().unwrap();
        assert!(!room.0.path().join("known.json").exists());
        let old = Path::new("/proc/self/exe").canonicalize().unwrap();
        let mut known = room.known();
        known.check(&old, || Err(())).unwrap_err();
        assert!(known.stamps.is_empty());
        let stamp = Stamp { changed: (100, 0), ..Stamp::of(&old.metadata().unwrap()) };
        let settled_at =
            |secs| stamp.is_settled(SystemTime::UNIX_EPOCH + Duration::from_secs(secs));
        assert_eq!([0, 100, 102, 103].map(settled_at), [false, false, false, true]);
    }

    #[test]
    fn garbage_is_nothing() {
        let room = Room::new();
        for garbage in ["", "{", "[]", r#"{"/file": 1}"#] {
            fs::write(room.0.path().join("known.json"), garbage).unwrap();
            assert!(room.is_read());
        }
    }
}
