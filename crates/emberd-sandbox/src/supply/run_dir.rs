//! The directory of per-sandbox state: private, and locked by one daemon at a time.

use std::fs::{self, DirBuilder, File, TryLockError};
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use crate::error::{OpenError, RUN_DIR_BYTES_MAX};
use crate::id::NodeKey;

/// Permission bits that other users must not have on a directory of the daemon.
const MODE_OTHERS: u32 = 0o022;

/// Whether `path` is a directory, not a link to one, that only this user can write to.
pub(crate) fn is_own(path: &Path) -> io::Result<bool> {
    let metadata = fs::symlink_metadata(path)?;
    let owned = metadata.uid() == rustix::process::geteuid().as_raw();
    Ok(metadata.is_dir() && owned && metadata.mode() & MODE_OTHERS == 0)
}

/// A run directory that belongs to this process until dropped.
#[derive(Debug)]
pub(crate) struct RunDir {
    path: PathBuf,
    /// The open directory itself is locked: no lock file is left behind, and the lock goes
    /// with the process however it ends.
    _lock: File,
}

impl RunDir {
    /// Creates `path` (mode 0700) where it does not exist, and locks it.
    /// Ids with `node_key` leave that much less room for its path.
    pub fn open(path: &Path, node_key: NodeKey) -> Result<Self, OpenError> {
        let bytes = path.as_os_str().as_bytes().len();
        let bytes_max = RUN_DIR_BYTES_MAX - node_key.as_str().len();
        if bytes > bytes_max {
            return Err(OpenError::RunDirTooLong { run_dir: path.to_owned(), bytes, bytes_max });
        }
        let failed = |source| OpenError::RunDir { run_dir: path.to_owned(), source };
        DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(failed)?;
        if !is_own(path).map_err(failed)? {
            return Err(OpenError::RunDirShared { run_dir: path.to_owned() });
        }
        let lock = File::open(path).map_err(failed)?;
        match lock.try_lock() {
            Ok(()) => Ok(Self { path: path.to_owned(), _lock: lock }),
            Err(TryLockError::WouldBlock) => {
                Err(OpenError::RunDirInUse { run_dir: path.to_owned() })
            }
            Err(TryLockError::Error(source)) => Err(failed(source)),
        }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    #[test]
    fn directory_is_private_and_empty() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("a/run");
        let _run_dir = RunDir::open(&path, NodeKey::default()).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o700);
        assert_eq!(fs::read_dir(&path).unwrap().count(), 0);
    }

    #[test]
    fn second_daemon_is_refused_until_the_first_is_gone() {
        let temp = tempfile::tempdir().unwrap();
        let first = RunDir::open(temp.path(), NodeKey::default()).unwrap();
        assert!(matches!(
            RunDir::open(temp.path(), NodeKey::default()),
            Err(OpenError::RunDirInUse { .. })
        ));
        drop(first);
        RunDir::open(temp.path(), NodeKey::default()).unwrap();
    }

    #[test]
    fn directories_others_control_are_refused() {
        let temp = tempfile::tempdir().unwrap();
        let link = temp.path().join("link");
        let open = temp.path().join("open");
        fs::create_dir(&open).unwrap();
        fs::set_permissions(&open, fs::Permissions::from_mode(0o777)).unwrap();
        symlink(temp.path(), &link).unwrap();
        for path in [link, open] {
            assert!(matches!(
                RunDir::open(&path, NodeKey::default()),
                Err(OpenError::RunDirShared { .. })
            ));
        }
    }

    #[test]
    fn path_too_long_for_sockets_is_refused() {
        let path = format!("/nonexistent/{}", "x".repeat(RUN_DIR_BYTES_MAX));
        let path = Path::new(&path);
        let refused = RunDir::open(path, NodeKey::default());
        assert!(matches!(refused, Err(OpenError::RunDirTooLong { .. })));
        // An id with a key is longer, and leaves less.
        let path = format!("/nonexistent/{}", "x".repeat(RUN_DIR_BYTES_MAX - 13 - 3));
        let refused = RunDir::open(path.as_ref(), "eu12".parse().unwrap());
        assert!(matches!(refused, Err(OpenError::RunDirTooLong { bytes_max: 66, .. })));
    }
}
