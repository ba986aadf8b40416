//! Files whose content was checked, with what the file system said of each: a daemon that starts
//! again reads none that nothing has changed since.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use emberd_stamp::{Stamp, read_record, write_record};

/// See the module.
pub(crate) struct Known {
    /// Where it is written.
    record: PathBuf,
    /// The files as they were when their content was checked.
    stamps: BTreeMap<PathBuf, Stamp>,
    /// Whether there are stamps that are not written.
    is_behind: bool,
}

impl Known {
    /// Reads what is known: nothing, if `record` cannot be read.
    pub fn read(record: PathBuf) -> Self {
        let stamps = read_record(&record).unwrap_or_default();
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
        write_record(&self.record, &self.stamps)
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
        known.check(&old, || Ok::<_, ()>(())).unwrap();
        assert_eq!(known.stamps.len(), 1);
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
