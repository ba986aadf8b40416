//! A disk that takes nothing, a crash in the middle of a line, too many records at once.

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::path::Path;
use std::time::{Duration, Instant};

use emberd_api::AuditRecord;
use emberd_audit::Journal;
use emberd_testing::{run, with_mounts};

use super::{DAY, all, files, options, record, whole, write};

/// Longest wait for what must come about; only ever reached by a failing test.
const PATIENCE: Duration = Duration::from_secs(60);

fn until(condition: impl Fn() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < PATIENCE, "it comes about");
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn a_torn_line_is_cut_off_and_the_chain_goes_on() {
    let zeros = vec![0; 100_000];
    for torn in [&b"{\"seq\":3,\"prev\":\"ab"[..], &zeros, b"x"] {
        let temp = tempfile::tempdir().unwrap();
        let options = options(temp.path());
        let dir = options.dir.clone();
        write(options.clone(), [record(DAY, "a"), record(DAY, "b")]);
        let path = files(&dir)[0].clone();
        OpenOptions::new().append(true).open(&path).unwrap().write_all(torn).unwrap();
        assert!(whole(&dir).is_torn);
        write(options, [record(DAY, "c")]);
        let records = all(&dir);
        let told = records.iter().find(|record| record.action == "mend_journal").unwrap();
        assert_eq!((told.seq, told.cut_bytes), (3, Some(torn.len() as u64)));
        assert_eq!(records.last().unwrap().action, "c");
        let verified = whole(&dir);
        assert_eq!((verified.lines, verified.is_torn), (4, false));
    }
}

#[test]
fn a_file_without_a_whole_line_is_mended_too() {
    let temp = tempfile::tempdir().unwrap();
    let options = options(temp.path());
    let dir = options.dir.clone();
    write(options.clone(), [record("2126-11-28", "a")]);
    fs::write(dir.join("2126-11-29.jsonl"), "{\"seq\"").unwrap();
    write(options, [record(DAY, "b")]);
    let records = all(&dir);
    let actions: Vec<_> = records.iter().map(|record| record.action.as_str()).collect();
    // The mending is told with the time of the clock.
    assert_eq!(actions, ["a", "mend_journal", "b"]);
    assert_eq!(whole(&dir).lines, 3);
}

/// Runs `story` on a thread with a file system of its own, of 256 KiB, which is full. Nothing
/// happens, which is a skip, where that cannot be.
fn with_full_disk(story: impl FnOnce(&Path) + Send + 'static) {
    with_mounts(move || {
        let temp = tempfile::tempdir().unwrap();
        run(&format!("mount -t tmpfs -o size=256k none {}", temp.path().display()));
        let filled = fs::write(temp.path().join("rest"), vec![0; 512 << 10]).unwrap_err();
        assert_eq!(filled.kind(), std::io::ErrorKind::StorageFull);
        story(temp.path());
        run(&format!("umount {}", temp.path().display()));
    });
}

#[test]
fn what_a_full_disk_did_not_take_is_written_later() {
    with_full_disk(|disk| {
        let options = options(disk);
        let dir = options.dir.clone();
        // The directory and its files have no content yet.
        let journal = Journal::open(options).unwrap();
        journal.record(record(DAY, "a"));
        until(|| journal.is_failing());
        for _ in 0..100 {
            journal.record(record(DAY, "b"));
        }
        let figures = journal.figures();
        assert!(figures.is_failing && figures.failures > 0, "{figures:?}");
        assert_eq!((figures.lines, figures.lost, figures.waiting), (0, 0, 101));
        fs::remove_file(disk.join("rest")).unwrap();
        until(|| !journal.is_failing());
        assert_eq!(journal.figures().lines, 101);
        journal.close();
        assert_eq!(whole(&dir).lines, 101);
    });
}

#[test]
fn records_beyond_the_queue_are_lost_counted_and_told() {
    with_full_disk(|disk| {
        let options = options(disk);
        let dir = options.dir.clone();
        let journal = Journal::open(options).unwrap();
        journal.record(record(DAY, "a"));
        until(|| journal.is_failing());
        for _ in 0..20_000 {
            journal.record(AuditRecord::default());
        }
        let lost = journal.figures().lost;
        assert_eq!(lost, 20_001 - 16_384);
        // The rest does not fit beside what fills the disk, nor does it fit at all.
        fs::remove_file(disk.join("rest")).unwrap();
        run(&format!("mount -o remount,size=16m {}", disk.display()));
        until(|| !journal.is_failing());
        until(|| journal.figures().waiting == 0);
        journal.close();
        let records = all(&dir);
        let told: u64 = records
            .iter()
            .filter(|record| record.action == "lose_records")
            .filter_map(|record| record.left_out)
            .sum();
        assert_eq!(told, lost);
        let verified = whole(&dir);
        assert!(verified.lines > 16_384, "{verified:?}");
    });
}

#[test]
fn a_file_that_is_removed_under_the_writer_is_followed_by_another() {
    let temp = tempfile::tempdir().unwrap();
    let options = options(temp.path());
    let dir = options.dir.clone();
    let journal = Journal::open(options).unwrap();
    journal.record(record(DAY, "a"));
    until(|| journal.figures().lines == 1);
    let path = files(&dir)[0].clone();
    fs::remove_file(&path).unwrap();
    // It is noticed within a second, by a sync.
    let start = Instant::now();
    while files(&dir).is_empty() {
        assert!(start.elapsed() < PATIENCE);
        journal.record(record(DAY, "b"));
        std::thread::sleep(Duration::from_millis(20));
    }
    journal.close();
    assert_eq!(super::names(&dir), ["2126-11-29.1.jsonl"]);
    assert!(emberd_audit::verify(&dir).is_err());
}

#[test]
fn records_of_a_journal_that_is_closed_wait_for_nothing() {
    let temp = tempfile::tempdir().unwrap();
    let options = options(temp.path());
    let journal = Journal::open(options.clone()).unwrap();
    journal.record(record(DAY, "a"));
    journal.close();
    journal.record(record(DAY, "b"));
    journal.close();
    assert_eq!(whole(&options.dir).lines, 1);
}
