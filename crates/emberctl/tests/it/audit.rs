//! `audit`: the journal of the fake daemon, and real journals without one.

use std::path::Path;
use std::time::Duration;

use emberd_api::{AuditRecord, ReadAudit};
use emberd_audit::{Journal, Options, page};
use serde_json::{Value, json};

use crate::fake_daemon::{FakeDaemon, Flaws};
use crate::{ADDR_DEAD, complaint, printed, run};

/// Answers a request for the journal, by its query: two pages, or a line of a followed one.
pub fn answer(query: &str) -> String {
    let record = |seq: u64, action: &str| {
        json!({"seq": seq, "prev": "ab", "time": "2026-11-29T12:00:00.000001Z", "action": action,
            "request": "0123456789abcdef", "principal": "uid:7", "sandbox": "sb_1", "status": 200})
    };
    if query.ends_with("follow=true") {
        return format!("{}\n{}\n", json!({"gap": 3}), record(9, "exec_code"));
    }
    assert!(query.contains("&since=2026-11-29&action=exec_code&sandbox=sb_1&"), "{query}");
    let (action, after) = ("exec_code", query.starts_with("audit?after=0&"));
    let (records, is_end) = if after { (vec![record(1, action)], false) } else { (vec![], true) };
    json!({"records": records, "next": 8, "is_end": is_end, "gap": 0}).to_string()
}

#[test]
fn the_journal_is_printed_and_followed() {
    let daemon = FakeDaemon::start(Flaws::default());
    let addr = daemon.addr.as_str();
    let args = ["--since", "2026-11-29", "--action", "exec_code", "--sandbox", "sb_1"];
    let all = run(addr, &[&["audit"][..], &args].concat());
    let line = "2026-11-29T12:00:00.000001Z  exec_code  uid:7  sb_1  200\n";
    assert_eq!(printed(&all), format!("1  {line}"));
    let followed = run(addr, &["audit", "-f"]);
    assert_eq!(printed(&followed), format!("(3 records are no longer kept)\n9  {line}"));
    let json = run(addr, &["audit", "-f", "--json"]);
    let lines: Vec<Value> =
        printed(&json).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((&lines[0]["gap"], &lines[1]["seq"]), (&json!(3), &json!(9)));
}

/// Writes a journal of five records in `dir`.
fn write(dir: &Path) {
    let keep = Duration::from_hours(24);
    let dir = dir.to_owned();
    let options = Options { dir, file_bytes_max: 1 << 20, keep, keep_bytes: 1 << 20 };
    let journal = Journal::open(options).unwrap();
    for _ in 0..5 {
        let time = "2026-11-29T12:00:00.000000Z".to_owned();
        let action = "exec_code".to_owned();
        journal.record(AuditRecord { time, action, ..AuditRecord::default() });
    }
    journal.close();
}

#[test]
fn a_journal_is_verified_without_a_daemon() {
    let temp = tempfile::tempdir().unwrap();
    let data_dir = temp.path().to_str().unwrap();
    let dir = temp.path().join("audit");
    write(&dir);
    // Where a daemon with this data directory has it.
    let verify = |more: &[&str]| {
        run(ADDR_DEAD, &[&["--data-dir", data_dir, "audit", "verify"], more].concat())
    };
    let last = page(&dir, &ReadAudit::default()).unwrap().records.pop().unwrap();
    assert_eq!(last.seq, 5);
    let whole = verify(&[]);
    let whole = printed(&whole);
    assert!(whole.starts_with("5 lines in 1 files fit: numbers 1 to 5, the last with "), "{whole}");
    let json: Value = serde_json::from_str(printed(&verify(&["--json"]))).unwrap();
    assert_eq!((&json["is_whole"], &json["last"]), (&json!(true), &json!(5)));
    let file = dir.join("2026-11-29.jsonl");
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, text.replacen("exec_code", "exec_c0de", 2)).unwrap();
    let broken = verify(&[dir.to_str().unwrap()]);
    assert_eq!(broken.status.code(), Some(1), "{}", complaint(&broken));
    let expect = format!("{}:2: the line before it was changed or replaced\n", file.display());
    assert_eq!(std::str::from_utf8(&broken.stdout).unwrap(), expect);
    let json = verify(&["--json"]);
    let json: Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!((&json["is_whole"], &json["line"]), (&json!(false), &json!(2)));
    let none = verify(&["/nonexistent"]);
    assert_eq!(none.status.code(), Some(125));
    assert!(complaint(&none).contains("cannot read /nonexistent"), "{}", complaint(&none));
}
