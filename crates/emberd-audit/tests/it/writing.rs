//! What is written: the chain over restarts, days and full files, and what is kept.

use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use emberd_api::AuditRecord;
use emberd_audit::{Head, Journal, OpenError, Options};

use super::{DAY, actions, all, names, options, record, whole, write};

#[test]
fn a_chain_goes_on_over_restarts_and_days() {
    let temp = tempfile::tempdir().unwrap();
    let options = options(temp.path());
    let dir = options.dir.clone();
    write(options.clone(), [record("2126-11-28", "a"), record("2126-11-28", "b")]);
    write(options.clone(), [record("2126-11-28", "c"), record(DAY, "d")]);
    write(options, [record(DAY, "e")]);
    assert_eq!(names(&dir), ["2126-11-28.jsonl", "2126-11-29.jsonl"]);
    let numbered = ["a", "b", "c", "d", "e"].map(str::to_owned);
    assert_eq!(actions(&dir), (1..).zip(numbered).collect::<Vec<_>>());
    let verified = whole(&dir);
    assert_eq!((verified.files, verified.lines, verified.first), (2, 5, 1));
    assert!(verified.has_head && !verified.is_torn);
    assert_eq!(verified.last.seq, 5);
    assert_eq!(all(&dir)[0].prev, Head::default().sha256);
}

#[test]
fn records_are_in_the_order_in_which_they_were_put_whenever_the_writer_is_woken() {
    let temp = tempfile::tempdir().unwrap();
    let options = options(temp.path());
    let dir = options.dir.clone();
    let journal = Journal::open(options).unwrap();
    let first = journal.put(record(DAY, "a"));
    journal.record(record(DAY, "b"));
    drop(first);
    let last = journal.put(record(DAY, "c"));
    // Written though nobody has woken the writer for it.
    journal.close();
    drop(last);
    let numbered = ["a", "b", "c"].map(str::to_owned);
    assert_eq!(actions(&dir), (1..).zip(numbered).collect::<Vec<_>>());
}

#[test]
fn only_its_user_can_read_a_journal() {
    let temp = tempfile::tempdir().unwrap();
    let options = options(temp.path());
    let dir = options.dir.clone();
    write(options, [record(DAY, "a")]);
    let mode = |path: &std::path::Path| std::fs::metadata(path).unwrap().permissions().mode();
    assert_eq!(mode(&dir) & 0o777, 0o700);
    for entry in std::fs::read_dir(&dir).unwrap() {
        let path = entry.unwrap().path();
        assert_eq!(mode(&path) & 0o777, 0o600, "{}", path.display());
    }
}

#[test]
fn a_clock_that_is_set_back_begins_no_earlier_file() {
    let temp = tempfile::tempdir().unwrap();
    let options = options(temp.path());
    let dir = options.dir.clone();
    write(options.clone(), [record("2126-11-29", "a"), record("2126-11-27", "b")]);
    write(options, [record("2020-01-01", "c"), record("2126-11-30", "d")]);
    assert_eq!(names(&dir), ["2126-11-29.jsonl", "2126-11-30.jsonl"]);
    let times: Vec<_> = all(&dir).into_iter().map(|record| record.time[..10].to_owned()).collect();
    assert_eq!(times, ["2126-11-29", "2126-11-27", "2020-01-01", "2126-11-30"]);
    assert_eq!(whole(&dir).lines, 4);
}

#[test]
fn a_full_file_is_followed_by_another_of_the_day() {
    let temp = tempfile::tempdir().unwrap();
    let options = Options { file_bytes_max: 1000, ..options(temp.path()) };
    let dir = options.dir.clone();
    write(options.clone(), (0..100).map(|_| record(DAY, "a")));
    write(options, (0..100).map(|_| record(DAY, "b")));
    let names = names(&dir);
    assert!(names.len() > 10, "{names:?}");
    assert_eq!(names[..3], ["2126-11-29.jsonl", "2126-11-29.1.jsonl", "2126-11-29.2.jsonl"]);
    assert_eq!(whole(&dir).lines, 200);
    for path in super::files(&dir) {
        let bytes = std::fs::metadata(&path).unwrap().len();
        // A file ends with the line that fills it.
        assert!(bytes < 1000 + 200, "{bytes}");
    }
}

#[test]
fn old_files_go_and_the_journal_says_so() {
    let temp = tempfile::tempdir().unwrap();
    let keep = Duration::from_hours(24 * 2);
    let options = Options { keep, ..options(temp.path()) };
    let dir = options.dir.clone();
    let days = ["2126-11-20", "2126-11-26", "2126-11-27", "2126-11-29", "2126-11-30"];
    write(options, days.map(|day| record(day, day)));
    // At the beginning of the 29th, the 26th had ended two days before; a day later, three.
    let kept = ["2126-11-27.jsonl", "2126-11-29.jsonl", "2126-11-30.jsonl"];
    assert_eq!(names(&dir), kept);
    let told: Vec<_> = all(&dir).into_iter().filter_map(|record| record.removed_to).collect();
    // The record about the first removal is in the file that was removed next.
    assert_eq!(told, [3]);
    let verified = whole(&dir);
    assert_eq!((verified.first, verified.last.seq), (4, 7));
}

#[test]
fn the_oldest_files_go_where_all_are_too_large() {
    let temp = tempfile::tempdir().unwrap();
    let options = Options { file_bytes_max: 1000, keep_bytes: 5000, ..options(temp.path()) };
    let dir = options.dir.clone();
    write(options, (0..500).map(|_| record(DAY, "a")));
    let sizes = super::files(&dir).into_iter().map(|path| std::fs::metadata(path).unwrap().len());
    let bytes: u64 = sizes.sum();
    assert!((4000..8000).contains(&bytes), "{bytes}");
    let verified = whole(&dir);
    assert!(verified.first > 400 && verified.last.seq > 500, "{verified:?}");
}

#[test]
fn a_directory_has_one_writer() {
    let temp = tempfile::tempdir().unwrap();
    let options = options(temp.path());
    let journal = Journal::open(options.clone()).unwrap();
    let second = Journal::open(options.clone());
    assert!(matches!(second, Err(OpenError::InUse(_))), "{second:?}");
    journal.record(record(DAY, "a"));
    journal.close();
    let third = Journal::open(options.clone()).unwrap();
    third.record(AuditRecord { status: Some(200), ..record(DAY, "b") });
    third.close();
    assert_eq!(whole(&options.dir).lines, 2);
}

#[test]
fn a_directory_that_cannot_be_made_is_named() {
    let temp = tempfile::tempdir().unwrap();
    std::fs::write(temp.path().join("audit"), "a file").unwrap();
    let error = Journal::open(options(temp.path())).unwrap_err();
    assert!(error.to_string().ends_with("/audit for the audit journal"), "{error}");
}
