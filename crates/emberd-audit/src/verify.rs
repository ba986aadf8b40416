//! Checks a whole journal, line by line, from the first that is kept.

use std::fmt;
use std::fs::File;
use std::io::{self, BufReader};
use std::path::{Path, PathBuf};

use crate::disk::read_head;
use crate::files::{self, Listed};
use crate::line::{self, Head};

/// A journal in which every line fits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified {
    /// Number of files.
    pub files: usize,
    /// Number of lines.
    pub lines: u64,
    /// Number of the first line; 0 if there is none.
    pub first: u64,
    /// The last line.
    pub last: Head,
    /// Whether the last line has not ended: the daemon was writing it, or was killed then.
    pub is_torn: bool,
    /// Whether the journal says how far it was on the disk. If not, lines that were removed from
    /// the end are not noticed.
    pub has_head: bool,
}

/// The first line that does not fit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Misfit {
    /// Its file.
    pub file: PathBuf,
    /// Its number in the file, from 1 on.
    pub line: u64,
    /// Why it does not fit.
    pub why: Why,
}

/// Why a line does not fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// Not a record.
    NoRecord,
    /// Not the digest of the line before: that one was changed, or another was there.
    Changed,
    /// Lines before it are missing, from this number on.
    Missing(u64),
    /// The number is not higher than that of the line before: it was inserted, or moved.
    Moved,
    /// Lines after it are missing: the journal was on the disk up to this number.
    MissingAfter(u64),
    /// Not the line that was there when the journal was last synced.
    Replaced,
    /// Nothing says that the lines before it were removed in order.
    MissingBefore,
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoRecord => f.write_str("the line is not a record"),
            Self::Changed => f.write_str("the line before it was changed or replaced"),
            Self::Missing(from) => write!(f, "lines before it are missing, from number {from} on"),
            Self::Moved => f.write_str("the line was inserted or moved"),
            Self::MissingAfter(to) => {
                write!(f, "lines after it are missing: the journal had reached number {to}")
            }
            Self::Replaced => f.write_str("the line was changed"),
            Self::MissingBefore => {
                f.write_str("lines before it were removed, and not by the daemon")
            }
        }
    }
}

/// Why a journal is not whole, or could not be checked.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// A line does not fit.
    #[error("{}:{}: {}", .0.file.display(), .0.line, .0.why)]
    Misfit(Misfit),
    /// A file cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file, or the directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// Checks every line of the journal in `dir`. A daemon may go on writing it. Blocks.
///
/// # Errors
/// [`VerifyError`]: the first line that does not fit.
pub fn verify(dir: &Path) -> Result<Verified, VerifyError> {
    // Before the lines: they only get more.
    let synced = read_head(dir);
    let listed = files::list(dir).map_err(failed(dir))?;
    let mut checked = Checked::new(synced);
    for (number, Listed { path, .. }) in listed.iter().enumerate() {
        let file = match File::open(path) {
            // It was too old, and is the first.
            Err(error) if error.kind() == io::ErrorKind::NotFound && checked.lines == 0 => continue,
            file => file.map_err(failed(path))?,
        };
        checked.file(path, file, number + 1 == listed.len())?;
    }
    checked.end(listed.len())
}

fn failed(path: &Path) -> impl FnOnce(io::Error) -> VerifyError {
    let path = path.to_owned();
    move |source| VerifyError::Read { path, source }
}

/// The part that was checked so far.
struct Checked {
    lines: u64,
    first: Option<(u64, PathBuf)>,
    last: Head,
    last_at: (PathBuf, u64),
    synced: Option<Head>,
    /// The last record that the daemon says to have removed.
    removed_to: u64,
    is_torn: bool,
}

impl Checked {
    fn new(synced: Option<Head>) -> Self {
        let (last, last_at) = (Head::default(), (PathBuf::new(), 0));
        Self { lines: 0, first: None, last, last_at, synced, removed_to: 0, is_torn: false }
    }

    fn file(&mut self, path: &Path, file: File, is_last: bool) -> Result<(), VerifyError> {
        let mut reader = BufReader::new(file);
        let mut number = 0;
        while let Some(line) = files::next_line(&mut reader).map_err(failed(path))? {
            number += 1;
            if !line.has_ended && is_last {
                self.is_torn = true;
                break;
            }
            self.line(path, number, &line.bytes)?;
        }
        Ok(())
    }

    fn line(&mut self, path: &Path, number: u64, line: &[u8]) -> Result<(), VerifyError> {
        let wrong = |why| Err(misfit(path, number, why));
        let Some(record) = line::parse(line) else { return wrong(Why::NoRecord) };
        let this = Head { seq: record.seq, sha256: line::digest(line) };
        match &self.first {
            None => {
                // The first line of all has no line before it.
                if this.seq <= 1 && record.prev != Head::default().sha256 {
                    return wrong(Why::Changed);
                }
                self.first = Some((this.seq, path.to_owned()));
            }
            Some(_) if this.seq <= self.last.seq => return wrong(Why::Moved),
            Some(_) if this.seq > self.last.seq + 1 => {
                return wrong(Why::Missing(self.last.seq + 1));
            }
            Some(_) if record.prev != self.last.sha256 => return wrong(Why::Changed),
            Some(_) => {}
        }
        if self.synced.as_ref().is_some_and(|head| head.seq == this.seq && *head != this) {
            return wrong(Why::Replaced);
        }
        self.removed_to = self.removed_to.max(record.removed_to.unwrap_or(0));
        (self.last, self.last_at, self.lines) = (this, (path.to_owned(), number), self.lines + 1);
        Ok(())
    }

    fn end(self, files: usize) -> Result<Verified, VerifyError> {
        let (path, line) = self.last_at;
        if let Some(head) = self.synced.as_ref().filter(|head| head.seq > self.last.seq) {
            return Err(misfit(&path, line, Why::MissingAfter(head.seq)));
        }
        if let Some((first, path)) = self.first.as_ref().filter(|(first, _)| *first > 1)
            && self.removed_to + 1 < *first
        {
            return Err(misfit(path, 1, Why::MissingBefore));
        }
        Ok(Verified {
            files,
            lines: self.lines,
            first: self.first.map_or(0, |(first, _)| first),
            last: self.last,
            is_torn: self.is_torn,
            has_head: self.synced.is_some(),
        })
    }
}

fn misfit(file: &Path, line: u64, why: Why) -> VerifyError {
    VerifyError::Misfit(Misfit { file: file.to_owned(), line, why })
}
