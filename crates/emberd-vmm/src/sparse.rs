//! Copies and compares files by their data, without their holes: most of a guest's memory and disk
//! was never written.

use std::fs::File;
use std::io::{self, Read as _};
use std::ops::Range;
use std::os::unix::fs::FileExt as _;

use rustix::fs::{SeekFrom, seek};
use rustix::io::Errno;
use sha2::{Digest as _, Sha256};

/// Bytes that are compared at once (1 MiB).
const PIECE_BYTES: u64 = 1 << 20;

/// Copies the data of `from` into `to`, which is empty and gets the same length.
pub(crate) fn copy(from: &mut File, to: &mut File) -> io::Result<()> {
    let length = from.metadata()?.len();
    let mut end = 0;
    while let Some(data) = data_after(from, end)? {
        for file in [&*from, &*to] {
            seek(file, SeekFrom::Start(data.start))?;
        }
        io::copy(&mut (&mut *from).take(data.end - data.start), to)?;
        end = data.end;
    }
    to.set_len(length)
}

/// Returns the SHA-256 of the file's length and of each piece that is not zero, with its place.
/// Copies of a file have the same one, wherever their holes are.
pub(crate) fn digest(file: &File) -> io::Result<impl AsRef<[u8]>> {
    let length = file.metadata()?.len();
    let mut hasher = Sha256::new();
    hasher.update(length.to_be_bytes());
    let mut buffer = vec![0; usize::try_from(PIECE_BYTES).expect("a piece fits into memory")];
    let mut at = 0;
    while let Some(data) = data_after(file, at)? {
        at = data.start.max(at) / PIECE_BYTES * PIECE_BYTES;
        while at < data.end {
            let bytes = usize::try_from((length - at).min(PIECE_BYTES)).expect("at most a piece");
            let piece = &mut buffer[..bytes];
            file.read_exact_at(piece, at)?;
            if piece.iter().any(|byte| *byte != 0) {
                hasher.update(at.to_be_bytes());
                hasher.update(&*piece);
            }
            at += PIECE_BYTES;
        }
    }
    Ok(hasher.finalize())
}

/// Returns where data are at `position` or after it; none if no data follow.
fn data_after(file: &File, position: u64) -> io::Result<Option<Range<u64>>> {
    let start = match seek(file, SeekFrom::Data(position)) {
        Ok(start) => start,
        Err(Errno::NXIO) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    Ok(Some(start..seek(file, SeekFrom::Hole(start))?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(length: u64, data: &[(u64, &[u8])]) -> File {
        let file = tempfile::tempfile().unwrap();
        file.set_len(length).unwrap();
        for (at, bytes) in data {
            file.write_all_at(bytes, *at).unwrap();
        }
        file
    }

    fn digest_of(file: &File) -> Vec<u8> {
        digest(file).unwrap().as_ref().to_vec()
    }

    #[test]
    fn a_digest_tells_data_and_lengths_apart_but_not_holes() {
        let length = 3 * PIECE_BYTES + 5;
        let data: [(u64, &[u8]); 3] = [(7, b"a"), (PIECE_BYTES - 1, b"bc"), (length - 2, b"d")];
        let original = file(length, &data);
        let mut copied = tempfile::tempfile().unwrap();
        copy(&mut original.try_clone().unwrap(), &mut copied).unwrap();
        assert_eq!(digest_of(&copied), digest_of(&original));
        let zeros = vec![0; usize::try_from(length).unwrap()];
        let full = file(length, &[(0, &zeros), data[0], data[1], data[2]]);
        assert_eq!(digest_of(&full), digest_of(&original), "written zeros are like holes");
        let others = [
            file(length + 1, &data),
            file(length, &data[..2]),
            file(length, &[(8, b"a"), data[1], data[2]]),
            file(length, &[(7 + PIECE_BYTES, b"a"), data[1], data[2]]),
        ];
        for other in others {
            assert_ne!(digest_of(&other), digest_of(&original));
        }
        assert_eq!(digest_of(&file(0, &[])), digest_of(&file(0, &[])));
    }
}
