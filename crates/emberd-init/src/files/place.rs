//! Resolves relative paths, and determines the owner of new files.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, lchown};
use std::path::{Path, PathBuf};

use emberd_proto::GuestPath;

use super::errors::FileError;
use crate::users;

/// Default mode of a new directory.
pub const DIR_MODE: u32 = 0o755;

/// Maximum number of symbolic links followed in a row, as in the kernel.
const LINKS_MAX: usize = 40;

/// The home directory and owner for one request.
#[derive(Debug)]
pub struct Place {
    home: PathBuf,
    /// Owner of new files; absent if it is the agent's user.
    pub owner: Option<Owner>,
}

/// An owner of files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owner {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
}

impl Owner {
    /// Returns the owner of a file.
    pub fn of(metadata: &fs::Metadata) -> Self {
        Self { uid: metadata.uid(), gid: metadata.gid() }
    }

    /// Makes this the owner of `path`. Does not follow a link.
    pub fn own(self, path: &Path) -> io::Result<()> {
        lchown(path, Some(self.uid), Some(self.gid))
    }
}

impl Place {
    /// Returns the place of a user; without a user, that of the agent, whose home is `home`.
    pub fn of(user: Option<&str>, home: PathBuf) -> Result<Self, FileError> {
        let Some(name) = user else { return Ok(Self { home, owner: None }) };
        let user = users::find(name)?;
        Ok(Self { home: user.home, owner: Some(Owner { uid: user.uid, gid: user.gid }) })
    }

    /// Returns the absolute path of `path`. Links in it are not resolved.
    pub fn resolve(&self, path: &GuestPath) -> Result<PathBuf, FileError> {
        match path.broken_rule() {
            Some(rule) => Err(FileError::Invalid(rule)),
            None => Ok(self.home.join(path.as_path()).components().collect()),
        }
    }

    /// As [`Self::resolve`], for a path that must not be a directory's name.
    pub fn resolve_file(&self, path: &GuestPath) -> Result<PathBuf, FileError> {
        let resolved = self.resolve(path)?;
        let bytes = path.as_path().as_os_str().as_bytes();
        if bytes.ends_with(b"/") || resolved.file_name().is_none() {
            return Err(FileError::wrong_type(&resolved, "the name of a directory"));
        }
        Ok(resolved)
    }

    /// Creates the directory at `path` and its missing parents. All new directories belong to the
    /// user.
    pub fn make_dirs(&self, path: &Path) -> Result<(), FileError> {
        let missing = |path: &&Path| fs::metadata(path).is_err();
        let mut missing: Vec<_> = path.ancestors().take_while(missing).collect();
        while let Some(path) = missing.pop() {
            match fs::create_dir(path) {
                Ok(()) => self.adopt_dir(path, DIR_MODE)?,
                // Another process has created it.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => {}
                Err(error) => return Err(FileError::system("make", path)(error)),
            }
        }
        Ok(())
    }

    /// Creates the parent directory of `path`.
    pub fn make_parents(&self, path: &Path) -> Result<(), FileError> {
        path.parent().map_or(Ok(()), |parent| self.make_dirs(parent))
    }

    /// Sets the owner and mode of a new directory, regardless of the umask.
    pub fn adopt_dir(&self, path: &Path, mode: u32) -> Result<(), FileError> {
        self.adopt(path)?;
        fs::set_permissions(path, Permissions::from_mode(mode))
            .map_err(FileError::system("change the mode of", path))
    }

    /// Makes the user the owner of a new file. Does not follow a link.
    pub fn adopt(&self, path: &Path) -> Result<(), FileError> {
        self.owner.map_or(Ok(()), |owner| {
            owner.own(path).map_err(FileError::system("change the owner of", path))
        })
    }
}

/// Resolves the last part of `path` while it is a link, whether or not the target exists.
pub fn follow(path: PathBuf) -> Result<PathBuf, FileError> {
    let mut at = path;
    for _ in 0..LINKS_MAX {
        match fs::read_link(&at) {
            Ok(target) => at = at.parent().unwrap_or(Path::new("/")).join(target),
            // The path is not a link, or does not exist.
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => return Ok(at),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(at),
            Err(error) => return Err(FileError::system("look at", &at)(error)),
        }
    }
    let error = io::Error::from_raw_os_error(nix::libc::ELOOP);
    Err(FileError::system("follow", &at)(error))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn relative_paths_begin_at_home() {
        let place = Place::of(None, "/home/u".into()).unwrap();
        for (path, expect) in [
            ("a/./b//c", "/home/u/a/b/c"),
            (".", "/home/u"),
            ("/etc/../x", "/etc/../x"),
            ("/", "/"),
        ] {
            assert_eq!(place.resolve(&path.into()).unwrap(), Path::new(expect));
        }
        for directory in ["a/", "/", "..", "a/.."] {
            let refused = place.resolve_file(&directory.into());
            assert!(matches!(refused, Err(FileError::WrongType { .. })), "{directory}");
        }
        assert!(matches!(place.resolve(&"".into()), Err(FileError::Invalid(_))));
    }

    #[test]
    fn links_are_followed_to_what_is_not_there_yet_but_not_in_circles() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        symlink("b", at("a")).unwrap();
        symlink(at("c"), at("b")).unwrap();
        assert_eq!(follow(at("a")).unwrap(), at("c"));
        symlink("loop", at("loop")).unwrap();
        assert_eq!(
            follow(at("loop")).unwrap_err().refusal().code,
            emberd_proto::RefusalCode::Invalid
        );
    }
}
