//! The file that is written, and the ones before it: appended to, begun, removed, mended.

use std::collections::VecDeque;
use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, FileExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use emberd_api::AuditRecord;
use rustix::fs::{FallocateFlags, fallocate};
use rustix::io::Errno;

use crate::files::{self, FileName, Listed, day_of};
use crate::line::{self, Head, LINE_BYTES_MAX};
use crate::options::{OpenError, Options};

/// File whose lock the writer holds.
const LOCK: &str = "lock";

/// File with number and digest of the last line that is on the disk for certain.
pub(crate) const HEAD: &str = "head";

/// Most bytes that are written at once (256 KiB).
const WRITE_BYTES: usize = 256 << 10;

/// Space that is reserved ahead of what is written, in bytes (64 KiB): a full disk shows before
/// lines are lost.
const RESERVED_BYTES: u64 = 64 << 10;

/// Bytes that are read at once when the last line of a file is looked for.
const TAIL_BYTES: u64 = 64 << 10;

/// The directory, by its lock, and the end of the chain.
#[derive(Debug)]
pub(crate) struct Disk {
    options: Options,
    _lock: File,
    head: Head,
    open: Option<Open>,
    /// Files to remove once the record that tells of it is written.
    doomed: Vec<PathBuf>,
    is_dirty: bool,
}

#[derive(Debug)]
struct Open {
    name: FileName,
    path: PathBuf,
    file: File,
    /// Bytes of whole lines.
    bytes: u64,
    /// Where the reserved space ends; none where the file system reserves none.
    reserved: Option<u64>,
    /// Whether a part of a line may follow them.
    is_torn: bool,
}

impl Disk {
    /// Takes the directory, and finds the end of the chain. Returns records about what was mended
    /// too.
    pub fn open(options: Options) -> Result<(Self, Vec<AuditRecord>), OpenError> {
        let dir = options.dir.clone();
        let made = DirBuilder::new().recursive(true).mode(0o700).create(&dir);
        made.map_err(OpenError::io(&dir))?;
        let path = dir.join(LOCK);
        let lock = private().append(true).open(&path).map_err(OpenError::io(&path))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(OpenError::InUse(dir)),
            Err(TryLockError::Error(source)) => return Err(OpenError::Io { path, source }),
        }
        let (doomed, is_dirty) = (Vec::new(), true);
        let mut disk =
            Self { options, _lock: lock, head: Head::default(), open: None, doomed, is_dirty };
        let mended = disk.find_end().map_err(OpenError::io(&dir))?;
        Ok((disk, mended))
    }

    /// Finds the last line, and cuts off one that has not ended.
    fn find_end(&mut self) -> io::Result<Vec<AuditRecord>> {
        let mut mended = Vec::new();
        let listed = files::list(&self.options.dir)?;
        for Listed { name, path } in listed.iter().rev() {
            let file = OpenOptions::new().read(true).append(true).open(path)?;
            let (bytes, found) = (file.metadata()?.len(), last_line(&file)?);
            if found.end < bytes {
                file.set_len(found.end)?;
                file.sync_all()?;
                let cut = bytes - found.end;
                tracing::warn!(path = %path.display(), cut, "cut off a torn line of the journal");
                mended.push(AuditRecord { cut_bytes: Some(cut), ..about("mend_journal") });
            }
            if self.open.is_none() {
                let (name, path) = (name.clone(), path.clone());
                let (reserved, is_torn) = (Some(0), false);
                self.open = Some(Open { name, path, file, bytes: found.end, reserved, is_torn });
            }
            if let Some(line) = found.line {
                let seq = line::parse(&line).map(|record| record.seq);
                let seq = seq.map_or_else(|| last_seq(path), Ok)?;
                self.head = Head { seq, sha256: line::digest(&line) };
                break;
            }
        }
        // Lines are on the disk before the head that names them.
        let noted = read_head(&self.options.dir).map_or(0, |head| head.seq);
        if let Some(missing) = noted.checked_sub(self.head.seq).filter(|missing| *missing > 0) {
            tracing::error!(missing, "the end of the audit journal was removed");
            mended.push(AuditRecord { left_out: Some(missing), ..about("lose_records") });
            // Numbers are never used twice.
            self.head.seq = noted;
        }
        Ok(mended)
    }

    /// Number of the last line.
    pub fn seq(&self) -> u64 {
        self.head.seq
    }

    /// Appends `batch`, record by record: those that are written are taken out of it. Begins
    /// another file for another day, and where one is full.
    pub fn append(&mut self, batch: &mut VecDeque<AuditRecord>) -> io::Result<()> {
        while let Some(first) = batch.front() {
            let day = day_of(&first.time).to_owned();
            match &self.open {
                // The clock may have been set back; the chain goes on in the file that it is in.
                Some(open) if day <= open.name.day && open.bytes < self.options.file_bytes_max => {}
                Some(open) if day <= open.name.day => self.begin(open.name.next(), batch)?,
                _ => self.begin(FileName { day, part: 0 }, batch)?,
            }
            let (mut head, mut lines, mut count) = (self.head.clone(), Vec::new(), 0);
            let open = self.open.as_mut().expect("a file was begun");
            for record in batch.iter_mut() {
                let is_later = day_of(&record.time) > open.name.day.as_str();
                let is_full = open.bytes + lines.len() as u64 >= self.options.file_bytes_max;
                if count > 0 && (is_later || is_full || lines.len() >= WRITE_BYTES) {
                    break;
                }
                head.append(record, &mut lines);
                count += 1;
            }
            open.write(&lines)?;
            (self.head, self.is_dirty) = (head, true);
            batch.drain(..count);
            for path in self.doomed.drain(..) {
                if let Err(error) = fs::remove_file(&path) {
                    tracing::warn!(%error, path = %path.display(), "cannot remove an audit file");
                }
            }
        }
        Ok(())
    }

    /// Begins the file `name`. Where files are too old or too many, a record about their end comes
    /// first in it.
    fn begin(&mut self, name: FileName, batch: &mut VecDeque<AuditRecord>) -> io::Result<()> {
        if let Some(open) = &mut self.open {
            open.end()?;
        }
        let path = self.options.dir.join(name.to_string());
        let file = private().append(true).open(&path)?;
        File::open(&self.options.dir)?.sync_all()?;
        let bytes = file.metadata()?.len();
        let day = name.day.clone();
        let (reserved, is_torn) = (Some(0), false);
        self.open = Some(Open { name, path, file, bytes, reserved, is_torn });
        let removed_to = self.condemn(&day).unwrap_or_else(|error| {
            tracing::warn!(%error, "cannot find the audit files that are too old");
            None
        });
        if let Some(removed_to) = removed_to {
            let record = AuditRecord { removed_to: Some(removed_to), ..about("remove_files") };
            // Of the time of the record that it precedes, so that it is in this file.
            let time = batch.front().map_or(record.time, |first| first.time.clone());
            batch.push_front(AuditRecord { time, ..record });
        }
        Ok(())
    }

    /// Chooses the files to remove on `day`. Returns the number of the last record in them.
    fn condemn(&mut self, day: &str) -> io::Result<Option<u64>> {
        let mut listed = files::list(&self.options.dir)?;
        listed.pop();
        let sizes = listed.iter().map(|file| fs::metadata(&file.path).map(|file| file.len()));
        let sizes: Vec<u64> = sizes.collect::<io::Result<_>>()?;
        let mut bytes: u64 = sizes.iter().sum();
        let mut doomed = 0;
        for (file, size) in listed.iter().zip(&sizes) {
            let is_old = age(&file.name.day, day) > Some(self.options.keep);
            if !is_old && bytes <= self.options.keep_bytes {
                break;
            }
            bytes -= size;
            doomed += 1;
        }
        let rest = listed.split_off(doomed);
        self.doomed = listed.into_iter().map(|file| file.path).collect();
        if self.doomed.is_empty() {
            return Ok(None);
        }
        let first = rest.first().map(|file| files::first_seq(&file.path)).transpose()?.flatten();
        Ok(Some(first.map_or(self.head.seq, |first| first - 1)))
    }

    /// Puts what was appended on the disk, and notes how far that is.
    pub fn sync(&mut self) -> io::Result<()> {
        let Some(open) = self.open.as_mut().filter(|_| self.is_dirty) else { return Ok(()) };
        open.file.sync_data()?;
        if open.file.metadata()?.nlink() == 0 {
            tracing::error!(path = %open.path.display(), "the audit file was removed");
            // It takes no more lines: the next ones go to another.
            open.bytes = open.bytes.max(self.options.file_bytes_max);
        }
        let next = self.options.dir.join(format!("{HEAD}.next"));
        let mut file = private().write(true).truncate(true).open(&next)?;
        file.write_all(self.head.text().as_bytes())?;
        fs::rename(next, self.options.dir.join(HEAD))?;
        self.is_dirty = false;
        Ok(())
    }

    /// Whether [`Self::sync`] has something to do.
    pub fn is_dirty(&self) -> bool {
        self.is_dirty && self.open.is_some()
    }

    /// Releases what is reserved, and puts everything on the disk.
    pub fn end(&mut self) -> io::Result<()> {
        if let Some(open) = &mut self.open {
            open.end()?;
        }
        self.sync()
    }
}

impl Open {
    /// Appends whole lines, or nothing.
    fn write(&mut self, lines: &[u8]) -> io::Result<()> {
        if self.is_torn {
            self.file.set_len(self.bytes)?;
            self.is_torn = false;
        }
        let end = self.bytes + lines.len() as u64;
        self.reserve(end)?;
        if let Err(error) = self.file.write_all(lines) {
            // Half a line would spoil the one after it.
            self.is_torn = self.file.set_len(self.bytes).is_err();
            return Err(error);
        }
        self.bytes = end;
        Ok(())
    }

    /// Reserves space to `end` and some more.
    fn reserve(&mut self, end: u64) -> io::Result<()> {
        let Some(reserved) = self.reserved.filter(|reserved| *reserved < end) else {
            return Ok(());
        };
        let from = reserved.max(self.bytes);
        let bytes = end - from + RESERVED_BYTES;
        match fallocate(&self.file, FallocateFlags::KEEP_SIZE, from, bytes) {
            Ok(()) => self.reserved = Some(from + bytes),
            Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => self.reserved = None,
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }

    fn end(&mut self) -> io::Result<()> {
        self.file.set_len(self.bytes)?;
        self.reserved = self.reserved.map(|_| 0);
        self.file.sync_all()
    }
}

/// How files that only this user can read are made.
fn private() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.create(true).mode(0o600);
    options
}

/// A record about the journal itself.
pub(crate) fn about(action: &str) -> AuditRecord {
    let time = humantime::format_rfc3339_micros(std::time::SystemTime::now()).to_string();
    AuditRecord { action: action.to_owned(), time, ..AuditRecord::default() }
}

/// Number and digest of the last line that was synced, if they can be read.
pub(crate) fn read_head(dir: &Path) -> Option<Head> {
    Head::parse(&fs::read_to_string(dir.join(HEAD)).ok()?)
}

/// Time from the end of one day to the beginning of another; none if that is not later.
fn age(day: &str, today: &str) -> Option<Duration> {
    let start = |day: &str| humantime::parse_rfc3339(&format!("{day}T00:00:00Z")).ok();
    let end = start(day)? + Duration::from_secs(24 * 3600);
    start(today)?.duration_since(end).ok()
}

/// The last whole line of a file, and where it ends.
struct LastLine {
    end: u64,
    /// None if the file has no whole line.
    line: Option<Vec<u8>>,
}

fn last_line(file: &File) -> io::Result<LastLine> {
    let Some(end) = feed_before(file, file.metadata()?.len())? else {
        return Ok(LastLine { end: 0, line: None });
    };
    let start = feed_before(file, end)?.map_or(0, |feed| feed + 1);
    // A longer one is none of this journal's.
    let start = start.max(end.saturating_sub(LINE_BYTES_MAX as u64));
    let mut line = vec![0; usize::try_from(end - start).unwrap_or_default()];
    file.read_exact_at(&mut line, start)?;
    Ok(LastLine { end: end + 1, line: Some(line) })
}

/// Place of the last line feed before `end`.
fn feed_before(file: &File, mut end: u64) -> io::Result<Option<u64>> {
    while end > 0 {
        let start = end.saturating_sub(TAIL_BYTES);
        let mut piece = vec![0; usize::try_from(end - start).unwrap_or_default()];
        file.read_exact_at(&mut piece, start)?;
        if let Some(at) = piece.iter().rposition(|byte| *byte == b'\n') {
            return Ok(Some(start + at as u64));
        }
        end = start;
    }
    Ok(None)
}

/// The greatest number in a file whose last line has none.
fn last_seq(path: &Path) -> io::Result<u64> {
    tracing::error!(path = %path.display(), "the last line of the audit journal cannot be read");
    let mut reader = io::BufReader::new(File::open(path)?);
    let mut seq = 0;
    while let Some(line) = files::next_line(&mut reader)? {
        seq = line::parse(&line.bytes).map_or(seq, |record| record.seq);
    }
    Ok(seq)
}
