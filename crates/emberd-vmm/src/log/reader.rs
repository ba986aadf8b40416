//! Follows a log from near its end, across its rotation.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use super::{LOG_BYTES_MAX, predecessor, printable};

/// Most bytes of a log that are made text at once (64 KiB); a longer line is cut there.
const PIECE_BYTES_MAX: usize = 64 << 10;

/// A reader of one microVM's log. Blocks only as long as a disk does.
#[derive(Debug)]
pub struct ConsoleReader {
    path: PathBuf,
    /// None until the log exists.
    file: Option<File>,
    /// Bytes read and not yet returned.
    pending: Vec<u8>,
}

impl ConsoleReader {
    /// Begins `lines_max` lines before the end of the log at `path`, or with all that is held.
    pub fn open(path: &Path, lines_max: Option<usize>) -> Self {
        let mut reader = Self { path: path.to_owned(), file: None, pending: Vec::new() };
        // Opened first: if the log is rotated in the meantime, this file is the older one.
        reader.file = File::open(path).ok();
        reader.pending = reader.read_predecessor().unwrap_or_default();
        if let Err(error) = reader.read_file(LOG_BYTES_MAX) {
            tracing::debug!(%error, path = %path.display(), "cannot read a log");
        }
        if let Some(lines_max) = lines_max {
            let kept_from = start_of_last(&reader.pending, lines_max);
            reader.pending.drain(..kept_from);
        }
        reader
    }

    /// Returns the whole lines not returned yet, without control characters; empty if there are
    /// none at the moment.
    pub fn lines(&mut self) -> String {
        if !self.pending.contains(&b'\n')
            && let Err(error) = self.read_on()
        {
            tracing::debug!(%error, path = %self.path.display(), "cannot read the rest of a log");
        }
        let piece = &self.pending[..self.pending.len().min(PIECE_BYTES_MAX)];
        let whole = match piece.iter().rposition(|byte| *byte == b'\n') {
            Some(last) => last + 1,
            None if piece.len() == PIECE_BYTES_MAX => PIECE_BYTES_MAX,
            None => 0,
        };
        text(self.pending.drain(..whole))
    }

    /// Returns the unterminated last line, at the end of the log.
    pub fn rest(&mut self) -> String {
        text(self.pending.drain(..))
    }

    fn read_predecessor(&self) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        let before = File::open(predecessor(&self.path))?;
        let same = match &self.file {
            Some(file) => file.metadata()?.ino() == before.metadata()?.ino(),
            None => false,
        };
        if !same {
            before.take(LOG_BYTES_MAX).read_to_end(&mut bytes)?;
        }
        Ok(bytes)
    }

    /// Reads the added bytes, and opens the next file once this one is read to its end.
    fn read_on(&mut self) -> io::Result<()> {
        // Checked before the file is read: bytes added between this check and the rotation are
        // then read too.
        let replaced = match (&self.file, std::fs::metadata(&self.path)) {
            (Some(file), Ok(now)) => file.metadata()?.ino() != now.ino(),
            (None, Ok(_)) => true,
            (_, Err(_)) => false,
        };
        if self.read_file(PIECE_BYTES_MAX as u64)? == 0 && replaced {
            self.file = File::open(&self.path).ok();
            self.read_file(PIECE_BYTES_MAX as u64)?;
        }
        Ok(())
    }

    fn read_file(&mut self, bytes_max: u64) -> io::Result<usize> {
        match &self.file {
            Some(file) => file.take(bytes_max).read_to_end(&mut self.pending),
            None => Ok(0),
        }
    }
}

/// Where the last `lines_max` lines of `bytes` begin. A line without end at the end counts.
fn start_of_last(bytes: &[u8], lines_max: usize) -> usize {
    if lines_max == 0 {
        return bytes.len();
    }
    let body = bytes.strip_suffix(b"\n").unwrap_or(bytes);
    let ends = body.iter().enumerate().rev().filter(|(_, byte)| **byte == b'\n');
    ends.map(|(at, _)| at + 1).nth(lines_max - 1).unwrap_or(0)
}

/// `bytes` with every line printable. Lines end as they did.
fn text(bytes: impl Iterator<Item = u8>) -> String {
    let bytes: Vec<u8> = bytes.collect();
    let text = String::from_utf8_lossy(&bytes);
    text.split_inclusive('\n').fold(String::with_capacity(text.len()), |mut kept, line| {
        kept.push_str(&printable(line));
        if line.ends_with('\n') {
            kept.push('\n');
        }
        kept
    })
}

#[cfg(test)]
mod tests {
    use super::super::{LOG_FILE, Log};
    use super::*;

    fn log() -> (tempfile::TempDir, PathBuf, Log) {
        let dir = tempfile::tempdir().unwrap();
        let log = Log::create(dir.path()).unwrap();
        let path = dir.path().join(LOG_FILE);
        (dir, path, log)
    }

    #[test]
    fn last_lines_then_what_is_added() {
        let (_dir, path, mut log) = log();
        log.append(b"one\ntwo\n\nfour\n");
        let mut reader = ConsoleReader::open(&path, Some(2));
        assert_eq!(reader.lines(), "\nfour\n");
        assert_eq!(reader.lines(), "");
        log.append(b"fi");
        assert_eq!(reader.lines(), "");
        log.append(b"ve\nsix");
        assert_eq!((reader.lines(), reader.rest()), ("five\n".into(), "six".into()));
        for (lines_max, expect) in [(Some(0), ""), (Some(9), "one\n"), (None, "one\n")] {
            assert!(ConsoleReader::open(&path, lines_max).lines().starts_with(expect));
        }
    }

    #[test]
    fn no_control_character_passes() {
        let (_dir, path, mut log) = log();
        log.append(b"\x1b[31mred\x1b[0m\x07\r\n\xff\n");
        assert_eq!(ConsoleReader::open(&path, None).lines(), "red\n\u{fffd}\n");
    }

    #[test]
    fn nothing_is_lost_when_the_log_becomes_another_file() {
        let (_dir, path, mut log) = log();
        log.append(b"0\n");
        let mut reader = ConsoleReader::open(&path, None);
        let mut text = reader.lines();
        // The log is full and replaced about twice.
        let padding = "x".repeat(1000);
        let mut expect = "0\n".to_owned();
        for number in 1..2500 {
            let line = format!("{number} {padding}\n");
            log.append(line.as_bytes());
            expect.push_str(&line);
            text.push_str(&reader.lines());
        }
        text.push_str(&reader.lines());
        assert_eq!(text, expect);
        // A late reader has what both files hold.
        let mut late = ConsoleReader::open(&path, Some(3));
        assert_eq!(late.lines().lines().count(), 3);
    }

    #[test]
    fn a_line_without_end_is_cut() {
        let (_dir, path, mut log) = log();
        log.append(&b"y".repeat(PIECE_BYTES_MAX + 1));
        let mut reader = ConsoleReader::open(&path, None);
        assert_eq!((reader.lines().len(), reader.rest().len()), (PIECE_BYTES_MAX, 1));
    }

    #[test]
    fn no_log_is_an_empty_one() {
        let mut reader = ConsoleReader::open(Path::new("/nonexistent/vm.log"), Some(3));
        assert_eq!((reader.lines(), reader.rest()), (String::new(), String::new()));
    }
}
