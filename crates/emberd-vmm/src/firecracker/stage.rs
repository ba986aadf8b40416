//! Puts a microVM's files where its VMM finds them, under the same names in every VM.
//!
//! A VMM that is not jailed follows a symbolic link. In a jail the file itself must be
//! there; each way below costs more than the one before:
//!
//! 1. hard link: shares the page cache, but only within one file system;
//! 2. read-only bind mount: shares it too, but adds a mount, and every jail copies them all;
//! 3. copy, for the VM's own user: shares nothing; needed also for a file others may not read.

use std::fs::{File, Permissions};
use std::io;
use std::os::unix::fs::{PermissionsExt as _, chown, symlink};
use std::path::Path;

use rustix::mount::{MountFlags, mount_bind, mount_remount};

use crate::BootError;

/// A file and its name in the VMM's directory.
pub(super) type Staged<'a> = (&'a Path, &'a Path);

/// Links `files` into `root` for a VMM that may follow them.
pub(super) fn link(root: &Path, files: &[Staged]) -> Result<(), BootError> {
    for (file, name) in files {
        let staged = root.join(name);
        std::path::absolute(file)
            .and_then(|file| symlink(file, &staged))
            .map_err(|source| BootError::Prepare { path: staged, source })?;
    }
    Ok(())
}

/// Puts `files` into the jail `root`, for `uid` to read.
pub(super) fn jail(root: &Path, files: &[Staged], uid: u32) -> Result<(), BootError> {
    for (file, name) in files {
        let staged = root.join(name);
        place(file, &staged, uid).map_err(|source| BootError::Prepare { path: staged, source })?;
    }
    Ok(())
}

fn place(file: &Path, staged: &Path, uid: u32) -> io::Result<()> {
    let file = file.canonicalize()?;
    let readable_by_others = file.metadata()?.permissions().mode() & 0o004 != 0;
    if readable_by_others {
        let Err(no_link) = std::fs::hard_link(&file, staged) else { return Ok(()) };
        let Err(no_mount) = bind(&file, staged) else { return Ok(()) };
        tracing::warn!(%no_link, %no_mount, file = %file.display(), "file copied into a jail");
    }
    std::fs::copy(&file, staged)?;
    std::fs::set_permissions(staged, Permissions::from_mode(0o400))?;
    chown(staged, Some(uid), Some(uid))
}

fn bind(file: &Path, staged: &Path) -> io::Result<()> {
    File::create_new(staged)?;
    mount_bind(file, staged)?;
    let read_only = MountFlags::BIND | MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV;
    Ok(mount_remount(staged, read_only, c"")?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt as _;

    #[test]
    fn links_lead_to_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("image");
        std::fs::write(&file, "x").unwrap();
        link(dir.path(), &[(&file, Path::new("rootfs.img"))]).unwrap();
        assert_eq!(std::fs::read(dir.path().join("rootfs.img")).unwrap(), b"x");
    }

    #[test]
    fn a_jail_gets_the_very_file_unless_others_may_not_read_it() {
        let dir = tempfile::tempdir().unwrap();
        let uid = rustix::process::geteuid().as_raw();
        let file = dir.path().join("image");
        std::fs::write(&file, "x").unwrap();
        let names = [Path::new("open"), Path::new("secret")];
        for (mode, name) in [0o644, 0o600].into_iter().zip(names) {
            std::fs::set_permissions(&file, Permissions::from_mode(mode)).unwrap();
            jail(dir.path(), &[(&file, name)], uid).unwrap();
        }
        let inode = |name: &str| dir.path().join(name).metadata().unwrap().ino();
        assert_eq!(inode("open"), inode("image"));
        assert_ne!(inode("secret"), inode("image"));
        assert_eq!(dir.path().join("secret").metadata().unwrap().mode() & 0o777, 0o400);
    }
}
