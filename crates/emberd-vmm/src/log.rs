//! The bounded log of one microVM: what its guest's console and its VMM print.
//!
//! The VMM itself appends to `vm.log`, so that its output needs no daemon. The daemon looks at the
//! file once in a while: where it has grown beyond [`ROTATED_BYTES_MIN`], its end becomes
//! `vm.log.1` in place of the one before, and the file begins again at 0. A guest chooses every
//! byte in it, so nothing reads it but [`tail`] and [`ConsoleReader`], which let no control
//! character through to a terminal or a JSON body.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};

mod reader;

pub use reader::ConsoleReader;

/// Name of the log in a microVM's directory.
pub(crate) const LOG_FILE: &str = "vm.log";

/// Name of the previous log, which is full.
const LOG_FILE_BEFORE: &str = "vm.log.1";

/// Most bytes of a full log that are kept (1 MiB).
pub const LOG_BYTES_MAX: u64 = 1 << 20;

/// Size of a log, in bytes, from which on it is rotated at the next look (512 KiB). A guest that
/// prints less than this between two looks loses nothing of it.
const ROTATED_BYTES_MIN: u64 = LOG_BYTES_MAX / 2;

/// Most bytes of the log's end that [`tail`] reads (16 KiB).
const TAIL_BYTES_MAX: u64 = 16 << 10;

/// One microVM's log, to which its VMM appends.
#[derive(Debug)]
pub(crate) struct Log {
    path: PathBuf,
    file: File,
}

impl Log {
    /// Starts the log of the microVM in `dir`.
    pub(crate) fn create(dir: &Path) -> io::Result<Self> {
        let path = dir.join(LOG_FILE);
        let file = OpenOptions::new().append(true).create_new(true).open(&path)?;
        Ok(Self { path, file })
    }

    /// Opens the log of a microVM that an earlier daemon started.
    pub(crate) fn open(dir: &Path) -> io::Result<Self> {
        let path = dir.join(LOG_FILE);
        let file = OpenOptions::new().append(true).open(&path)?;
        Ok(Self { path, file })
    }

    /// The file that the VMM writes to. What it writes goes to the end, wherever that is then.
    pub(crate) fn file(&self) -> io::Result<File> {
        self.file.try_clone()
    }

    /// Rotates a log that has grown large. What is written meanwhile is lost.
    ///
    /// Reports nothing to its caller: a full disk must not stop a guest.
    pub(crate) fn tend(&self) {
        if let Err(error) = self.rotate() {
            tracing::debug!(%error, path = %self.path.display(), "console log not rotated");
        }
    }

    fn rotate(&self) -> io::Result<()> {
        let bytes = self.file.metadata()?.len();
        if bytes < ROTATED_BYTES_MIN {
            return Ok(());
        }
        let mut log = File::open(&self.path)?;
        log.seek(SeekFrom::Start(bytes.saturating_sub(LOG_BYTES_MAX)))?;
        let unfinished = self.path.with_file_name("vm.log.1.new");
        io::copy(&mut log.take(LOG_BYTES_MAX), &mut File::create(&unfinished)?)?;
        // In this order: a reader that finds another predecessor begins the log again.
        self.file.set_len(0)?;
        std::fs::rename(unfinished, predecessor(&self.path))
    }
}

fn predecessor(path: &Path) -> PathBuf {
    path.with_file_name(LOG_FILE_BEFORE)
}

/// The last `lines_max` lines of the log at `path`, without control characters and with
/// U+FFFD for bytes that are not UTF-8; empty if the log does not exist.
///
/// Looks at no more than the last 16 KiB.
pub fn tail(path: &Path, lines_max: usize) -> String {
    let mut end = read_end(path, TAIL_BYTES_MAX);
    if (end.len() as u64) < TAIL_BYTES_MAX {
        let mut before = read_end(&predecessor(path), TAIL_BYTES_MAX - end.len() as u64);
        before.append(&mut end);
        end = before;
    }
    let text = String::from_utf8_lossy(&end);
    let lines: Vec<String> =
        text.lines().map(printable).filter(|line| !line.trim().is_empty()).collect();
    lines[lines.len().saturating_sub(lines_max)..].join("\n")
}

fn read_end(path: &Path, bytes_max: u64) -> Vec<u8> {
    let mut end = Vec::new();
    let read = File::open(path).and_then(|mut file| {
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(bytes_max)))?;
        file.take(bytes_max).read_to_end(&mut end)
    });
    if let Err(error) = read {
        tracing::trace!(%error, path = %path.display(), "no log to read");
    }
    end
}

/// `line` without escape sequences, other control characters, and the invisible
/// characters that reorder text.
fn printable(line: &str) -> String {
    let mut kept = String::with_capacity(line.len());
    let mut chars = line.chars();
    while let Some(c) = chars.next() {
        match c {
            '\t' => kept.push(' '),
            '\u{1b}' => skip_escape(&mut chars),
            '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{200e}' | '\u{200f}' => {}
            c if c.is_control() => {}
            c => kept.push(c),
        }
    }
    kept
}

/// Skips what follows an ESC: a control sequence up to its final byte (ECMA-48 §5.4), or
/// one character.
fn skip_escape(chars: &mut std::str::Chars<'_>) {
    if chars.next() == Some('[') {
        chars.find(|c| !matches!(c, '\u{20}'..='\u{3f}'));
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn log_stays_within_its_limit_and_keeps_the_end() {
        let dir = tempfile::tempdir().unwrap();
        let log = Log::create(dir.path()).unwrap();
        let mut writer = log.file().unwrap();
        let line = [b"x".repeat(1023), b"\n".to_vec()].concat();
        for _ in 0..5000 {
            writer.write_all(&line).unwrap();
        }
        writer.write_all(b"the end\n").unwrap();
        log.tend();
        let path = dir.path().join(LOG_FILE);
        let sizes = [&path, &predecessor(&path)].map(|path| path.metadata().unwrap().len());
        assert_eq!(sizes, [0, LOG_BYTES_MAX]);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2);
        assert_eq!(tail(&path, 1), "the end");
        writer.write_all(b"goes on\n").unwrap();
        log.tend();
        assert_eq!(std::fs::read(&path).unwrap(), b"goes on\n");
        assert_eq!(tail(&path, 2), "the end\ngoes on");
    }

    #[test]
    fn tail_reaches_back_into_the_predecessor() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(LOG_FILE);
        std::fs::write(predecessor(&path), "one\ntwo\nthr").unwrap();
        std::fs::write(&path, "ee\n\nfour\n").unwrap();
        assert_eq!(tail(&path, 3), "two\nthree\nfour");
    }

    #[test]
    fn tail_of_no_log_is_empty() {
        assert_eq!(tail(Path::new("/nonexistent/vm.log"), 3), "");
    }

    #[test]
    fn tail_lets_no_control_character_through() {
        let cases: [(&[u8], &str); 7] = [
            (b"\x1b[31mred\x1b[0m", "red"),
            (b"\x1b]0;title\x07ok", "0;titleok"),
            (b"a\x08\x00b\x7f\r\n", "ab"),
            (b"caf\xc3\xa9 \xff", "café \u{fffd}"),
            ("\u{9b}31mc1 \u{202e}right".as_bytes(), "31mc1 right"),
            (b"cut \x1b[", "cut "),
            (b"a\tb", "a b"),
        ];
        for (printed, expect) in cases {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join(LOG_FILE);
            std::fs::write(&path, printed).unwrap();
            assert_eq!(tail(&path, 10), expect, "{printed:?}");
        }
    }

    #[test]
    fn tail_reads_a_bounded_end() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(LOG_FILE);
        std::fs::write(&path, "y".repeat(1 << 20)).unwrap();
        assert_eq!(tail(&path, 10).len() as u64, TAIL_BYTES_MAX);
    }
}
