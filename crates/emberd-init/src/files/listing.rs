//! Lists directories, level by level.

use std::ffi::OsString;
use std::fs;
use std::mem;
use std::path::Path;

use emberd_proto::file::{BATCH_MAX, DEPTH_MAX, ENTRIES_MAX};
use emberd_proto::{FileEntry, FileType, GuestMessage, GuestPath};

use super::entry::{Names, json_bytes_max};
use super::errors::FileError;
use super::place::Place;
use super::stream::Sink;

/// Maximum size of one batch (256 KiB), which fits a frame.
pub const BATCH_BYTES_MAX: usize = 256 << 10;

/// Sends the entries below `path`. Those of a directory are sorted by name, and its contents
/// follow it. Links are not followed, except `path` itself.
pub fn list(place: &Place, path: &GuestPath, depth: u32, sink: &Sink) -> Result<(), FileError> {
    if !(1..=DEPTH_MAX).contains(&depth) {
        return Err(FileError::Invalid("depth is not between 1 and 256"));
    }
    let path = place.resolve(path)?;
    let metadata = fs::metadata(&path).map_err(FileError::system("list", &path))?;
    if !metadata.is_dir() {
        return Err(FileError::wrong_type(&path, "not a directory"));
    }
    list_at(&path, depth, ENTRIES_MAX, sink)
}

fn list_at(path: &Path, depth: u32, room: usize, sink: &Sink) -> Result<(), FileError> {
    let names = Names::read();
    let mut listing = Listing { names, sink, batch: Vec::new(), batch_bytes: 0, room };
    let whole = listing.directory(path, depth)?;
    sink.send(GuestMessage::Listed { entries: listing.batch, cut: !whole })
}

struct Listing<'a> {
    names: Names,
    sink: &'a Sink,
    batch: Vec<FileEntry>,
    batch_bytes: usize,
    /// Number of further entries allowed.
    room: usize,
}

impl Listing<'_> {
    /// Lists one directory; returns whether all of it fitted.
    fn directory(&mut self, path: &Path, depth: u32) -> Result<bool, FileError> {
        let (names, mut whole) = self.read(path)?;
        for name in names {
            let path = path.join(name);
            // The directory may have been removed.
            let Ok(metadata) = fs::symlink_metadata(&path) else { continue };
            if self.room == 0 {
                return Ok(false);
            }
            let entry = self.names.entry(&path, &metadata);
            let is_dir = entry.file_type == FileType::Directory;
            self.push(entry)?;
            if is_dir && depth > 1 {
                whole &= match self.directory(&path, depth - 1) {
                    // The entry may have been removed.
                    Err(FileError::System { .. }) => true,
                    listed => listed?,
                };
            }
        }
        Ok(whole)
    }

    /// Returns the sorted names in a directory, as many as allowed, and whether that is all.
    fn read(&self, path: &Path) -> Result<(Vec<OsString>, bool), FileError> {
        let entries = fs::read_dir(path).map_err(FileError::system("list", path))?;
        let mut names = Vec::new();
        for entry in entries {
            if names.len() == self.room {
                return Ok((names, false));
            }
            names.push(entry.map_err(FileError::system("list", path))?.file_name());
        }
        names.sort_unstable();
        Ok((names, true))
    }

    fn push(&mut self, entry: FileEntry) -> Result<(), FileError> {
        let bytes = json_bytes_max(&entry);
        if self.batch.len() == BATCH_MAX || self.batch_bytes + bytes > BATCH_BYTES_MAX {
            let entries = mem::take(&mut self.batch);
            self.batch_bytes = 0;
            self.sink.send(GuestMessage::Listed { entries, cut: false })?;
        }
        self.batch.push(entry);
        self.batch_bytes += bytes;
        self.room -= 1;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc;

    use super::*;
    use crate::files::stream::Piece;

    #[test]
    fn longer_listing_than_there_is_room_for_is_cut() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["a/1", "a/2", "b/1"] {
            fs::create_dir_all(dir.path().join(name)).unwrap();
        }
        for (room, expect, expect_cut) in [(5, 5, false), (4, 4, true), (2, 2, true), (1, 1, true)]
        {
            let (sender, mut pieces) = mpsc::channel(1);
            list_at(dir.path(), 2, room, &Sink(sender)).unwrap();
            let Ok(Piece::Message(GuestMessage::Listed { entries, cut })) = pieces.try_recv()
            else {
                panic!("expected one batch");
            };
            assert_eq!((entries.len(), cut), (expect, expect_cut), "room for {room}");
        }
    }
}
