//! Maps of sparse files: in old GNU headers, and the three pax formats of GNU tar.
//!
//! Layout: "Storing Sparse Files" of GNU tar's manual.

use crate::error::TarError;
use crate::header::{Block, number};
use crate::pax::{decimal, name};
use crate::{BLOCK_BYTES, Segment};

/// Maximum number of segments of one sparse file (1,048,576; 16 MiB of them).
pub const SEGMENTS_MAX: usize = 1 << 20;

const BROKEN: TarError = TarError::Invalid("the map of a sparse file is malformed");

/// Size of a segment in an old GNU header, in bytes.
const OLD_SEGMENT_BYTES: usize = 24;

/// Fields of pax headers for a sparse file.
#[derive(Debug, Clone, Default)]
pub struct PaxSparse {
    /// Name of the file; the name in the header is artificial.
    pub name: Option<Vec<u8>>,
    size: Option<u64>,
    major: Option<u64>,
    minor: Option<u64>,
    /// Numbers of formats 0.0 and 0.1: offsets and lengths alternate.
    numbers: Option<Vec<u64>>,
}

/// Where the map of a file is.
pub enum Told {
    /// The file is not sparse.
    Not,
    /// The map is here.
    Map(Vec<Segment>, u64),
    /// The map precedes the file's data; this is its size.
    InData(u64),
}

impl PaxSparse {
    /// Handles a value whose key began with `GNU.sparse.`.
    pub fn take(&mut self, key: &[u8], value: &[u8]) -> Result<(), TarError> {
        let read = |value: &[u8]| decimal(value).ok_or(BROKEN);
        match key {
            b"name" => self.name = name(value)?,
            b"size" | b"realsize" => self.size = Some(read(value)?),
            b"major" => self.major = Some(read(value)?),
            b"minor" => self.minor = Some(read(value)?),
            b"map" => {
                let numbers = value.split(|byte| *byte == b',').take(2 * SEGMENTS_MAX + 1);
                let numbers = numbers.filter(|number| !number.is_empty()).map(read);
                self.numbers = Some(numbers.collect::<Result<_, _>>()?);
            }
            // Its numbers come one by one, with the key repeated.
            b"numblocks" => {
                self.numbers.get_or_insert_default();
            }
            b"offset" | b"numbytes" => {
                let numbers = self.numbers.get_or_insert_default();
                let is_length = key == b"numbytes";
                if numbers.len() % 2 != usize::from(is_length) || numbers.len() >= 2 * SEGMENTS_MAX
                {
                    return Err(BROKEN);
                }
                numbers.push(read(value)?);
            }
            _ => {}
        }
        Ok(())
    }

    /// Returns where the map is.
    pub fn told(&self) -> Result<Told, TarError> {
        match (self.major, self.minor) {
            (None | Some(0), _) => {}
            (Some(1), None | Some(0)) => return Ok(Told::InData(self.size.ok_or(BROKEN)?)),
            _ => return Err(TarError::Invalid("a sparse file has an unknown format")),
        }
        let Some(numbers) = &self.numbers else { return Ok(Told::Not) };
        Ok(Told::Map(segments(numbers)?, self.size.ok_or(BROKEN)?))
    }
}

fn segments(numbers: &[u64]) -> Result<Vec<Segment>, TarError> {
    let (pairs, rest) = numbers.as_chunks::<2>();
    if !rest.is_empty() || pairs.len() > SEGMENTS_MAX {
        return Err(BROKEN);
    }
    Ok(pairs.iter().map(|[offset, length]| Segment { offset: *offset, length: *length }).collect())
}

/// Checks a map: it must be in order, within the file, and as long as its data.
pub fn check(map: &[Segment], size: u64, data: u64) -> Result<(), TarError> {
    let mut end = 0_u64;
    let mut sum = 0_u64;
    for Segment { offset, length } in map {
        if *offset < end {
            return Err(BROKEN);
        }
        end = offset.checked_add(*length).filter(|end| *end <= size).ok_or(BROKEN)?;
        sum += length;
    }
    if sum == data { Ok(()) } else { Err(BROKEN) }
}

/// Returns the segments of an old GNU header, the file's size, and whether another block follows.
pub fn old_header(block: &Block) -> Result<(Vec<Segment>, u64, bool), TarError> {
    let mut map = Vec::new();
    old_segments(&block[386..482], &mut map)?;
    let size = u64::try_from(number(&block[483..495])?).map_err(|_| BROKEN)?;
    Ok((map, size, block[482] != 0))
}

/// Adds the segments of a further block; returns whether another follows.
pub fn old_block(block: &Block, map: &mut Vec<Segment>) -> Result<bool, TarError> {
    old_segments(&block[..504], map)?;
    if map.len() > SEGMENTS_MAX {
        return Err(BROKEN);
    }
    Ok(block[504] != 0)
}

fn old_segments(fields: &[u8], map: &mut Vec<Segment>) -> Result<(), TarError> {
    for field in fields.chunks_exact(OLD_SEGMENT_BYTES) {
        let (offset, length) = field.split_at(12);
        if length[0] == 0 {
            break;
        }
        let read = |field| u64::try_from(number(field)?).map_err(|_| BROKEN);
        map.push(Segment { offset: read(offset)?, length: read(length)? });
    }
    Ok(())
}

/// Parses a map that precedes data, block by block: a count and as many pairs, a line each.
#[derive(Default)]
pub struct DataMap {
    line: Vec<u8>,
    wanted: Option<usize>,
    numbers: Vec<u64>,
}

impl DataMap {
    /// Handles a block; returns the map once it is complete. The rest of the block is padding.
    pub fn block(&mut self, block: &Block) -> Result<Option<Vec<Segment>>, TarError> {
        debug_assert_eq!(block.len(), BLOCK_BYTES);
        for byte in block {
            if *byte != b'\n' {
                self.line.push(*byte);
                // No number has more digits.
                if self.line.len() > 20 {
                    return Err(BROKEN);
                }
                continue;
            }
            let number = decimal(&self.line).ok_or(BROKEN)?;
            self.line.clear();
            if self.wanted.is_some() {
                self.numbers.push(number);
            } else {
                let count = usize::try_from(number).ok().filter(|count| *count <= SEGMENTS_MAX);
                self.wanted = Some(2 * count.ok_or(BROKEN)?);
            }
            if self.wanted == Some(self.numbers.len()) {
                return segments(&self.numbers).map(Some);
            }
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maps_must_fit_their_file() {
        let check = |map: &[(u64, u64)], size, data| {
            let segment =
                |(offset, length): &(u64, u64)| Segment { offset: *offset, length: *length };
            super::check(&map.iter().map(segment).collect::<Vec<_>>(), size, data).is_ok()
        };
        assert!(check(&[(0, 5), (10, 5), (20, 0)], 20, 10));
        assert!(!check(&[(0, 5), (4, 5)], 20, 10));
        assert!(!check(&[(10, 5), (0, 5)], 20, 10));
        assert!(!check(&[(18, 5)], 20, 5));
        assert!(!check(&[(0, 5)], 20, 6));
        assert!(!check(&[(u64::MAX, 5)], 20, 5));
    }
}
