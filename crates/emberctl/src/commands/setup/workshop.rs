//! The directory in which files are fetched and unpacked, on the data directory's file system,
//! so that what is finished is put in its place by a rename. One `setup` at a time.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use emberd_image::{DataDir, Progress};
use tempfile::TempDir;

/// Its name in the data directory.
const DIR: &str = "downloads";

/// The directory, locked.
#[derive(Debug)]
pub struct Workshop {
    dir: PathBuf,
    /// The lock goes when this is closed, even if the process is killed.
    _lock: File,
}

impl Workshop {
    /// Makes the directory if need be and waits for every other `setup`. Downloads that were
    /// cut off stay, trees of a `setup` that was killed go.
    ///
    /// # Errors
    /// The data directory cannot be written.
    pub fn open(data_dir: &DataDir, progress: &mut dyn Progress) -> anyhow::Result<Self> {
        let dir = data_dir.path().join(DIR);
        Self::try_open(&dir, progress).with_context(|| format!("cannot write {}", dir.display()))
    }

    fn try_open(dir: &Path, progress: &mut dyn Progress) -> io::Result<Self> {
        fs::create_dir_all(dir)?;
        let lock =
            File::options().create(true).write(true).truncate(false).open(dir.join("lock"))?;
        if lock.try_lock().is_err() {
            progress.stage("waiting for another setup to finish");
            lock.lock()?;
        }
        for entry in dir.read_dir()? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                fs::remove_dir_all(entry.path())?;
            }
        }
        Ok(Self { dir: dir.to_owned(), _lock: lock })
    }

    /// Where the file `name` is or will be.
    pub fn file(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// A new empty directory.
    ///
    /// # Errors
    /// The directory cannot be created.
    pub fn tree(&self) -> io::Result<TempDir> {
        tempfile::tempdir_in(&self.dir)
    }
}
