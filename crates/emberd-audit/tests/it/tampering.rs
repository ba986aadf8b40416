//! The first line that does not fit is named.

use std::fs;
use std::path::{Path, PathBuf};

use emberd_audit::{Misfit, Options, VerifyError, Why, verify};

use super::{DAY, files, options, record, whole, write};

/// A journal of 30 lines in three files, for two days.
fn journal() -> (tempfile::TempDir, PathBuf) {
    let temp = tempfile::tempdir().unwrap();
    let options = Options { file_bytes_max: 2000, ..options(temp.path()) };
    let dir = options.dir.clone();
    let days = (0..30).map(|number| {
        let day = if number < 20 { "2126-11-28" } else { DAY };
        record(day, &format!("action-{number}"))
    });
    write(options, days);
    assert_eq!(whole(&dir).lines, 30);
    assert!(files(&dir).len() >= 3);
    (temp, dir)
}

fn lines(path: &Path) -> Vec<String> {
    fs::read_to_string(path).unwrap().lines().map(str::to_owned).collect()
}

fn put(path: &Path, lines: &[String]) {
    fs::write(path, lines.join("\n") + "\n").unwrap();
}

/// Changes the lines of one file, and expects the misfit on a line of the same one.
#[track_caller]
fn check(file: usize, edit: impl FnOnce(&mut Vec<String>), line: u64, why: Why) {
    let (_temp, dir) = journal();
    let path = files(&dir)[file].clone();
    let mut edited = lines(&path);
    edit(&mut edited);
    put(&path, &edited);
    found(&dir, &path, line, why);
}

#[track_caller]
fn found(dir: &Path, file: &Path, line: u64, why: Why) {
    match verify(dir) {
        Err(VerifyError::Misfit(misfit)) => {
            assert_eq!(misfit, Misfit { file: file.to_owned(), line, why });
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_changed_line_is_found() {
    let edit = |lines: &mut Vec<String>| lines[4] = lines[4].replace("action-4", "action-x");
    check(0, edit, 6, Why::Changed);
    let edit = |lines: &mut Vec<String>| lines[0] = lines[0].replace("T12", "T13");
    check(0, edit, 2, Why::Changed);
    check(0, |lines| lines[3] = "{}".to_owned(), 4, Why::NoRecord);
    check(0, |lines| lines[3].truncate(20), 4, Why::NoRecord);
}

#[test]
fn a_changed_last_line_is_found() {
    let (_temp, dir) = journal();
    let path = files(&dir).pop().unwrap();
    let mut edited = lines(&path);
    let last = edited.len() - 1;
    edited[last] = edited[last].replace("action-29", "action-30");
    put(&path, &edited);
    found(&dir, &path, last as u64 + 1, Why::Replaced);
}

#[test]
fn a_removed_line_is_found() {
    check(0, |lines| drop(lines.remove(4)), 5, Why::Missing(5));
    check(0, |lines| drop(lines.remove(0)), 1, Why::MissingBefore);
    let (_temp, dir) = journal();
    let path = files(&dir).pop().unwrap();
    let mut edited = lines(&path);
    edited.pop();
    put(&path, &edited);
    found(&dir, &path, edited.len() as u64, Why::MissingAfter(30));
}

#[test]
fn an_inserted_line_is_found() {
    check(0, |lines| lines.insert(5, lines[4].clone()), 6, Why::Moved);
    // One that was made to look as if it were next.
    let next = |lines: &mut Vec<String>| {
        lines.insert(5, lines[5].replace("action-5", "action-x"));
    };
    check(0, next, 7, Why::Moved);
    // Numbers that were all made to fit.
    let renumbered = |lines: &mut Vec<String>| {
        lines.insert(2, lines[2].clone());
        for (number, line) in lines.iter_mut().enumerate().skip(3) {
            *line =
                line.replace(&format!("\"seq\":{number},"), &format!("\"seq\":{},", number + 1));
        }
    };
    check(0, renumbered, 4, Why::Changed);
}

#[test]
fn lines_in_another_order_are_found() {
    check(0, |lines| lines.swap(3, 4), 4, Why::Missing(4));
    let (_temp, dir) = journal();
    let (one, other) = (files(&dir)[0].clone(), files(&dir)[1].clone());
    let aside = dir.join("aside");
    fs::rename(&one, &aside).unwrap();
    fs::rename(&other, &one).unwrap();
    fs::rename(&aside, &other).unwrap();
    found(&dir, &other, 1, Why::Moved);
}

#[test]
fn a_removed_file_is_found() {
    let (_temp, dir) = journal();
    let files = files(&dir);
    let before = lines(&files[0]).len() as u64;
    fs::remove_file(&files[1]).unwrap();
    found(&dir, &files[2], 1, Why::Missing(before + 1));
    // The first, which the daemon has not removed.
    fs::remove_file(&files[0]).unwrap();
    found(&dir, &files[2], 1, Why::MissingBefore);
    for file in &files[2..] {
        fs::remove_file(file).unwrap();
    }
    let VerifyError::Misfit(misfit) = verify(&dir).unwrap_err() else { panic!("a misfit") };
    assert_eq!(misfit.why, Why::MissingAfter(30));
}

#[test]
fn a_daemon_that_starts_over_a_shortened_journal_says_so() {
    let (temp, dir) = journal();
    let path = files(&dir).pop().unwrap();
    let mut edited = lines(&path);
    edited.truncate(edited.len() - 3);
    put(&path, &edited);
    write(options(temp.path()), [record(DAY, "later")]);
    let records = super::all(&dir);
    let told = records.iter().find(|record| record.action == "lose_records").unwrap();
    assert_eq!((told.left_out, told.seq), (Some(3), 31));
    found(&dir, &path, edited.len() as u64 + 1, Why::Missing(28));
}

#[test]
fn what_is_not_there_cannot_be_checked() {
    let temp = tempfile::tempdir().unwrap();
    let error = verify(&temp.path().join("none")).unwrap_err();
    assert!(matches!(error, VerifyError::Read { .. }), "{error}");
    let empty = verify(temp.path()).unwrap();
    assert_eq!((empty.lines, empty.has_head), (0, false));
}
