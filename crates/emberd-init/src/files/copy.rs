//! Copies a file, or a directory with its contents, to another file system.
//!
//! The kernel renames within one file system only. A guest has several (`/run`, `/dev/shm`). In
//! an overlay, a directory of the root image cannot be renamed either.

use std::fs::{self, DirBuilder, FileTimes, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{
    DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _, symlink,
};
use std::path::Path;

use emberd_proto::file::DEPTH_MAX;
use nix::libc::O_NOFOLLOW;

use super::content::{open, unfinished_path};
use super::errors::FileError;
use super::place::Owner;

/// Copies `from` with its owner, mode and time to `to`, which it replaces if that is a file. On
/// an error, nothing has changed.
pub fn copy(from: &Path, to: &Path) -> Result<(), FileError> {
    let at = unfinished_path(to);
    let placed = copy_tree(from, &at, DEPTH_MAX)
        .and_then(|()| fs::rename(&at, to).map_err(FileError::system("move to", to)));
    if placed.is_err() {
        // A failure to remove the copy is not reported beside the original error.
        fs::remove_dir_all(&at).or_else(|_| fs::remove_file(&at)).ok();
    }
    placed
}

fn copy_tree(from: &Path, to: &Path, depth: u32) -> Result<(), FileError> {
    let metadata = fs::symlink_metadata(from).map_err(FileError::system("copy", from))?;
    let failed = |error: io::Error| FileError::system("copy", from)(error);
    let owner = Owner::of(&metadata);
    if metadata.is_symlink() {
        fs::read_link(from).and_then(|target| symlink(target, to)).map_err(failed)?;
        return owner.own(to).map_err(failed);
    }
    if metadata.is_dir() {
        if depth == 0 {
            return Err(FileError::Invalid("the directory is nested too deep to be copied"));
        }
        DirBuilder::new().mode(0o700).create(to).map_err(failed)?;
        for entry in fs::read_dir(from).map_err(failed)? {
            let name = entry.map_err(failed)?.file_name();
            copy_tree(&from.join(&name), &to.join(&name), depth - 1)?;
        }
    } else if metadata.is_file() {
        let (mut file, _) = open(from)?;
        let copied = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(to)
            .and_then(|mut copy| io::copy(&mut file, &mut copy));
        copied.map_err(failed)?;
    } else {
        return Err(FileError::wrong_type(from, "special, and stays on its file system"));
    }
    owner.own(to).map_err(failed)?;
    let mode = Permissions::from_mode(metadata.mode() & 0o7777);
    fs::set_permissions(to, mode).map_err(failed)?;
    let modified = FileTimes::new().set_modified(metadata.modified().map_err(failed)?);
    let opened = OpenOptions::new().read(true).custom_flags(O_NOFOLLOW).open(to);
    opened.and_then(|copy| copy.set_times(modified)).map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copy_is_like_the_original() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::create_dir_all(at("a/b")).unwrap();
        fs::write(at("a/b/file"), "content").unwrap();
        fs::set_permissions(at("a/b/file"), Permissions::from_mode(0o4711)).unwrap();
        symlink("/nowhere", at("a/link")).unwrap();
        copy(&at("a"), &at("c")).unwrap();
        let original = fs::metadata(at("a/b/file")).unwrap();
        let copied = fs::metadata(at("c/b/file")).unwrap();
        assert_eq!(fs::read(at("c/b/file")).unwrap(), b"content");
        assert_eq!(copied.mode(), original.mode());
        assert_eq!(copied.modified().unwrap(), original.modified().unwrap());
        assert_eq!(fs::read_link(at("c/link")).unwrap(), Path::new("/nowhere"));
    }

    #[test]
    fn what_cannot_be_copied_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::create_dir(at("a")).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(at("a/socket")).unwrap();
        let refused = copy(&at("a"), &at("c"));
        assert!(matches!(refused, Err(FileError::WrongType { .. })), "{refused:?}");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
