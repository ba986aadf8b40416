//! What becomes of everything a program started.

use std::fs;
use std::io::Read as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;

use emberd_proto::{ExecSpec, Kind};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::guest::{Guest, Host};

/// Most looks, each after a pause, until what must come about has come.
const LOOKS_MAX: usize = 300;

/// Starts a child in the same session, and in one of its own a shell with another child;
/// prints the three pids and waits.
const TREE: &str = "sleep 600 & export A=$!
setsid sh -c 'sleep 600 & echo $A $$ $!; wait' &
wait";

fn tree_spec(timeout_ms: u64) -> ExecSpec {
    ExecSpec { timeout_ms, ..ExecSpec::new(TREE) }
}

fn pids(line: &str) -> Vec<i32> {
    let pids: Vec<_> = line.split(' ').map(|pid| pid.parse().unwrap()).collect();
    assert_eq!(pids.len(), 3, "{line}");
    pids
}

/// Whether there is such a process and it has not ended.
pub fn alive(pid: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')').is_some_and(|(_, rest)| !rest.starts_with(" Z"))
}

/// Waits until `pid` is gone, from inside: programs may wait, tests may not.
pub fn await_end(guest: &Guest, pid: i32) {
    let wait = format!(
        "while [ -e /proc/{pid} ] && ! grep -q '^State:.Z' /proc/{pid}/status; do sleep 0.01; done"
    );
    let outcome = guest.run_shell(&wait);
    assert!(!outcome.exit.timed_out, "process {pid} lives on");
}

/// Children of the agent that are dead but not reaped.
fn zombies(guest: &Guest) -> usize {
    let parent = format!(" Z {} ", guest.pid());
    fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| fs::read_to_string(entry.ok()?.path().join("stat")).ok())
        .filter(|stat| stat.contains(&parent))
        .count()
}

#[test]
fn time_limit_ends_the_whole_tree() {
    let guest = Guest::shell();
    let outcome = guest.greet().exec(&tree_spec(3000), b"");
    assert!(outcome.exit.timed_out);
    assert_eq!(outcome.exit.exit_code, -1);
    assert_eq!(outcome.exit.error.as_deref(), Some("execution timed out"));
    for pid in pids(outcome.text()) {
        await_end(&guest, pid);
    }
}

#[test]
fn output_before_the_time_limit_is_kept() {
    let guest = Guest::shell();
    let spec = ExecSpec { timeout_ms: 3_000, ..ExecSpec::new("echo before; sleep 600") };
    let outcome = guest.greet().exec(&spec, b"");
    assert_eq!((outcome.text(), outcome.exit.timed_out), ("before", true));
}

#[test]
fn connection_that_is_reset_takes_only_its_own_tree_with_it() {
    let guest = Guest::shell();
    let mut witness = guest.greet();
    witness.start(&ExecSpec::new("echo up; read line; echo $line"));
    assert_eq!(witness.line(), "up");
    let mut host = guest.greet();
    host.start(&ExecSpec::new("echo $$; read line; echo unread; sleep 600"));
    let pid = host.line().parse().unwrap();
    host.send_frame(Kind::Stdin, b"go\n");
    // What is left unread when a Unix socket is closed makes it a reset.
    host.stream.read_exact(&mut [0]).unwrap();
    drop(host);
    await_end(&guest, pid);
    witness.send_frame(Kind::Stdin, b"still here\n");
    assert_eq!(witness.outcome().text(), "still here");
}

#[test]
fn host_that_leaves_takes_the_tree_with_it() {
    let guest = Guest::shell();
    let mut host: Host = guest.greet();
    host.start(&tree_spec(60_000));
    let pids = pids(&host.line());
    host.leave();
    for pid in pids {
        await_end(&guest, pid);
    }
}

#[test]
fn control_frame_during_an_exec_ends_connection_and_tree() {
    let guest = Guest::shell();
    let mut host = guest.greet();
    host.start(&tree_spec(60_000));
    let pids = pids(&host.line());
    host.send_frame(Kind::Control, br#"{"op":"ping"}"#);
    assert_eq!(host.frame(), None);
    for pid in pids {
        await_end(&guest, pid);
    }
}

#[test]
fn double_forked_orphan_is_reaped() {
    let guest = Guest::shell();
    let outcome = guest.run(
        "cd; (setsid sh -c 'echo $$ >new; mv new pid; sleep 0.2' &)
        until [ -e pid ]; do sleep 0.01; done; cat pid",
    );
    let orphan: i32 = outcome.text().parse().unwrap();
    await_end(&guest, orphan);
    // Reaping that program reaped all that had died before it.
    assert!(!Path::new(&format!("/proc/{orphan}")).exists());
    assert_eq!(zombies(&guest), 0);
}

#[test]
fn every_child_is_reaped() {
    let guest = Guest::shell();
    guest.run("for i in 1 2 3 4 5 6 7 8 9; do (true &); done");
    let are_reaped = |_| {
        guest.run("sleep 0.1");
        zombies(&guest) == 0
    };
    assert!((0..LOOKS_MAX).any(are_reaped));
}

#[test]
fn terminated_agent_leaves_nothing_behind() {
    let mut guest = Guest::shell();
    let mut host = guest.greet();
    host.start(&tree_spec(60_000));
    let pids = pids(&host.line());
    assert_eq!(guest.terminate().code(), Some(0));
    assert!(!guest.socket().exists());
    let left: Vec<_> = fs::read_dir(guest.dir()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left, ["pack.json"]);
    for pid in pids {
        // Killed, and soon reaped by whoever inherited it.
        while alive(pid) {
            std::thread::yield_now();
        }
    }
}

#[test]
fn killed_agent_takes_running_programs_with_it() {
    let mut guest = Guest::shell();
    let mut host = guest.greet();
    host.start(&ExecSpec::new("echo $$; exec sleep 600"));
    let program: i32 = host.line().parse().unwrap();
    assert!(alive(program));
    kill(Pid::from_raw(guest.pid().cast_signed()), Signal::SIGKILL).unwrap();
    assert_eq!(guest.wait().signal(), Some(9));
    while alive(program) {
        std::thread::yield_now();
    }
}
