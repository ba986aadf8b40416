//! A journal over real files: written, read, checked, and tampered with.

#[cfg(test)]
mod faults;
#[cfg(test)]
mod reading;
#[cfg(test)]
mod tampering;
#[cfg(test)]
mod writing;

#[cfg(test)]
use std::path::{Path, PathBuf};
#[cfg(test)]
use std::time::Duration;

#[cfg(test)]
use emberd_api::AuditRecord;
#[cfg(test)]
use emberd_audit::{Journal, Options, Verified, verify};

/// Day of most records. No clock has come to it: what the journal says about itself is of today,
/// and stays in the file of a later day.
#[cfg(test)]
const DAY: &str = "2126-11-29";

/// Options that keep everything.
#[cfg(test)]
fn options(dir: &Path) -> Options {
    Options {
        dir: dir.join("audit"),
        file_bytes_max: 256 << 20,
        keep: Duration::from_hours(24 * 90),
        keep_bytes: 10 << 30,
    }
}

/// A record of an action at noon of a day.
#[cfg(test)]
fn record(day: &str, action: &str) -> AuditRecord {
    let time = format!("{day}T12:00:00.000000Z");
    AuditRecord { time, action: action.to_owned(), ..AuditRecord::default() }
}

/// Writes a journal with these records, and closes it.
#[cfg(test)]
fn write(options: Options, records: impl IntoIterator<Item = AuditRecord>) {
    let journal = Journal::open(options).unwrap();
    for record in records {
        journal.record(record);
    }
    journal.close();
}

/// Names of the files, in the order of the chain.
#[cfg(test)]
fn files(dir: &Path) -> Vec<PathBuf> {
    let mut files: Vec<_> = std::fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "jsonl"))
        .collect();
    let key = |path: &PathBuf| {
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        let (day, part) = name.split_once('.').unwrap_or((&name, "0"));
        (day.to_owned(), part.parse::<u32>().unwrap())
    };
    files.sort_by_key(key);
    files
}

#[cfg(test)]
fn names(dir: &Path) -> Vec<String> {
    let name = |path: &PathBuf| path.file_name().unwrap().to_str().unwrap().to_owned();
    files(dir).iter().map(name).collect()
}

/// Every record of the journal.
#[cfg(test)]
fn all(dir: &Path) -> Vec<AuditRecord> {
    let text = |path: &PathBuf| std::fs::read_to_string(path).unwrap();
    let text: String = files(dir).iter().map(text).collect();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Number and action of every record.
#[cfg(test)]
fn actions(dir: &Path) -> Vec<(u64, String)> {
    all(dir).into_iter().map(|record| (record.seq, record.action)).collect()
}

/// Checks a journal that is whole.
#[cfg(test)]
#[track_caller]
fn whole(dir: &Path) -> Verified {
    verify(dir).unwrap_or_else(|error| panic!("{error}"))
}
