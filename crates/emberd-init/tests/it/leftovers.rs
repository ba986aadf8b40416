//! What programs leave behind: it writes on, and nothing of it stays once it has ended.

use std::fs;
use std::path::Path;
use std::process::Command;

use emberd_proto::process::ProcessSpec;
use emberd_proto::{ContextSpec, ExecSpec, GuestMessage, HostMessage};
use serde_json::json;

use crate::guest::{Guest, Host, SHELL_PACK};

/// Bytes a program left behind writes to each of its streams: several times what a pipe holds.
const WRITTEN: usize = 1_000_000;

/// A script that leaves a program behind, ends, and leaves it waiting for `go`. It writes to both
/// streams then, and tells `told` how that went.
fn leaving(dir: &Path) -> String {
    for fifo in ["go", "told"] {
        let fifo = dir.join(fifo);
        fs::remove_file(&fifo).ok();
        assert!(Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    }
    let dir = dir.display();
    format!(
        "setsid sh -c 'cat {dir}/go; head -c {WRITTEN} /dev/zero && \
         head -c {WRITTEN} /dev/zero >&2; echo $? >{dir}/told' & echo left"
    )
}

/// Lets what `leaving` left behind write, and asserts that it can.
fn assert_writes_on(dir: &Path) {
    fs::write(dir.join("go"), "").unwrap();
    assert_eq!(fs::read_to_string(dir.join("told")).unwrap(), "0\n");
}

/// Descriptors the agent has open.
fn descriptors(guest: &Guest) -> usize {
    fs::read_dir(format!("/proc/{}/fd", guest.pid())).unwrap().count()
}

fn last(host: &mut Host) -> GuestMessage {
    loop {
        let frame = host.frame().expect("connection is open");
        if let Ok(exited @ GuestMessage::Exited(_)) = frame.message() {
            return exited;
        }
    }
}

#[test]
fn execs_leave_programs_that_write_on() {
    let guest = Guest::shell();
    let outcome = guest.run(&leaving(guest.dir()));
    assert_eq!(outcome.text(), "left");
    assert_writes_on(guest.dir());
}

#[test]
fn processes_leave_programs_that_write_on() {
    let guest = Guest::shell();
    let mut host = guest.greet();
    let spec = ProcessSpec::of_argv(["sh", "-c", &leaving(guest.dir())]);
    host.begin(&HostMessage::Start(spec));
    last(&mut host);
    assert_writes_on(guest.dir());
}

#[test]
fn contexts_leave_programs_that_write_on() {
    let dir = tempfile::tempdir().unwrap();
    let mut pack: serde_json::Value = serde_json::from_str(SHELL_PACK).unwrap();
    pack["contexts"] = json!([
        {"languages": ["shell"], "run": ["/bin/sh", "-c", leaving(dir.path())]}
    ]);
    let guest = Guest::with_pack(&pack.to_string());
    let mut host = guest.greet();
    host.begin(&HostMessage::Context(ContextSpec::default()));
    last(&mut host);
    assert_writes_on(dir.path());
}

#[test]
fn a_host_that_leaves_before_the_answer_leaves_them_their_streams() {
    let guest = Guest::shell();
    let mut host = guest.greet();
    host.start(&ExecSpec::new(leaving(guest.dir())));
    // The program has ended when its last word is there, or ends before the connection does.
    assert_eq!(host.line(), "left");
    host.outcome();
    host.leave();
    assert_writes_on(guest.dir());
}

#[test]
fn nothing_stays_of_what_was_left_behind_once_it_has_ended() {
    let guest = Guest::shell();
    let mut host = guest.greet();
    let before = descriptors(&guest);
    let spec = ExecSpec::new("sleep 600 & echo $!");
    let left: Vec<_> = (0..100).map(|_| host.exec(&spec, b"").text().to_owned()).collect();
    assert!(descriptors(&guest) >= before + 2 * left.len(), "their pipes are read");
    host.exec(&ExecSpec::new(format!("kill {}", left.join(" "))), b"");
    while descriptors(&guest) > before {
        host.ping();
    }
}

#[test]
fn an_exec_that_leaves_nothing_costs_no_descriptor() {
    let guest = Guest::shell();
    let mut host = guest.greet();
    let before = descriptors(&guest);
    for _ in 0..20 {
        host.exec(&ExecSpec::new("echo x"), b"");
        host.ping();
        assert_eq!(descriptors(&guest), before);
    }
}
