//! Follows a log from near its end, across its rotation.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom};
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
    /// How much of `file` was read, in bytes.
    position: u64,
    /// The predecessor, as it was when `file` was read last. An open file keeps its number to
    /// itself, so another predecessor has another one.
    before: Option<File>,
    /// Bytes read and not yet returned.
    pending: Vec<u8>,
}

impl ConsoleReader {
    /// Begins `lines_max` lines before the end of the log at `path`, or with all that is held.
    pub fn open(path: &Path, lines_max: Option<usize>) -> Self {
        let path = path.to_owned();
        let mut reader = Self { path, file: None, position: 0, before: None, pending: Vec::new() };
        if let Err(error) = reader.read_on(LOG_BYTES_MAX) {
            tracing::debug!(%error, path = %reader.path.display(), "cannot read a log");
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
            && let Err(error) = self.read_on(PIECE_BYTES_MAX as u64)
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

    /// Reads up to `bytes_max` added bytes. Where the log was rotated meanwhile, first reads its
    /// end from the predecessor, whole.
    fn read_on(&mut self, bytes_max: u64) -> io::Result<()> {
        if self.file.is_none() {
            self.file = opened(&self.path)?;
        }
        let Some(file) = &mut self.file else { return Ok(()) };
        let mut added = Vec::new();
        file.seek(SeekFrom::Start(self.position))?;
        file.take(bytes_max).read_to_end(&mut added)?;
        // Looked at after the log was read: if there is no new one, all of it was the log's.
        let before = opened(&predecessor(&self.path))?;
        if number(before.as_ref())? == number(self.before.as_ref())? {
            self.position += added.len() as u64;
            self.pending.append(&mut added);
            return Ok(());
        }
        if let Some(mut before) = before {
            // One that is full begins later than the log did, and by how much is not known.
            let is_whole = before.metadata()?.len() < LOG_BYTES_MAX;
            before.seek(SeekFrom::Start(if is_whole { self.position } else { 0 }))?;
            (&mut before).take(LOG_BYTES_MAX).read_to_end(&mut self.pending)?;
            self.before = Some(before);
        }
        self.position = 0;
        let Some(file) = &mut self.file else { return Ok(()) };
        file.seek(SeekFrom::Start(0))?;
        let read = file.take(bytes_max).read_to_end(&mut self.pending)?;
        self.position = read as u64;
        Ok(())
    }
}

/// The file at `path`, if there is one.
fn opened(path: &Path) -> io::Result<Option<File>> {
    match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        file => file.map(Some),
    }
}

fn number(file: Option<&File>) -> io::Result<Option<u64>> {
    file.map(|file| Ok(file.metadata()?.ino())).transpose()
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
    use std::io::Write as _;

    use super::super::{LOG_FILE, Log};
    use super::*;

    /// A log, with the VMM's end of it.
    fn log() -> (tempfile::TempDir, PathBuf, Log, File) {
        let dir = tempfile::tempdir().unwrap();
        let log = Log::create(dir.path()).unwrap();
        let (path, vmm) = (dir.path().join(LOG_FILE), log.file().unwrap());
        (dir, path, log, vmm)
    }

    fn all_lines(reader: &mut ConsoleReader) -> String {
        std::iter::repeat_with(|| reader.lines()).take_while(|lines| !lines.is_empty()).collect()
    }

    #[test]
    fn a_reader_left_behind_goes_on_with_what_is_kept() {
        let (_dir, path, log, mut vmm) = log();
        vmm.write_all(b"seen\n").unwrap();
        let mut reader = ConsoleReader::open(&path, None);
        assert_eq!(reader.lines(), "seen\n");
        vmm.write_all(&b"y\n".repeat(1 << 20)).unwrap();
        log.tend();
        vmm.write_all(b"after\n").unwrap();
        let text = all_lines(&mut reader);
        assert!(text.starts_with("y\n") && text.ends_with("y\nafter\n"));
        assert_eq!(text.len() as u64, LOG_BYTES_MAX + 6);
        assert_eq!(reader.lines(), "");
    }

    #[test]
    fn last_lines_then_what_is_added() {
        let (_dir, path, _log, mut vmm) = log();
        vmm.write_all(b"one\ntwo\n\nfour\n").unwrap();
        let mut reader = ConsoleReader::open(&path, Some(2));
        assert_eq!(reader.lines(), "\nfour\n");
        assert_eq!(reader.lines(), "");
        vmm.write_all(b"fi").unwrap();
        assert_eq!(reader.lines(), "");
        vmm.write_all(b"ve\nsix").unwrap();
        assert_eq!((reader.lines(), reader.rest()), ("five\n".into(), "six".into()));
        for (lines_max, expect) in [(Some(0), ""), (Some(9), "one\n"), (None, "one\n")] {
            assert!(ConsoleReader::open(&path, lines_max).lines().starts_with(expect));
        }
    }

    #[test]
    fn no_control_character_passes() {
        let (_dir, path, _log, mut vmm) = log();
        vmm.write_all(b"\x1b[31mred\x1b[0m\x07\r\n\xff\n").unwrap();
        assert_eq!(ConsoleReader::open(&path, None).lines(), "red\n\u{fffd}\n");
    }

    #[test]
    fn nothing_is_lost_when_the_log_becomes_another_file() {
        let (_dir, path, log, mut vmm) = log();
        vmm.write_all(b"0\n").unwrap();
        let mut reader = ConsoleReader::open(&path, None);
        let mut text = reader.lines();
        // The log is rotated about four times, each time with some of it unread.
        let padding = "x".repeat(1000);
        let mut expect = "0\n".to_owned();
        for number in 1..2500 {
            let line = format!("{number} {padding}\n");
            vmm.write_all(line.as_bytes()).unwrap();
            expect.push_str(&line);
            if number % 70 == 0 {
                text.push_str(&all_lines(&mut reader));
            }
            if number % 300 == 0 {
                log.tend();
            }
        }
        text.push_str(&all_lines(&mut reader));
        assert!(text == expect);
        // A late reader has what both files hold.
        let mut late = ConsoleReader::open(&path, Some(3));
        assert_eq!(late.lines().lines().count(), 3);
    }

    #[test]
    fn a_line_without_end_is_cut() {
        let (_dir, path, _log, mut vmm) = log();
        vmm.write_all(&b"y".repeat(PIECE_BYTES_MAX + 1)).unwrap();
        let mut reader = ConsoleReader::open(&path, None);
        assert_eq!((reader.lines().len(), reader.rest().len()), (PIECE_BYTES_MAX, 1));
    }

    #[test]
    fn no_log_is_an_empty_one() {
        let mut reader = ConsoleReader::open(Path::new("/nonexistent/vm.log"), Some(3));
        assert_eq!((reader.lines(), reader.rest()), (String::new(), String::new()));
    }
}
