//! The files of a journal, by name: a day, and a number where the day has several.

use std::fmt;
use std::fs::{self, File};
use std::io::{self, BufRead as _, BufReader, Read as _};
use std::path::{Path, PathBuf};

use crate::line::{self, LINE_BYTES_MAX};

/// End of the name of each file.
const EXTENSION: &str = ".jsonl";

/// Name of a file. Names are in the order of the chain.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct FileName {
    /// `YYYY-MM-DD`.
    pub day: String,
    /// Number among the files of the day, from 0 on.
    pub part: u32,
}

impl FileName {
    fn parse(name: &str) -> Option<Self> {
        let stem = name.strip_suffix(EXTENSION)?;
        let (day, part) = match stem.split_once('.') {
            Some((day, part)) => (day, part.parse().ok().filter(|part| *part > 0)?),
            None => (stem, 0),
        };
        let day = Some(day.to_owned()).filter(|day| is_day(day))?;
        let parsed = Self { day, part };
        // `2026-11-29.01.jsonl` is none of the journal's.
        (parsed.to_string() == name).then_some(parsed)
    }

    /// The next file of the day.
    pub fn next(&self) -> Self {
        Self { day: self.day.clone(), part: self.part + 1 }
    }
}

impl fmt::Display for FileName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.part {
            0 => write!(f, "{}{EXTENSION}", self.day),
            part => write!(f, "{}.{part}{EXTENSION}", self.day),
        }
    }
}

fn is_day(text: &str) -> bool {
    let shape = |(at, byte): (usize, u8)| match at {
        4 | 7 => byte == b'-',
        _ => byte.is_ascii_digit(),
    };
    text.len() == 10 && text.bytes().enumerate().all(shape)
}

/// Day of a time (RFC 3339).
pub fn day_of(time: &str) -> &str {
    time.get(..10).unwrap_or_default()
}

/// One file of a journal.
#[derive(Debug, Clone)]
pub(crate) struct Listed {
    pub name: FileName,
    pub path: PathBuf,
}

/// The files of the journal in `dir`, in the order of the chain. Other files are left out.
pub(crate) fn list(dir: &Path) -> io::Result<Vec<Listed>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if let Some(name) = entry.file_name().to_str().and_then(FileName::parse) {
            found.push(Listed { name, path: entry.path() });
        }
    }
    found.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(found)
}

/// Number of the first record of the file at `path`; none if it has none.
pub(crate) fn first_seq(path: &Path) -> io::Result<Option<u64>> {
    let mut reader = BufReader::new(File::open(path)?);
    let line = next_line(&mut reader)?;
    Ok(line.and_then(|line| line::parse(&line.bytes)).map(|record| record.seq))
}

/// A line that was read.
pub(crate) struct Line {
    /// The line without its line feed, or the beginning of one over the limit.
    pub bytes: Vec<u8>,
    /// Whether it has its line feed.
    pub has_ended: bool,
    /// Bytes that it takes in the file.
    pub length: u64,
}

/// The next line; none at the end.
pub(crate) fn next_line(reader: &mut impl io::BufRead) -> io::Result<Option<Line>> {
    let mut bytes = Vec::new();
    let mut length = reader.take(LINE_BYTES_MAX as u64).read_until(b'\n', &mut bytes)? as u64;
    if bytes.is_empty() {
        return Ok(None);
    }
    let mut has_ended = bytes.pop_if(|last| *last == b'\n').is_some();
    while !has_ended {
        let more = reader.fill_buf()?;
        let feed = more.iter().position(|byte| *byte == b'\n');
        let taken = feed.map_or(more.len(), |feed| feed + 1);
        reader.consume(taken);
        length += taken as u64;
        if taken == 0 {
            break;
        }
        has_ended = feed.is_some();
    }
    Ok(Some(Line { bytes, has_ended, length }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_in_the_order_of_the_chain() {
        let names = ["2026-11-29.jsonl", "2026-11-29.2.jsonl", "2026-11-29.10.jsonl"];
        let parsed = names.map(|name| FileName::parse(name).unwrap());
        assert!(parsed.is_sorted());
        assert_eq!(parsed.clone().map(|name| name.to_string()), names);
        assert_eq!(parsed[1].next().to_string(), "2026-11-29.3.jsonl");
        assert!(parsed[2] < FileName::parse("2026-11-30.jsonl").unwrap());
        for other in [
            "head",
            "lock",
            "2026-11-29.0.jsonl",
            "2026-11-29.01.jsonl",
            "x.jsonl",
            "2026-1-1.jsonl",
        ] {
            assert_eq!(FileName::parse(other), None, "{other}");
        }
    }
}
