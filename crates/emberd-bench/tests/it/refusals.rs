//! What the bench refuses, and how it says so.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::{bench, temp_dir, text};

#[test]
fn wrong_usage_ends_with_2() {
    let temp = temp_dir();
    for args in [&[][..], &["nonsense"], &["exec", "--iterations", "0"], &["exec", "--addr", "x"]] {
        let output = bench(temp.path(), args).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{args:?}: {}", text(&output));
    }
}

#[test]
fn what_cannot_work_is_refused_before_anything_is_measured() {
    let temp = temp_dir();
    let cases = [
        (["--compare", "/nonexistent.json"], "cannot read /nonexistent.json"),
        (["--compare", "/dev/null"], "is not a result of emberd-bench"),
        (["--json", "/nonexistent/x.json"], "the directory /nonexistent does not exist"),
        (["--daemon", "/nonexistent"], "the program /nonexistent does not exist"),
    ];
    for (flags, said) in cases {
        let output = bench(temp.path(), &["overhead", flags[0], flags[1]]).output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{flags:?}");
        assert!(text(&output).contains(said), "{flags:?}: {}", text(&output));
    }
}

#[test]
fn a_daemon_that_is_not_built_is_named_with_the_command_that_builds_it() {
    let temp = temp_dir();
    let alone = temp.path().join("a/b/emberd-bench");
    fs::create_dir_all(alone.parent().unwrap()).unwrap();
    fs::hard_link(env!("CARGO_BIN_EXE_emberd-bench"), &alone)
        .or_else(|_| fs::copy(env!("CARGO_BIN_EXE_emberd-bench"), &alone).map(drop))
        .unwrap();
    let output = Command::new(&alone).arg("exec").output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let said = text(&output);
    assert!(said.contains("does not exist") && said.contains("a/b/emberd"), "{said}");
    assert!(said.contains("hint: build it with: cargo build"), "{said}");
}

#[test]
fn a_daemon_that_does_not_start_says_why() {
    let temp = temp_dir();
    let args = ["overhead", "--iterations", "1", "--", "--guest-ram-mib", "1"];
    let output = bench(temp.path(), &args).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output).contains("--guest-ram-mib is `1`"), "{}", text(&output));
    assert_eq!(left_in(temp.path()), 0);
}

#[test]
fn nobody_at_the_address() {
    let temp = temp_dir();
    let args = ["exec", "overhead", "--addr", "unix:/nonexistent/emberd.sock"];
    let output = bench(temp.path(), &args).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let said = text(&output);
    assert!(said.contains("cannot connect to a daemon at unix:/nonexistent"), "{said}");
    assert!(
        said.contains("overhead: failed: the scenario needs a daemon with its own flags"),
        "{said}"
    );
}

fn left_in(dir: &Path) -> usize {
    dir.read_dir().unwrap().count()
}
