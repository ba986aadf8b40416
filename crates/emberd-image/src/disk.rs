//! The empty disk that guests begin with: ext4 in a sparse file.

use std::fs::{DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use crate::command::{Tool, ToolError};

/// Bytes of the disk for each of its inodes (8 KiB). Packages of JavaScript are many small files.
const BYTES_PER_INODE: &str = "8192";

/// Why the empty disk cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    /// A file or directory cannot be made.
    #[error("cannot make {}", path.display())]
    Make {
        /// The file or directory.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The file system cannot be made.
    #[error(transparent)]
    Format(#[from] ToolError),
}

/// Returns the empty disk of `size_mib` in `dir`, which is made if missing. Blocks for some tens of
/// milliseconds the first time.
///
/// The file system has no journal: a disk does not outlive its guest. It takes some 300 KiB of
/// the host's disk.
///
/// # Errors
/// [`DiskError`].
pub fn empty_disk(dir: &Path, size_mib: u32) -> Result<PathBuf, DiskError> {
    let make = |path: &Path| {
        let path = path.to_owned();
        move |source| DiskError::Make { path, source }
    };
    DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(make(dir))?;
    let path = dir.join(format!("empty-{size_mib}.ext4"));
    if path.exists() {
        return Ok(path);
    }
    // Several daemons may share the directory.
    let draft = dir.join(format!("empty-{size_mib}.{}", std::process::id()));
    let file = File::create(&draft).map_err(make(&draft))?;
    let formatted = file
        .set_len(u64::from(size_mib) << 20)
        .map_err(|source| DiskError::Make { path: draft.clone(), source })
        .and_then(|()| format(&draft))
        .and_then(|()| std::fs::rename(&draft, &path).map_err(make(&path)));
    if formatted.is_err() {
        std::fs::remove_file(&draft).ok();
    }
    formatted.map(|()| path)
}

fn format(path: &Path) -> Result<(), DiskError> {
    let tool = Tool::new("mke2fs", "e2fsprogs").with(|command| {
        let options = ["-q", "-F", "-t", "ext4", "-O", "^has_journal", "-m", "0"];
        // As of large ones also where it is small: it may grow.
        let layout = ["-b", "4096", "-I", "256"];
        let inodes = ["-i", BYTES_PER_INODE, "-E", "root_owner=0:0,nodiscard"];
        command.args(options).args(layout).args(inodes).arg(path)
    });
    tool.output()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;

    use super::*;

    #[test]
    fn an_empty_disk_is_made_once_and_takes_little() {
        let parent = tempfile::tempdir().unwrap();
        let dir = parent.path().join("disks");
        let made = empty_disk(&dir, 256);
        let installed = !matches!(made, Err(DiskError::Format(ToolError::NotInstalled { .. })));
        if !emberd_testing::needs(installed, "no mke2fs on this machine") {
            return;
        }
        let path = made.unwrap();
        let metadata = path.metadata().unwrap();
        assert_eq!(metadata.len(), 256 << 20);
        assert!(metadata.blocks() * 512 < 4 << 20, "{} blocks", metadata.blocks());
        assert_eq!(empty_disk(&dir, 256).unwrap(), path);
        assert_eq!(path.metadata().unwrap().ino(), metadata.ino());
        let checked =
            Tool::new("e2fsck", "e2fsprogs").with(|command| command.arg("-fn").arg(&path));
        checked.output().unwrap();
        assert_eq!(std::fs::read_dir(&dir).unwrap().count(), 1);
    }

    #[test]
    fn a_disk_that_cannot_be_made_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        assert!(empty_disk(dir.path(), 0).is_err());
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
        let file = dir.path().join("file");
        std::fs::write(&file, "").unwrap();
        assert!(matches!(empty_disk(&file, 256), Err(DiskError::Make { .. })));
    }
}
