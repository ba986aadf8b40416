//! Root file systems as tar archives: checks the headers of an untrusted archive, and makes the
//! entries that are put in front of it. Nothing is ever unpacked on the host.
//!
//! Layout: tar(5). Only limits are checked here. Names, link targets and everything else are
//! accepted or refused by the squashfs tool.

use std::io::{self, Read};

/// Maximum size of a root file system, in bytes (16 GiB): as a tar stream, and as the sum of its
/// files' sizes including holes.
pub const ROOT_BYTES_MAX: u64 = 16 << 30;
/// Maximum number of entries of a root file system.
pub const ROOT_ENTRIES_MAX: u64 = 2_000_000;
/// Maximum size of an extended header, in bytes (1 MiB).
const EXTENDED_BYTES_MAX: u64 = 1 << 20;

pub(super) const BLOCK_BYTES: usize = 512;

/// Why a root file system cannot become a pack.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// The stream cannot be read, or its compression is damaged.
    #[error("cannot read the archive")]
    Read(#[source] io::Error),
    /// The stream is not a tar archive, or ends within an entry.
    #[error("the file is not a tar archive, or is damaged at byte {0}")]
    Damaged(u64),
    /// The root is over [`ROOT_BYTES_MAX`].
    #[error("the content is larger than {ROOT_BYTES_MAX} bytes")]
    TooLarge,
    /// The root has over [`ROOT_ENTRIES_MAX`] entries.
    #[error("the archive has more than {ROOT_ENTRIES_MAX} files")]
    TooMany,
    /// The root is empty.
    #[error("the archive is empty")]
    Empty,
}

/// Summary of the headers of an archive.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Survey {
    pub entries: u64,
    /// Newest modification time, in seconds since the Unix epoch.
    pub newest: u32,
}

/// Reads all of `archive`, uncompressed, and checks its headers against the limits.
pub(super) fn survey(archive: impl Read) -> Result<Survey, ArchiveError> {
    survey_within(archive, ROOT_ENTRIES_MAX)
}

fn survey_within(archive: impl Read, entries_max: u64) -> Result<Survey, ArchiveError> {
    let mut walk = Walk { archive, at: 0, sizes: 0, entries_max, survey: Survey::default() };
    let mut extended = Extended::default();
    while let Some(header) = walk.header()? {
        let size = header.number(124, 12).ok_or(ArchiveError::Damaged(walk.at))?;
        match header.0[156] {
            b'x' => extended.read(&walk.content(size)?),
            // Global headers and long names do not affect sizes.
            b'g' | b'L' | b'K' => walk.skip(size)?,
            kind => {
                let stored = extended.size.unwrap_or(size);
                let mut full = extended.full_size.unwrap_or(stored);
                if kind == b'S' {
                    full = header.number(483, 12).ok_or(ArchiveError::Damaged(walk.at))?;
                    walk.skip_sparse_map(&header)?;
                }
                walk.entry(&header, full.max(stored))?;
                // Links and devices have no content, whatever size they declare.
                if !matches!(kind, b'1'..=b'6') {
                    walk.skip(stored)?;
                }
                extended = Extended::default();
            }
        }
    }
    if walk.survey.entries == 0 { Err(ArchiveError::Empty) } else { Ok(walk.survey) }
}

struct Walk<R> {
    archive: R,
    /// Bytes read so far.
    at: u64,
    /// Sum of the files' sizes.
    sizes: u64,
    entries_max: u64,
    survey: Survey,
}

impl<R: Read> Walk<R> {
    /// Returns the next header; `None` at a zero block or at the end of the archive.
    fn header(&mut self) -> Result<Option<Header>, ArchiveError> {
        let mut block = [0; BLOCK_BYTES];
        let mut filled = 0;
        while filled < BLOCK_BYTES {
            match self.archive.read(&mut block[filled..]) {
                Ok(0) if filled == 0 => return Ok(None),
                Ok(0) => return Err(ArchiveError::Damaged(self.at)),
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(ArchiveError::Read(error)),
            }
        }
        let header = Header(block);
        if block == [0; BLOCK_BYTES] {
            return Ok(None);
        }
        if !header.sum_is_right() {
            return Err(ArchiveError::Damaged(self.at));
        }
        self.advance(BLOCK_BYTES as u64)?;
        Ok(Some(header))
    }

    fn advance(&mut self, bytes: u64) -> Result<(), ArchiveError> {
        self.at = self.at.saturating_add(bytes);
        if self.at > ROOT_BYTES_MAX { Err(ArchiveError::TooLarge) } else { Ok(()) }
    }

    fn entry(&mut self, header: &Header, full_size: u64) -> Result<(), ArchiveError> {
        self.survey.entries += 1;
        self.sizes = self.sizes.saturating_add(full_size);
        // Times before 1970 or after 2106 do not fit SquashFS.
        let time = header.number(136, 12).and_then(|time| u32::try_from(time).ok());
        self.survey.newest = self.survey.newest.max(time.unwrap_or(0));
        if self.survey.entries > self.entries_max {
            return Err(ArchiveError::TooMany);
        }
        if self.sizes > ROOT_BYTES_MAX { Err(ArchiveError::TooLarge) } else { Ok(()) }
    }

    /// Skips `size` bytes of content and the padding of its last block.
    fn skip(&mut self, size: u64) -> Result<(), ArchiveError> {
        let start = self.at;
        let bytes = size.checked_next_multiple_of(BLOCK_BYTES as u64);
        let bytes = bytes.ok_or(ArchiveError::TooLarge)?;
        self.advance(bytes)?;
        let skipped = io::copy(&mut (&mut self.archive).take(bytes), &mut io::sink());
        match skipped.map_err(ArchiveError::Read)? {
            skipped if skipped == bytes => Ok(()),
            skipped => Err(ArchiveError::Damaged(start + skipped)),
        }
    }

    /// Reads the content of an extended header.
    fn content(&mut self, size: u64) -> Result<Vec<u8>, ArchiveError> {
        if size > EXTENDED_BYTES_MAX {
            return Err(ArchiveError::Damaged(self.at));
        }
        let mut content = Vec::new();
        let mut part = (&mut self.archive).take(size);
        part.read_to_end(&mut content).map_err(ArchiveError::Read)?;
        if content.len() as u64 != size {
            return Err(ArchiveError::Damaged(self.at));
        }
        self.advance(size)?;
        let filled = size.next_multiple_of(BLOCK_BYTES as u64) - size;
        let copied = io::copy(&mut (&mut self.archive).take(filled), &mut io::sink());
        copied.map_err(ArchiveError::Read)?;
        self.advance(filled)?;
        Ok(content)
    }

    /// Skips the blocks after a header that continue the map of an old GNU sparse file.
    fn skip_sparse_map(&mut self, header: &Header) -> Result<(), ArchiveError> {
        let mut more = header.0[482] != 0;
        while more {
            let block = self.content(BLOCK_BYTES as u64)?;
            more = block[504] != 0;
        }
        Ok(())
    }
}

/// The fields of an extended (pax) header for the next entry.
#[derive(Debug, Default)]
struct Extended {
    size: Option<u64>,
    /// Size of a sparse file, including holes.
    full_size: Option<u64>,
}

impl Extended {
    /// Parses records `length keyword=value
    /// `; stops at the first malformed one.
    fn read(&mut self, mut records: &[u8]) {
        while let Some((keyword, value, rest)) = split_record(records) {
            let number = || str::from_utf8(value).ok()?.parse().ok();
            match keyword {
                b"size" => self.size = number(),
                b"GNU.sparse.size" | b"GNU.sparse.realsize" => self.full_size = number(),
                _ => {}
            }
            records = rest;
        }
    }
}

fn split_record(records: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let space = records.iter().position(|byte| *byte == b' ')?;
    let length: usize = str::from_utf8(&records[..space]).ok()?.parse().ok()?;
    let (record, rest) = records.split_at_checked(length)?;
    let record = record.get(space + 1..)?.strip_suffix(b"\n")?;
    let equals = record.iter().position(|byte| *byte == b'=')?;
    Some((&record[..equals], &record[equals + 1..], rest))
}

struct Header([u8; BLOCK_BYTES]);

impl Header {
    /// Parses a number in octal, or in base 256 if its first bit is set; `None` if it is invalid
    /// or negative.
    fn number(&self, at: usize, bytes: usize) -> Option<u64> {
        let field = &self.0[at..at + bytes];
        if field[0] == 0x80 {
            let (high, low) = field[1..].split_at(bytes - 9);
            let fits = high.iter().all(|byte| *byte == 0);
            return fits.then(|| u64::from_be_bytes(low.try_into().expect("eight bytes")));
        }
        let text = str::from_utf8(field).ok()?.trim_matches([' ', '\0']);
        if text.is_empty() { Some(0) } else { u64::from_str_radix(text, 8).ok() }
    }

    /// Returns the checksum, which counts its own field as spaces.
    fn sum_is_right(&self) -> bool {
        let bytes = self.0.iter().enumerate();
        let sum: u64 = bytes
            .map(|(at, byte)| u64::from(if (148..156).contains(&at) { b' ' } else { *byte }))
            .sum();
        self.number(148, 8) == Some(sum)
    }
}

/// Entries for the start of an archive, without an end mark. The squashfs tool keeps the first of
/// several entries with the same name, so these replace later ones.
#[derive(Debug, Default)]
pub(super) struct Prelude(Vec<u8>);

impl Prelude {
    pub fn directory(&mut self, path: &str, time: u32) {
        self.header(path, b'5', 0o755, 0, time);
    }

    pub fn file(&mut self, path: &str, content: &[u8], time: u32) {
        self.header(path, b'0', 0o644, content.len(), time);
        self.0.extend(content);
        self.0.resize(self.0.len().next_multiple_of(BLOCK_BYTES), 0);
    }

    pub fn into_bytes(self) -> Vec<u8> {
        self.0
    }

    /// Writes a ustar header of an entry that belongs to root.
    fn header(&mut self, path: &str, kind: u8, mode: u32, size: usize, time: u32) {
        let mut header = [0; BLOCK_BYTES];
        let mut put = |at: usize, bytes: &[u8]| header[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, path.as_bytes());
        put(100, format!("{mode:07o}\0{:07o}\0{:07o}\0", 0, 0).as_bytes());
        put(124, format!("{size:011o}\0{time:011o}\0        ").as_bytes());
        put(156, &[kind]);
        put(257, b"ustar\x0000");
        let sum: u32 = header.iter().copied().map(u32::from).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        self.0.extend(header);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns an archive with one entry, made by `edit`, and its content.
    fn archive(content: &[u8], edit: impl FnOnce(&mut [u8])) -> Vec<u8> {
        let mut prelude = Prelude::default();
        prelude.file("x", content, 1000);
        let mut bytes = prelude.into_bytes();
        edit(&mut bytes[..BLOCK_BYTES]);
        sign(&mut bytes[..BLOCK_BYTES]);
        bytes
    }

    fn sign(header: &mut [u8]) {
        header[148..156].fill(b' ');
        let sum: u32 = header.iter().copied().map(u32::from).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    }

    /// Returns an extended header with one record, then an entry.
    fn extended(record: &str, content: &[u8]) -> Vec<u8> {
        let mut length = record.len() + 3;
        length += usize::from(length.to_string().len() == 2);
        let record = format!("{length} {record}\n");
        let header = archive(record.as_bytes(), |header| header[156] = b'x');
        [header, archive(content, |_| {})].concat()
    }

    #[test]
    fn what_the_prelude_writes_is_an_archive() {
        let mut prelude = Prelude::default();
        prelude.directory("etc", 7);
        prelude.file("etc/hosts", &[b'x'; 600], 9);
        prelude.file("etc/empty", b"", 8);
        let bytes = prelude.into_bytes();
        assert_eq!(bytes.len(), 5 * BLOCK_BYTES);
        let expect = Survey { entries: 3, newest: 9 };
        assert_eq!(survey(&bytes[..]).unwrap(), expect);
        let ended = [&bytes[..], &[0; 2 * BLOCK_BYTES], b"anything"].concat();
        assert_eq!(survey(&ended[..]).unwrap(), expect);
    }

    #[test]
    fn every_cut_inside_an_entry_is_damage() {
        let bytes = archive(b"content", |_| {});
        for cut in 1..bytes.len() {
            let cut_short = survey(&bytes[..cut]);
            assert!(matches!(cut_short, Err(ArchiveError::Damaged(_))), "cut at {cut}");
        }
        assert!(matches!(survey(&b""[..]), Err(ArchiveError::Empty)));
        assert!(matches!(survey(&[b'x'; 2048][..]), Err(ArchiveError::Damaged(0))));
    }

    #[test]
    fn hostile_sizes_are_refused_unread() {
        let octal = archive(b"", |header| header[124..136].copy_from_slice(b"77777777777\0"));
        let cut = survey(&octal[..]);
        assert!(matches!(cut, Err(ArchiveError::Damaged(_))), "{cut:?}");
        let base_256 = archive(b"", |header| {
            header[124..136].copy_from_slice(&[0x80, 0, 0, 0, 0x7f, 0, 0, 0, 0, 0, 0, 0]);
        });
        assert!(matches!(survey(&base_256[..]), Err(ArchiveError::TooLarge)));
        let overflow = archive(b"", |header| {
            header[124..136].fill(0xff);
            header[124] = 0x80;
        });
        assert!(matches!(survey(&overflow[..]), Err(ArchiveError::Damaged(_))));
        let negative = archive(b"", |header| header[124..136].fill(0xff));
        assert!(matches!(survey(&negative[..]), Err(ArchiveError::Damaged(_))));
    }

    #[test]
    fn holes_count_as_if_filled() {
        let pax = extended("GNU.sparse.realsize=1125899906842624", b"1\n");
        assert!(matches!(survey(&pax[..]), Err(ArchiveError::TooLarge)));
        let old = archive(b"", |header| {
            header[156] = b'S';
            header[483..495].copy_from_slice(b"777777777777");
        });
        assert!(matches!(survey(&old[..]), Err(ArchiveError::TooLarge)));
        let small = extended("GNU.sparse.realsize=4096", b"1\n");
        assert_eq!(survey(&small[..]).unwrap().entries, 1);
    }

    #[test]
    fn an_extended_size_replaces_the_headers_own() {
        let mut bytes = extended("size=3", b"abc");
        // The entry's own header says zero, as writers do for sizes that do not fit octal.
        let header = &mut bytes[2 * BLOCK_BYTES..3 * BLOCK_BYTES];
        header[124..136].copy_from_slice(b"00000000000\0");
        sign(header);
        assert_eq!(survey(&bytes[..]).unwrap(), Survey { entries: 1, newest: 1000 });
    }

    #[test]
    fn entries_are_counted_to_their_limit() {
        let three = archive(b"", |_| {}).repeat(3);
        assert_eq!(survey_within(&three[..], 3).unwrap().entries, 3);
        assert!(matches!(survey_within(&three[..], 2), Err(ArchiveError::TooMany)));
    }

    #[test]
    fn any_flipped_byte_is_an_answer_not_a_panic() {
        let bytes = extended("size=3", b"abc");
        for at in 0..bytes.len() {
            let mut flipped = bytes.clone();
            flipped[at] ^= 0xff;
            let _answer = survey(&flipped[..]);
        }
    }
}
