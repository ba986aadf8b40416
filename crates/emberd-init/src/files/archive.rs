//! Packs a directory as a tar stream, and unpacks one.
//!
//! Devices and sockets are skipped both ways. Owners are not kept: unpacked files belong to the
//! requested user.

use std::fs;
use std::path::Path;

use emberd_proto::file::DEPTH_MAX;
use emberd_proto::{GuestMessage, GuestPath};
use emberd_tar::{Owner, PackOptions, UnpackOptions};

use super::content::{is_unfinished, open};
use super::entry::Names;
use super::errors::FileError;
use super::place::Place;
use super::stream::{DataWriter, Sink, Source};

/// Sends the attributes of `path`, then the directory's contents, or the file, as a tar stream.
pub fn pack(place: &Place, path: &GuestPath, sink: &Sink) -> Result<(), FileError> {
    let path = place.resolve(path)?;
    let metadata = fs::metadata(&path).map_err(FileError::system("pack", &path))?;
    if !metadata.is_dir() && !metadata.is_file() {
        return Err(FileError::wrong_type(&path, "neither a file nor a directory"));
    }
    sink.send(GuestMessage::File(Names::read().entry(&path, &metadata)))?;
    let to = DataWriter::new(sink);
    let packed = match path.file_name() {
        Some(name) if metadata.is_file() => {
            let (file, metadata) = open(&path)?;
            emberd_tar::pack_file(file, &metadata, Path::new(name), to)
        }
        _ => {
            let options = PackOptions {
                depth_max: Some(DEPTH_MAX),
                fifos: true,
                itself: false,
                left_out: is_unfinished,
            };
            emberd_tar::pack_directory(&path, options, to)
        }
    };
    packed.map(|_| ()).map_err(FileError::packing)
}

/// Unpacks the tar stream of `source` into the directory at `path`, which is created if missing.
/// Nothing outside it is changed, whatever names and links the archive has.
pub fn unpack(place: &Place, path: &GuestPath, source: &mut Source) -> Result<(), FileError> {
    let path = place.resolve(path)?;
    let made = fs::metadata(&path).is_err();
    place.make_dirs(&path)?;
    if !path.is_dir() {
        return Err(FileError::wrong_type(&path, "not a directory"));
    }
    let owner = place.owner.map(|owner| Owner { uid: owner.uid, gid: owner.gid });
    // `/tmp` and homes are shared, so an archive of another directory does not change their mode.
    let options = UnpackOptions { owner, special: true, own_mode: made };
    emberd_tar::unpack(source, &path, options).map_err(FileError::unpacking)
}
