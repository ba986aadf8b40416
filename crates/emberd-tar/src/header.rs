//! The 512 bytes before an entry: v7, ustar with a prefix, and old GNU.
//!
//! Layout: tar(5) of `FreeBSD`, POSIX.1-2017 `pax`, and "Basic Tar Format" of GNU tar's manual.

use std::ops::Range;

use crate::error::TarError;
use crate::{BLOCK_BYTES, Entry, Kind};

/// One block.
pub type Block = [u8; BLOCK_BYTES];

const NAME: Range<usize> = 0..100;
const MODE: Range<usize> = 100..108;
const UID: Range<usize> = 108..116;
const GID: Range<usize> = 116..124;
const SIZE: Range<usize> = 124..136;
const MTIME: Range<usize> = 136..148;
const CHECKSUM: Range<usize> = 148..156;
const TYPE: usize = 156;
const LINK: Range<usize> = 157..257;
const MAGIC: Range<usize> = 257..265;
const PREFIX: Range<usize> = 345..500;
/// The prefix of star(1), which is followed by times.
const STAR_PREFIX: Range<usize> = 345..476;
const STAR_MAGIC: Range<usize> = 508..512;

/// A header with a valid checksum.
pub struct Header<'a>(&'a Block);

impl<'a> Header<'a> {
    /// Parses `block`.
    ///
    /// # Errors
    /// If its checksum is wrong, as for anything that is not a header.
    pub fn read(block: &'a Block) -> Result<Self, TarError> {
        let told = number(&block[CHECKSUM])?;
        // Old programs summed signed characters.
        let (unsigned, signed) = sums(block);
        if told == unsigned || told == signed {
            return Ok(Self(block));
        }
        Err(TarError::Invalid("it is not a tar archive, or is damaged: a checksum is wrong"))
    }

    /// Returns the letter for the type.
    pub fn type_flag(&self) -> u8 {
        self.0[TYPE]
    }

    /// Returns the size of the data that follows, in bytes.
    pub fn size(&self) -> Result<u64, TarError> {
        u64::try_from(number(&self.0[SIZE])?).map_err(|_| TarError::Invalid("a size is negative"))
    }

    /// Returns the entry. Longer names and pax headers may override its fields.
    pub fn entry(&self) -> Result<Entry, TarError> {
        let owner = |range: Range<usize>| number(&self.0[range]).unwrap_or(0).try_into().ok();
        let mut entry = Entry {
            name: self.name(),
            kind: Kind::Other,
            mode: u32::try_from(number(&self.0[MODE])? & 0o7777).unwrap_or(0),
            uid: owner(UID).unwrap_or(0),
            gid: owner(GID).unwrap_or(0),
            modified: crate::Time { seconds: number(&self.0[MTIME])?, nanos: 0 },
            size: 0,
            segments: None,
        };
        entry.kind = match self.type_flag() {
            b'1' => Kind::HardLink(self.link().to_vec()),
            b'2' => Kind::Symlink(self.link().to_vec()),
            b'5' => Kind::Directory,
            b'6' => Kind::Fifo,
            // Devices, and GNU's lists of directories, continued volumes, names and labels.
            b'3' | b'4' | b'D' | b'M' | b'N' | b'V' => Kind::Other,
            // POSIX: an unknown type is a file.
            _ => Kind::File,
        };
        Ok(entry)
    }

    fn name(&self) -> Vec<u8> {
        let name = text(&self.0[NAME]);
        let prefix = match &self.0[MAGIC] {
            b"ustar\x0000" if &self.0[STAR_MAGIC] == b"tar\0" => text(&self.0[STAR_PREFIX]),
            magic if magic.starts_with(b"ustar\0") => text(&self.0[PREFIX]),
            // Old GNU has other fields there, and v7 none.
            _ => b"",
        };
        if prefix.is_empty() { name.to_vec() } else { [prefix, b"/", name].concat() }
    }

    fn link(&self) -> &[u8] {
        text(&self.0[LINK])
    }
}

/// Returns the bytes up to a NUL.
pub fn text(field: &[u8]) -> &[u8] {
    field.split(|byte| *byte == 0).next().unwrap_or_default()
}

/// Parses a number in octal digits, or in base 256 if the first bit is set.
pub fn number(field: &[u8]) -> Result<i64, TarError> {
    const BROKEN: TarError = TarError::Invalid("a number in a header is invalid or too large");
    if let Some((first, rest)) = field.split_first()
        && first & 0x80 != 0
    {
        // Two's complement of the seven bits after the marker bit.
        let low = i128::from(first & 0x7f);
        let first = if low < 64 { low } else { low - 128 };
        let value = rest.iter().try_fold(first, |value, byte| {
            value.checked_mul(256).and_then(|value| value.checked_add(i128::from(*byte)))
        });
        return value.and_then(|value| i64::try_from(value).ok()).ok_or(BROKEN);
    }
    let digits = field.trim_ascii_start();
    let end = digits.iter().position(|byte| !(b'0'..=b'7').contains(byte));
    let (digits, rest) = digits.split_at(end.unwrap_or(digits.len()));
    if rest.first().is_some_and(|byte| !matches!(byte, 0 | b' ')) {
        return Err(BROKEN);
    }
    let octal = |value: i64, digit: &u8| {
        value.checked_mul(8).and_then(|value| value.checked_add(i64::from(digit - b'0')))
    };
    digits.iter().try_fold(0_i64, octal).ok_or(BROKEN)
}

/// Returns the sums of all bytes as unsigned and as signed, with the checksum counted as spaces.
fn sums(block: &Block) -> (i64, i64) {
    let bytes = block.iter().enumerate();
    let bytes = bytes.map(|(at, byte)| if CHECKSUM.contains(&at) { b' ' } else { *byte });
    bytes.fold((0, 0), |(unsigned, signed), byte| {
        (unsigned + i64::from(byte), signed + i64::from(byte.cast_signed()))
    })
}

/// Writes a ustar header. Numbers that do not fit are in base 256; `name`, `prefix` and `link`
/// must fit.
pub fn write(entry: &Entry, type_flag: u8, prefix: &[u8], name: &[u8], link: &[u8]) -> Block {
    let mut block = [0; BLOCK_BYTES];
    let mut put = |range: Range<usize>, bytes: &[u8]| {
        block[range.start..range.start + bytes.len()].copy_from_slice(bytes);
    };
    put(NAME, name);
    put(MODE, &digits::<8>(u64::from(entry.mode)));
    put(UID, &digits::<8>(entry.uid));
    put(GID, &digits::<8>(entry.gid));
    put(SIZE, &digits::<12>(entry.size));
    // A value that does not fit is also in a pax header.
    let seconds = entry.modified.seconds.clamp(0, 0o777_7777_7777);
    put(MTIME, &digits::<12>(seconds.unsigned_abs()));
    put(TYPE..TYPE + 1, &[type_flag]);
    put(LINK, link);
    put(MAGIC, b"ustar\x0000");
    put(PREFIX, prefix);
    let (sum, _) = sums(&block);
    block[CHECKSUM].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    block
}

fn digits<const BYTES: usize>(value: u64) -> [u8; BYTES] {
    let text = format!("{value:0width$o}\0", width = BYTES - 1);
    if let Ok(octal) = text.as_bytes().try_into() {
        return octal;
    }
    let mut field = [0; BYTES];
    let bytes = value.to_be_bytes();
    let taken = bytes.len().min(BYTES - 1);
    field[BYTES - taken..].copy_from_slice(&bytes[bytes.len() - taken..]);
    field[0] = 0x80;
    field
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_all_kinds() {
        let check = |field: &[u8], expect: Option<i64>| {
            assert_eq!(number(field).ok(), expect, "{field:x?}");
        };
        check(b"0000644\0", Some(0o644));
        check(b"   644 \0", Some(0o644));
        check(b"\0\0\0\0\0\0\0\0", Some(0));
        check(b"77777777777 ", Some(0o777_7777_7777));
        check(b"777777777777", Some(0o7777_7777_7777));
        check(b"12345678", None);
        check(b"-1\0\0\0\0\0\0", None);
        check(b"\x80\0\0\0\0\0\0\0\0\0\x01\0", Some(256));
        check(b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", Some(-1));
        check(b"\xff\xff\xff\xff\xff\xff\xff\0", Some(-256));
        check(b"\x80\0\0\0\x7f\xff\xff\xff\xff\xff\xff\xff", Some(i64::MAX));
        check(b"\x80\0\0\0\x80\0\0\0\0\0\0\0", None);
        check(b"\xbf\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", None);
    }

    #[test]
    fn large_numbers_come_back() {
        for value in [0, 0o777_7777_7777, 1 << 33, 9 << 30, u64::MAX >> 1] {
            assert_eq!(number(&digits::<12>(value)).unwrap().unsigned_abs(), value);
        }
    }
}
