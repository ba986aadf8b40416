//! Reading in parts, while it is written, rotated and removed.

use std::time::Duration;

use emberd_api::{AuditPage, AuditRecord, ReadAudit};
use emberd_audit::{Journal, Options, page};

use super::{DAY, options, record, write};

fn seqs(page: &AuditPage) -> Vec<u64> {
    page.records.iter().map(|record| record.seq).collect()
}

#[test]
fn pages_have_every_record_once() {
    let temp = tempfile::tempdir().unwrap();
    let options = Options { file_bytes_max: 3000, ..options(temp.path()) };
    let dir = options.dir.clone();
    write(options, (0..300).map(|_| record(DAY, "a")));
    for limit in [1, 7, 300, 1000] {
        let (mut read, mut after) = (Vec::new(), 0);
        loop {
            let wanted = ReadAudit { after, limit: Some(limit), ..ReadAudit::default() };
            let page = page(&dir, &wanted).unwrap();
            assert!(page.records.len() <= limit && page.gap == 0);
            read.extend(seqs(&page));
            after = page.next;
            if page.is_end {
                break;
            }
        }
        assert_eq!(read, (1..=300).collect::<Vec<_>>(), "{limit}");
    }
}

#[test]
fn any_record_of_a_large_file_is_found() {
    let temp = tempfile::tempdir().unwrap();
    let options = options(temp.path());
    let dir = options.dir.clone();
    // Lines of very different lengths.
    let long = |number: u64| "x".repeat(usize::try_from(number * 7919 % 3000).unwrap());
    write(options, (1..=3000).map(|number| record(DAY, &long(number))));
    for after in [1, 2, 499, 500, 501, 1499, 2998, 2999, 3000, 4000] {
        let wanted = ReadAudit { after, limit: Some(1), ..ReadAudit::default() };
        let found = page(&dir, &wanted).unwrap();
        let expect = if after < 3000 { vec![after + 1] } else { Vec::new() };
        assert_eq!(seqs(&found), expect, "{after}");
    }
}

#[test]
fn records_are_chosen_by_time_action_and_sandbox() {
    let temp = tempfile::tempdir().unwrap();
    let options = options(temp.path());
    let dir = options.dir.clone();
    let of = |day: &str, action: &str, sandbox: &str| AuditRecord {
        sandbox: Some(sandbox.to_owned()),
        ..record(day, action)
    };
    let records = [
        of("2126-11-27", "exec_code", "sb_1"),
        of("2126-11-28", "exec_code", "sb_2"),
        of("2126-11-28", "delete_sandbox", "sb_1"),
        // The clock was set back.
        of("2126-11-27", "exec_code", "sb_1"),
        of("2126-11-29", "exec_code", "sb_1"),
    ];
    write(options, records);
    let check = |wanted: ReadAudit, expect: &[u64]| {
        let page = page(&dir, &wanted).unwrap();
        assert_eq!(seqs(&page), expect, "{wanted:?}");
        assert!(page.is_end && page.next == 5, "{page:?}");
    };
    let text = |text: &str| Some(text.to_owned());
    check(ReadAudit::default(), &[1, 2, 3, 4, 5]);
    check(ReadAudit { action: text("delete_sandbox"), ..ReadAudit::default() }, &[3]);
    check(ReadAudit { sandbox: text("sb_1"), ..ReadAudit::default() }, &[1, 3, 4, 5]);
    let since = text("2126-11-28T00:00:00.000000Z");
    check(ReadAudit { since: since.clone(), ..ReadAudit::default() }, &[2, 3, 5]);
    let (sandbox, action) = (text("sb_1"), text("exec_code"));
    check(ReadAudit { since, sandbox, action, ..ReadAudit::default() }, &[5]);
    let none = page(&dir.join("none"), &ReadAudit::default()).unwrap();
    assert_eq!(none, AuditPage { is_end: true, ..AuditPage::default() });
}

#[tokio::test]
async fn a_follower_sees_every_record_over_rotations() {
    let temp = tempfile::tempdir().unwrap();
    let options = Options { file_bytes_max: 2000, ..options(temp.path()) };
    let dir = options.dir.clone();
    let journal = Journal::open(options).unwrap();
    let follower = tokio::spawn({
        let (journal, dir) = (journal.clone(), dir.clone());
        async move {
            let (mut seen, mut after) = (Vec::new(), 0);
            while seen.len() < 1000 {
                journal.written(after).await;
                let page = page(&dir, &ReadAudit { after, ..ReadAudit::default() }).unwrap();
                assert_eq!(page.gap, 0);
                seen.extend(seqs(&page));
                after = page.next;
            }
            seen
        }
    });
    for number in 0..1000 {
        let day = if number < 500 { "2126-11-28" } else { DAY };
        journal.record(record(day, "a"));
        if number % 50 == 0 {
            journal.written(number).await;
        }
    }
    let seen = tokio::time::timeout(Duration::from_secs(60), follower).await.unwrap().unwrap();
    assert_eq!(seen, (1..=1000).collect::<Vec<_>>());
    journal.close();
    assert!(super::files(&dir).len() > 50);
}

#[test]
fn records_whose_files_are_gone_are_a_gap() {
    let temp = tempfile::tempdir().unwrap();
    let options = Options { file_bytes_max: 1000, keep_bytes: 3000, ..options(temp.path()) };
    let dir = options.dir.clone();
    write(options, (0..200).map(|_| record(DAY, "a")));
    let first = super::all(&dir)[0].seq;
    let read = |after| page(&dir, &ReadAudit { after, ..ReadAudit::default() }).unwrap();
    assert!(first > 100);
    assert_eq!(read(50).gap, first - 51);
    assert_eq!(seqs(&read(50))[0], first);
    assert_eq!(read(first - 1).gap, 0);
    // Who asks for all that are kept misses none.
    assert_eq!(read(0).gap, 0);
}
