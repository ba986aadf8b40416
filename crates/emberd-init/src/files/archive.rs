//! A directory as a tar stream, and back.
//!
//! Devices, sockets and FIFOs are left out both ways; owners are not kept, for what is unpacked
//! belongs to the user it is unpacked for.

use std::fs::{self, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Component, Path, PathBuf};

use emberd_proto::file::DEPTH_MAX;
use emberd_proto::{GuestMessage, GuestPath};
use tar::{Archive, Builder, EntryType, Header};

use super::content::{is_unfinished, open};
use super::entry::Names;
use super::errors::FileError;
use super::place::Place;
use super::stream::{DataWriter, Sink, Source};

/// Sends what `path` is, then the directory's content, or the file alone, as a tar stream.
pub fn pack(place: &Place, path: &GuestPath, sink: &Sink) -> Result<(), FileError> {
    let path = place.resolve(path)?;
    let metadata = fs::metadata(&path).map_err(FileError::system("pack", &path))?;
    if !metadata.is_dir() && !metadata.is_file() {
        return Err(FileError::wrong_type(&path, "neither a file nor a directory"));
    }
    sink.send(GuestMessage::File(Names::read().entry(&path, &metadata)))?;
    let mut archive = Builder::new(DataWriter::new(sink));
    match path.file_name() {
        Some(name) if metadata.is_file() => pack_file(&mut archive, &path, Path::new(name))?,
        _ => pack_directory(&mut archive, &path, Path::new(""), DEPTH_MAX)?,
    }
    let mut writer = archive.into_inner().map_err(FileError::system("pack", &path))?;
    io::Write::flush(&mut writer).map_err(FileError::system("pack", &path))
}

type Packing<'a> = Builder<DataWriter<'a>>;

/// Packs what is in `path`, which is `name` in the archive.
fn pack_directory(
    archive: &mut Packing<'_>,
    path: &Path,
    name: &Path,
    depth: u32,
) -> Result<(), FileError> {
    if depth == 0 {
        return Err(FileError::Invalid("the directory is nested too deep to be packed"));
    }
    let failed = |error: io::Error| FileError::system("pack", path)(error);
    let entries = fs::read_dir(path).map_err(failed)?;
    let names = entries.map(|entry| Ok(entry?.file_name())).collect::<io::Result<Vec<_>>>();
    let mut names = names.map_err(failed)?;
    names.sort_unstable();
    for last in names.iter().filter(|name| !is_unfinished(name)) {
        let (path, name) = (path.join(last), name.join(last));
        let packed = pack_entry(archive, &path, &name, depth);
        match packed {
            // Gone since it was seen.
            Err(error) if error.is_absence() => {}
            packed => packed?,
        }
    }
    Ok(())
}

fn pack_entry(
    archive: &mut Packing<'_>,
    path: &Path,
    name: &Path,
    depth: u32,
) -> Result<(), FileError> {
    let failed = |error: io::Error| FileError::system("pack", path)(error);
    let metadata = fs::symlink_metadata(path).map_err(failed)?;
    if metadata.is_file() {
        return pack_file(archive, path, name);
    }
    let mut header = header(&metadata);
    header.set_size(0);
    if metadata.is_symlink() {
        let target = fs::read_link(path).map_err(failed)?;
        archive.append_link(&mut header, name, target).map_err(failed)?;
    } else if metadata.is_dir() {
        archive.append_data(&mut header, name, io::empty()).map_err(failed)?;
        pack_directory(archive, path, name, depth - 1)?;
    }
    Ok(())
}

fn pack_file(archive: &mut Packing<'_>, path: &Path, name: &Path) -> Result<(), FileError> {
    let (file, metadata) = open(path)?;
    // The header has said how many: neither more, though the file may grow, nor fewer.
    let content = file.chain(io::repeat(0)).take(metadata.len());
    let mut header = header(&metadata);
    header.set_size(metadata.len());
    archive.append_data(&mut header, name, content).map_err(FileError::system("pack", path))
}

fn header(metadata: &Metadata) -> Header {
    let mut header = Header::new_gnu();
    header.set_metadata(metadata);
    header.set_mode(metadata.mode() & 0o7777);
    header
}

/// Unpacks the tar stream of `source` into the directory at `path`, which is made. Nothing
/// outside of it is changed, whatever names and links the archive has.
pub fn unpack(place: &Place, path: &GuestPath, source: &mut Source) -> Result<(), FileError> {
    let path = place.resolve(path)?;
    place.make_dirs(&path)?;
    let within = fs::canonicalize(&path).map_err(FileError::system("unpack into", &path))?;
    if !within.is_dir() {
        return Err(FileError::wrong_type(&path, "not a directory"));
    }
    let mut archive = Archive::new(&mut *source);
    archive.set_preserve_permissions(true);
    for entry in archive.entries().map_err(FileError::Archive)? {
        let mut entry = entry.map_err(FileError::Archive)?;
        if !is_unpacked(entry.header().entry_type()) {
            continue;
        }
        let name = plain(&entry.path().map_err(FileError::Archive)?)?;
        if name.as_os_str().is_empty() {
            continue;
        }
        make_parents_within(place, &within, &name)?;
        entry.unpack_in(&within).map_err(FileError::Archive)?;
        place.adopt(&within.join(&name))?;
    }
    // What follows the archive's end is not ours to judge.
    io::copy(source, &mut io::sink()).map_err(FileError::Archive)?;
    Ok(())
}

fn is_unpacked(entry_type: EntryType) -> bool {
    use EntryType::{Continuous, Directory, GNUSparse, Link, Regular, Symlink};
    matches!(entry_type, Regular | Continuous | GNUSparse | Directory | Symlink | Link)
}

/// The name of an entry below the directory it is unpacked into.
fn plain(name: &Path) -> Result<PathBuf, FileError> {
    let mut plain = PathBuf::new();
    for part in name.components() {
        match part {
            Component::Normal(part) => plain.push(part),
            Component::ParentDir => {
                return Err(FileError::Invalid("the archive has a path with `..`"));
            }
            Component::CurDir | Component::RootDir | Component::Prefix(_) => {}
        }
    }
    Ok(plain)
}

/// Makes the directories that are to hold `name`, as the user's. What is behind a link is left
/// to the unpacking, which refuses it if it leads outside.
fn make_parents_within(place: &Place, within: &Path, name: &Path) -> Result<(), FileError> {
    let mut at = within.to_owned();
    for part in name.parent().into_iter().flat_map(Path::components) {
        at.push(part);
        match fs::symlink_metadata(&at) {
            Ok(metadata) if metadata.is_dir() => {}
            Ok(_) => break,
            Err(_) => place.make_dirs(&at)?,
        }
    }
    Ok(())
}
