//! Creates directories, and moves and removes files.

use std::fs;
use std::io;

use emberd_proto::{FileEntry, GuestPath};

use super::copy;
use super::entry::stat_at;
use super::errors::FileError;
use super::place::{DIR_MODE, Place};

/// Creates a directory and its parents.
pub fn make_dir(
    place: &Place,
    path: &GuestPath,
    mode: Option<u32>,
) -> Result<FileEntry, FileError> {
    let path = place.resolve(path)?;
    if mode.is_some_and(|mode| mode > 0o7777) {
        return Err(FileError::Invalid("a mode is larger than 0o7777"));
    }
    if path.parent().is_none() {
        return Err(FileError::InTheWay(path));
    }
    place.make_parents(&path)?;
    fs::create_dir(&path).map_err(FileError::system("make", &path))?;
    place.adopt_dir(&path, mode.unwrap_or(DIR_MODE))?;
    stat_at(&path)
}

/// Moves a file, also from one file system to another.
pub fn rename(place: &Place, from: &GuestPath, to: &GuestPath) -> Result<FileEntry, FileError> {
    let (from, to) = (place.resolve(from)?, place.resolve(to)?);
    fs::symlink_metadata(&from).map_err(FileError::system("move", &from))?;
    if fs::symlink_metadata(&to).is_ok_and(|there| there.is_dir()) {
        return Err(FileError::InTheWay(to));
    }
    if to.starts_with(&from) && to != from {
        return Err(FileError::Invalid("a directory cannot be moved into itself"));
    }
    place.make_parents(&to)?;
    match fs::rename(&from, &to) {
        Err(error) if error.kind() == io::ErrorKind::CrossesDevices => {
            copy::copy(&from, &to)?;
            remove_at(&from)?;
        }
        renamed => renamed.map_err(FileError::system("move", &from))?,
    }
    stat_at(&to)
}

/// Removes a file, or a directory with its contents. Not an error if the path does not exist.
pub fn remove(place: &Place, path: &GuestPath) -> Result<(), FileError> {
    let path = place.resolve(path)?;
    if path.parent().is_none() {
        return Err(FileError::Invalid("the root directory cannot be removed"));
    }
    remove_at(&path)
}

fn remove_at(path: &std::path::Path) -> Result<(), FileError> {
    let removed = fs::symlink_metadata(path).and_then(|metadata| {
        if metadata.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) }
    });
    match removed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed.map_err(FileError::system("remove", path)),
    }
}
