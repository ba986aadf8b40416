//! Extended headers of POSIX: lines of `length key=value`, before one entry or for all following
//! entries.

use crate::error::TarError;
use crate::sparse::PaxSparse;
use crate::{Entry, Kind, NAME_BYTES_MAX, Time};

/// Maximum size of an extended header, in bytes (8 MiB), which may contain a sparse file's map.
pub const PAX_BYTES_MAX: u64 = 8 << 20;

/// Fields of extended headers. Unknown keys are ignored, as POSIX requires.
#[derive(Debug, Clone, Default)]
pub struct Pax {
    name: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
    uid: Option<u64>,
    gid: Option<u64>,
    modified: Option<Time>,
    /// Fields of a sparse file.
    pub sparse: PaxSparse,
}

impl Pax {
    /// Adds the fields of `header`; later values override earlier ones.
    pub fn read(&mut self, mut header: &[u8]) -> Result<(), TarError> {
        while !header.is_empty() {
            // Some programs fill the block with NUL bytes.
            if header.iter().all(|byte| *byte == 0) {
                break;
            }
            let (key, value, rest) =
                record(header).ok_or(TarError::Invalid("an extended header is malformed"))?;
            self.take(key, value)?;
            header = rest;
        }
        Ok(())
    }

    fn take(&mut self, key: &[u8], value: &[u8]) -> Result<(), TarError> {
        let number = || {
            let read =
                decimal(value).ok_or(TarError::Invalid("a number in a pax header is invalid"));
            // An empty value removes an earlier one.
            if value.is_empty() { Ok(None) } else { read.map(Some) }
        };
        match key {
            b"path" => self.name = name(value)?,
            b"linkpath" => self.link = name(value)?,
            b"size" => self.size = number()?,
            b"uid" => self.uid = number().unwrap_or_default(),
            b"gid" => self.gid = number().unwrap_or_default(),
            b"mtime" if value.is_empty() => self.modified = None,
            b"mtime" => {
                let read =
                    time(value).ok_or(TarError::Invalid("a time in a pax header is invalid"));
                self.modified = Some(read?);
            }
            _ => {
                if let Some(key) = key.strip_prefix(b"GNU.sparse.") {
                    self.sparse.take(key, value)?;
                }
            }
        }
        Ok(())
    }

    /// Returns the size of the data after the header, which itself says `size`.
    pub fn size(&self, size: u64) -> u64 {
        self.size.unwrap_or(size)
    }

    /// Overrides the fields of an entry's own header.
    pub fn overrule(&self, entry: &mut Entry) {
        if let Some(name) = self.sparse.name.as_ref().or(self.name.as_ref()) {
            entry.name.clone_from(name);
        }
        if let (Kind::Symlink(link) | Kind::HardLink(link), Some(to)) =
            (&mut entry.kind, &self.link)
        {
            link.clone_from(to);
        }
        entry.uid = self.uid.unwrap_or(entry.uid);
        entry.gid = self.gid.unwrap_or(entry.gid);
        entry.modified = self.modified.unwrap_or(entry.modified);
    }
}

/// Returns key and value of the first line, and the rest.
fn record(header: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let space = header.iter().take(20).position(|byte| *byte == b' ')?;
    let length = usize::try_from(decimal(&header[..space])?).ok()?;
    if length <= space + 1 || length > header.len() {
        return None;
    }
    let (line, rest) = header.split_at(length);
    let line = line[space + 1..].strip_suffix(b"\n")?;
    let equals = line.iter().position(|byte| *byte == b'=')?;
    (equals > 0).then_some((&line[..equals], &line[equals + 1..], rest))
}

/// Parses a name; `None` if it is empty.
pub fn name(value: &[u8]) -> Result<Option<Vec<u8>>, TarError> {
    if value.len() > NAME_BYTES_MAX {
        return Err(TarError::Invalid("a name is longer than 4095 bytes"));
    }
    if value.contains(&0) {
        return Err(TarError::Invalid("a name contains a NUL byte"));
    }
    Ok((!value.is_empty()).then(|| value.to_vec()))
}

/// Parses a decimal number that fits a file's size.
pub fn decimal(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let number: u64 = std::str::from_utf8(digits).ok()?.parse().ok()?;
    i64::try_from(number).is_ok().then_some(number)
}

/// Parses a time into whole seconds and nanoseconds: `-1.5` is half a second after -2. Further
/// digits are dropped.
fn time(value: &[u8]) -> Option<Time> {
    let (negative, value) = value.strip_prefix(b"-").map_or((false, value), |rest| (true, rest));
    let point = value.iter().position(|byte| *byte == b'.');
    let (whole, fraction) = value.split_at(point.unwrap_or(value.len()));
    let fraction = fraction.strip_prefix(b".").unwrap_or_default();
    if !fraction.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let digit = |at: usize| fraction.get(at).map_or(0, |digit| u32::from(digit - b'0'));
    let mut nanos = (0..9).fold(0, |nanos, at| nanos * 10 + digit(at));
    let mut seconds = decimal(whole)?.cast_signed();
    if negative {
        // Rounds down, as times are.
        let finer = fraction.iter().skip(9).any(|digit| *digit != b'0');
        nanos += u32::from(finer);
        seconds = -seconds - i64::from(nanos > 0);
        nanos = if nanos > 0 { 1_000_000_000 - nanos } else { 0 };
    }
    Some(Time { seconds, nanos })
}

/// A line, as `record` reads it.
pub fn write(key: &str, value: &[u8], to: &mut Vec<u8>) {
    // The length counts its own digits.
    let bare = key.len() + value.len() + 3;
    let mut length = bare + bare.to_string().len();
    length = bare + length.to_string().len();
    to.extend_from_slice(format!("{length} {key}=").as_bytes());
    to.extend_from_slice(value);
    to.push(b'\n');
}

/// Parses a time in the format of pax headers.
pub fn time_text(time: Time) -> String {
    let Time { seconds, nanos } = time;
    let text = if seconds < 0 && nanos > 0 {
        format!("-{}.{:09}", -(seconds + 1), 1_000_000_000 - nanos)
    } else {
        format!("{seconds}.{nanos:09}")
    };
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_before_and_after_1970() {
        let check = |text: &str, seconds, nanos| {
            assert_eq!(time(text.as_bytes()), Some(Time { seconds, nanos }), "{text}");
        };
        check("0", 0, 0);
        check("1644317623.2803335", 1_644_317_623, 280_333_500);
        check("-1", -1, 0);
        check("-1.5", -2, 500_000_000);
        check("-0.25", -1, 750_000_000);
        check("-0.0000000001", -1, 999_999_999);
        check("9999999999.999999999999", 9_999_999_999, 999_999_999);
        check("5.", 5, 0);
        for text in ["", "-", ".5", "1e3", "1.-5", "99999999999999999999", "+1"] {
            assert_eq!(time(text.as_bytes()), None, "{text}");
        }
        for (seconds, nanos) in [(0, 0), (-1, 0), (-1, 1), (-2, 500_000_000), (7_000_000_000, 10)] {
            let moment = Time { seconds, nanos };
            assert_eq!(time(time_text(moment).as_bytes()), Some(moment));
        }
    }

    #[test]
    fn lines_come_back_whatever_their_length() {
        for length in (0..12).chain(80..110).chain(980..1010) {
            let mut header = Vec::new();
            write("path", &vec![b'x'; length], &mut header);
            let (key, value, rest) = record(&header).unwrap();
            assert_eq!((key, value.len(), rest), (&b"path"[..], length, &b""[..]));
        }
    }

    #[test]
    fn hostile_lines_are_refused() {
        for line in [
            "",
            "5",
            " a=b\n",
            "0 a=b\n",
            "3 \n",
            "6 a=b",
            "7 a=b\n",
            "5 a=b\n",
            "6 =bb\n",
            "-6 a=b\n",
            "99999999999999999999999 a=b\n",
            "18446744073709551615 a=b\n",
            "6 abc\n",
        ] {
            assert!(record(line.as_bytes()).is_none(), "{line:?}");
        }
        assert!(Pax::default().read(b"12 path=a\0b\n").is_err());
        assert!(Pax::default().read(b"11 size=-1\n").is_err());
    }
}
