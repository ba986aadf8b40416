//! Reads a journal in parts. The daemon may go on writing, and remove old files meanwhile.

use std::fs::File;
use std::io::{self, BufReader, Seek as _, SeekFrom};
use std::path::Path;

use emberd_api::{AUDIT_RECORDS_MAX, AuditPage, AuditRecord, ReadAudit};

use crate::files::{self, Listed, day_of};
use crate::line;

/// Most bytes that are read for one page (64 MiB): one that finds little ends early.
const SCAN_BYTES_MAX: u64 = 64 << 20;

/// Distance within which a line is looked for one by one, in bytes (16 KiB).
const NEAR_BYTES: u64 = 16 << 10;

/// Reads what `wanted` asks for from the journal in `dir`. `since` is a time as records have it, of
/// microseconds and in UTC. Blocks.
///
/// # Errors
/// The directory or a file cannot be read.
pub fn page(dir: &Path, wanted: &ReadAudit) -> io::Result<AuditPage> {
    let limit = wanted.limit.unwrap_or(AUDIT_RECORDS_MAX).clamp(1, AUDIT_RECORDS_MAX);
    let listed = match files::list(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        listed => listed?,
    };
    let mut page = AuditPage { next: wanted.after, ..AuditPage::default() };
    let (begin, gap) = begin(&listed, wanted)?;
    page.gap = gap;
    let mut scanned = 0;
    for (number, Listed { path, .. }) in listed.iter().enumerate().skip(begin) {
        let file = match File::open(path) {
            // It was too old.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            file => file?,
        };
        let start = if number == begin { near(&file, page.next)? } else { 0 };
        let mut reader = BufReader::new(file);
        reader.seek(SeekFrom::Start(start))?;
        while let Some(line) = files::next_line(&mut reader)? {
            if page.records.len() == limit || scanned > SCAN_BYTES_MAX {
                return Ok(page);
            }
            scanned += line.length;
            let record = line::parse(&line.bytes).filter(|_| line.has_ended);
            let Some(record) = record.filter(|record| record.seq > page.next) else { continue };
            page.next = record.seq;
            if is_wanted(&record, wanted) {
                page.records.push(record);
            }
        }
    }
    page.is_end = true;
    Ok(page)
}

/// The first file to read, and the number of records that are missing before it.
fn begin(listed: &[Listed], wanted: &ReadAudit) -> io::Result<(usize, u64)> {
    let mut begin = 0;
    if let Some(since) = &wanted.since {
        // A record is never later than the day of its file.
        begin = listed.partition_point(|file| file.name.day.as_str() < day_of(since));
    }
    let mut gap = 0;
    if wanted.after > 0 {
        for (number, file) in listed.iter().enumerate() {
            let first = match files::first_seq(&file.path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                first => first?,
            };
            let Some(first) = first else { continue };
            if first > wanted.after + 1 {
                if number == 0 {
                    gap = first - wanted.after - 1;
                }
                break;
            }
            begin = begin.max(number);
        }
    }
    Ok((begin, gap))
}

/// The place of a line at or before the first after number `after`, not far from it.
fn near(file: &File, after: u64) -> io::Result<u64> {
    let (mut low, mut high) = (0, file.metadata()?.len());
    while after > 0 && high - low > NEAR_BYTES {
        let middle = low + (high - low) / 2;
        match record_from(file, middle, high)? {
            Some((place, seq)) if seq <= after => low = place,
            _ => high = middle,
        }
    }
    Ok(low)
}

/// The first record that begins after `from` and before `to`: its place and number.
fn record_from(mut file: &File, from: u64, to: u64) -> io::Result<Option<(u64, u64)>> {
    file.seek(SeekFrom::Start(from))?;
    let mut reader = BufReader::new(file);
    let mut place = from;
    // The rest of a line.
    let mut is_whole = false;
    while place < to {
        let Some(line) = files::next_line(&mut reader)? else { return Ok(None) };
        if let Some(record) = line::parse(&line.bytes).filter(|_| is_whole && line.has_ended) {
            return Ok(Some((place, record.seq)));
        }
        (place, is_whole) = (place + line.length, true);
    }
    Ok(None)
}

fn is_wanted(record: &AuditRecord, wanted: &ReadAudit) -> bool {
    let ReadAudit { since, action, sandbox, .. } = wanted;
    since.as_ref().is_none_or(|since| record.time >= *since)
        && action.as_ref().is_none_or(|action| record.action == *action)
        && sandbox.as_ref().is_none_or(|sandbox| record.sandbox.as_ref() == Some(sandbox))
}
