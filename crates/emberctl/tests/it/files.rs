//! `cp` and `files`.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;

use serde_json::Value;
use tempfile::TempDir;

use crate::fake_daemon::{FakeDaemon, Flaws};
use crate::{complaint, printed, run, run_with_stdin};

/// A daemon, a directory, and the paths of names in it here and in the sandbox.
struct Desk {
    daemon: FakeDaemon,
    dir: TempDir,
}

impl Desk {
    fn new() -> Self {
        Self { daemon: FakeDaemon::start(Flaws::default()), dir: tempfile::tempdir().unwrap() }
    }

    fn here(&self, name: &str) -> String {
        self.dir.path().join(name).to_str().unwrap().to_owned()
    }

    fn there(&self, name: &str) -> String {
        format!("sb_1:{}", self.here(name))
    }

    fn emberctl(&self, args: &[&str]) -> std::process::Output {
        run(&self.daemon.addr, args)
    }
}

#[test]
fn file_goes_in_and_comes_out() {
    let desk = Desk::new();
    fs::write(desk.here("a"), vec![7; 300_000]).unwrap();
    let output = desk.emberctl(&["cp", &desk.here("a"), &desk.there("b c%")]);
    assert_eq!(printed(&output), format!("{}  292.9 KiB\n", desk.there("b c%")));
    assert_eq!(fs::read(desk.here("b c%")).unwrap(), vec![7; 300_000]);
    fs::set_permissions(desk.here("a"), Permissions::from_mode(0o4711)).unwrap();
    fs::create_dir(desk.here("dir")).unwrap();
    printed(&desk.emberctl(&["cp", &desk.there("a"), &desk.here("dir")]));
    let copy = fs::metadata(desk.here("dir/a")).unwrap();
    assert_eq!((copy.len(), copy.permissions().mode() & 0o7777), (300_000, 0o711));
    printed(&desk.emberctl(&["cp", &desk.here("a"), &desk.there("dir")]));
    let requests = desk.daemon.requests();
    assert!(requests.last().unwrap().contains("mode=711"), "{requests:?}");
    assert_eq!(fs::read_dir(desk.here("dir")).unwrap().count(), 1);
}

#[test]
fn directory_goes_in_and_comes_out() {
    let desk = Desk::new();
    fs::create_dir_all(desk.here("from/deep")).unwrap();
    fs::write(desk.here("from/deep/file"), "content").unwrap();
    let json = desk.emberctl(&["--json", "cp", &desk.here("from"), &desk.there("to")]);
    let json: Value = serde_json::from_str(printed(&json)).unwrap();
    assert_eq!(json["to"], desk.there("to").as_str());
    assert!(json["bytes"].as_u64().unwrap() > 1000, "{json}");
    assert_eq!(fs::read(desk.here("to/deep/file")).unwrap(), b"content");
    // Into a directory that is there.
    printed(&desk.emberctl(&["cp", &desk.here("from"), &desk.there("to")]));
    assert!(fs::exists(desk.here("to/from/deep/file")).unwrap());
    printed(&desk.emberctl(&["cp", &desk.there("from"), &desk.here("back")]));
    assert_eq!(fs::read(desk.here("back/deep/file")).unwrap(), b"content");
}

#[test]
fn a_copy_is_called_as_its_caller_calls_it() {
    let desk = Desk::new();
    fs::create_dir_all(desk.here("from")).unwrap();
    fs::create_dir(desk.here("dir")).unwrap();
    fs::write(desk.here("from/liar"), "echo had").unwrap();
    printed(&desk.emberctl(&["cp", &desk.there("from/liar"), &desk.here("dir")]));
    fs::remove_file(desk.here("dir/liar")).unwrap();
    fs::create_dir(desk.here("liar")).unwrap();
    printed(&desk.emberctl(&["cp", &desk.there("liar"), &desk.here("dir")]));
    assert!(fs::metadata(desk.here("dir/liar")).unwrap().is_dir());
    assert_eq!(fs::read_dir(desk.here("dir")).unwrap().count(), 1);
    let output = desk.emberctl(&["cp", &desk.there("from/.."), &desk.here("dir")]);
    assert_eq!(output.status.code(), Some(125));
    assert!(complaint(&output).contains("give the copy a name"), "{}", complaint(&output));
}

#[test]
fn standard_input_and_output() {
    let desk = Desk::new();
    let args = ["cp", "-", &desk.there("a")];
    printed(&run_with_stdin(&desk.daemon.addr, &args, b"\xff\0 content"));
    assert_eq!(fs::read(desk.here("a")).unwrap(), b"\xff\0 content");
    let output = desk.emberctl(&["cp", &desk.there("a"), "-"]);
    assert_eq!(
        (output.stdout.as_slice(), output.stderr.as_slice()),
        (&b"\xff\0 content"[..], &b""[..])
    );
    let output = desk.emberctl(&["cp", "--json", &desk.there("a"), "-"]);
    assert_eq!(output.status.code(), Some(125));
    assert!(complaint(&output).contains("leave out --json"));
}

#[test]
fn what_cannot_be_copied_is_said() {
    let desk = Desk::new();
    fs::write(desk.here("a"), "").unwrap();
    for (args, expect) in [
        ([desk.here("a"), desk.here("b")], "one path must be in a sandbox"),
        ([desk.there("a"), desk.there("b")], "one path must be in a sandbox"),
        ([desk.here("none"), desk.there("b")], "cannot read"),
        ([desk.there("none"), desk.here("b")], "no such file"),
        ([desk.there("a"), desk.here("no/such/dir")], "cannot write"),
    ] {
        let output = desk.emberctl(&["cp", &args[0], &args[1]]);
        assert_eq!(output.status.code(), Some(125), "{args:?}");
        assert!(complaint(&output).contains(expect), "{args:?}: {}", complaint(&output));
    }
    assert!(!fs::exists(desk.here("b")).unwrap());
}

#[test]
fn small_things_done_to_files() {
    let desk = Desk::new();
    fs::write(desk.here("a"), "12345").unwrap();
    let listed = desk.emberctl(&["files", "ls", &desk.there("")]);
    let lines: Vec<_> = printed(&listed).lines().collect();
    assert!(lines[0].starts_with("MODE") && lines[1].contains("5 B"), "{lines:?}");
    assert!(lines[1].ends_with(&desk.here("a")), "{lines:?}");
    let shown = desk.emberctl(&["files", "stat", "--json", &desk.there("a")]);
    let shown: Value = serde_json::from_str(printed(&shown)).unwrap();
    assert_eq!((&shown["type"], &shown["size"]), (&"file".into(), &5.into()));
    printed(&desk.emberctl(&["files", "mkdir", &desk.there("b/c")]));
    printed(&desk.emberctl(&["files", "mv", &desk.there("a"), &desk.here("b/c/d")]));
    assert_eq!(fs::read(desk.here("b/c/d")).unwrap(), b"12345");
    let watched = desk.emberctl(&["files", "watch", "-r", &desk.there("b")]);
    assert_eq!(printed(&watched), format!("created    {}\n", desk.here("b")));
    printed(&desk.emberctl(&["files", "rm", &desk.there("b")]));
    assert!(!fs::exists(desk.here("b")).unwrap());
    let output = desk.emberctl(&["files", "stat", "/no/sandbox"]);
    assert!(complaint(&output).contains("ID:PATH"), "{}", complaint(&output));
}
