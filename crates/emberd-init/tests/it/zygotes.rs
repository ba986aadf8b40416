//! Execs by fork of a zygote: a stand-in that speaks as one must, or as none may.

use std::fs;
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::Duration;

use emberd_proto::exec::WORDS_MAX;
use emberd_proto::{ExecSpec, GuestMessage, HostMessage, Kind, Settled, StartedBy};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::guest::{Guest, Outcome};
use crate::process_trees::{alive, await_end};

/// Spares that a zygote keeps.
const SPARES: usize = 3;

/// An agent with a stand-in in the given mode; `None` without a Python to run it.
fn guest(mode: &str) -> Option<Guest> {
    let program = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/zygotes/stand_in.py");
    guest_with(&["python3", program, mode])
}

fn guest_with(zygote: &[&str]) -> Option<Guest> {
    let have_python = Command::new("python3").arg("-V").output().is_ok();
    if !emberd_testing::needs(have_python, "no python3 on this machine") {
        return None;
    }
    let run = zygote.iter().map(|word| format!("{word:?}")).collect::<Vec<_>>().join(",");
    let pack = format!(
        r#"{{"name":"python","run":["python3","{{file}}"],"file_name":"main.py",
            "env":{{"PACK":"python"}},
            "zygote":{{"run":[{run}],"spawn_for_env":["LANG","PYTHON*"]}}}}"#
    );
    Some(Guest::with_pack(&pack))
}

/// What settling the guest says about its zygote.
fn settle(guest: &Guest) -> Option<bool> {
    let mut host = guest.greet();
    host.send(&HostMessage::Settle);
    match host.answer() {
        GuestMessage::Settled(Settled { zygote_ready }) => zygote_ready,
        other => panic!("expected the guest to be settled, got {other:?}"),
    }
}

/// An agent whose zygote has a spare waiting.
fn settled() -> Option<Guest> {
    let guest = guest("good")?;
    assert_eq!(settle(&guest), Some(true));
    Some(guest)
}

fn assert_forked(outcome: &Outcome) {
    assert_eq!(outcome.exit.started_by, Some(StartedBy::Zygote), "{outcome:?}");
}

fn assert_spawned(outcome: &Outcome) {
    assert_eq!(outcome.exit.started_by, Some(StartedBy::Spawn), "{outcome:?}");
}

/// Exit code, signal, and whether there was an error.
fn end(outcome: &Outcome) -> (i32, Option<i32>, bool) {
    (outcome.exit.exit_code, outcome.exit.signal, outcome.exit.error.is_some())
}

/// Asserts that the zygote is none that forks, and that execs do without.
fn assert_execs_spawn(guest: &Guest) {
    for number in 0..3 {
        let outcome = guest.run(&format!("print({number})"));
        assert_spawned(&outcome);
        assert_eq!(outcome.text(), number.to_string());
    }
}

#[test]
fn fork_gets_everything_a_new_process_gets() {
    let Some(guest) = settled() else { return };
    let mut spec = ExecSpec::new(
        "import os, sys
print(sys.argv[1:], os.environ['PACK'], os.environ['MINE'], os.getcwd(), input())
print(os.getsid(0) == os.getpid(), file=sys.stderr)
sys.exit(3)",
    );
    spec.args = vec!["a b".into(), "é".into()];
    spec.env = [("MINE".into(), "exec".into())].into();
    spec.cwd = Some("/usr".into());
    for _ in 0..3 {
        let outcome = guest.greet().exec(&spec, b"hello\n");
        assert_eq!(outcome.text(), "['a b', 'é'] python exec /usr hello");
        assert_eq!(outcome.stderr, b"True\n");
        assert_eq!(end(&outcome), (3, None, false));
        assert_forked(&outcome);
        assert!(outcome.exit.launch_us > 0);
        assert!(outcome.exit.launch_us <= outcome.exit.duration_us);
    }
}

#[test]
fn execs_at_once_are_all_forked() {
    let Some(guest) = settled() else { return };
    thread::scope(|scope| {
        for number in 0..8 {
            let guest = &guest;
            scope.spawn(move || {
                let code = format!("import sys; print(input(), {number}); sys.exit({number})");
                let outcome = guest.greet().exec(&ExecSpec::new(code), b"hello\n");
                assert_eq!(outcome.text(), format!("hello {number}"));
                assert_eq!(end(&outcome), (number, None, false));
                assert_forked(&outcome);
            });
        }
    });
}

#[test]
fn what_a_fork_would_run_otherwise_is_spawned() {
    let Some(guest) = settled() else { return };
    let check = |edit: fn(&mut ExecSpec)| {
        let mut spec = ExecSpec::new("print('ran')");
        edit(&mut spec);
        let outcome = guest.greet().exec(&spec, b"");
        assert_eq!(outcome.text(), "ran");
        assert_spawned(&outcome);
    };
    check(|spec| spec.fresh = true);
    check(|spec| spec.env = [("LANG".into(), "C".into())].into());
    check(|spec| spec.env = [("PYTHONUTF8".into(), "1".into())].into());
    check(|spec| spec.args = vec!["x".repeat(100); WORDS_MAX]);
    assert_forked(&guest.run("print('ran')"));
}

#[test]
fn ends_without_a_report_are_told_by_their_status() {
    let Some(guest) = settled() else { return };
    let check = |code: &str, expect| {
        let outcome = guest.run(&format!("import os\nprint('said', flush=True)\n{code}"));
        assert_eq!(outcome.text(), "said");
        assert_eq!(end(&outcome), expect, "{code}");
        assert_forked(&outcome);
    };
    check("os._exit(7)", (7, None, false));
    check("os.kill(os.getpid(), 9)", (137, Some(9), false));
    check("os.execv('/bin/sh', ['sh', '-c', 'exit 6'])", (6, None, false));
    check("os.closerange(3, 64); os._exit(8)", (8, None, false));
}

#[test]
fn directory_that_is_none_costs_no_spare() {
    let Some(guest) = settled() else { return };
    let spec = ExecSpec { cwd: Some("/nowhere".into()), ..ExecSpec::new("") };
    assert_eq!(end(&guest.greet().exec(&spec, b"")), (-1, None, true));
    assert_forked(&guest.run("pass"));
}

#[test]
fn large_output_and_input_pass() {
    let Some(guest) = settled() else { return };
    let spec = ExecSpec::new("import sys; sys.stdout.write(sys.stdin.read())");
    let input = vec![b'x'; 1 << 20];
    let outcome = guest.greet().exec(&spec, &input);
    assert_forked(&outcome);
    assert!(outcome.stdout == input);
}

#[test]
fn code_is_gone_afterwards() {
    let Some(guest) = settled() else { return };
    let mut host = guest.greet();
    let outcome = host.exec(&ExecSpec::new("print(__import__('sys').argv[0])"), b"");
    host.ping();
    let file = Path::new(outcome.text());
    assert!(file.ends_with("main.py") && !file.parent().unwrap().exists());
}

/// Starts a child with a session of its own; prints its pid and the program's own.
const TREE: &str = "import os, subprocess, time
child = subprocess.Popen(['sleep', '600'], start_new_session=True)
print(os.getpid(), child.pid, flush=True)
time.sleep(600)";

fn pids(line: &str) -> Vec<i32> {
    line.split(' ').map(|pid| pid.parse().unwrap()).collect()
}

#[test]
fn time_limit_ends_the_whole_tree() {
    let Some(guest) = settled() else { return };
    let spec = ExecSpec { timeout_ms: 3000, ..ExecSpec::new(TREE) };
    let outcome = guest.greet().exec(&spec, b"");
    assert!(outcome.exit.timed_out);
    assert_eq!(end(&outcome), (-1, Some(9), true));
    assert_forked(&outcome);
    for pid in pids(outcome.text()) {
        await_end(&guest, pid);
    }
}

#[test]
fn host_that_leaves_takes_the_tree_with_it() {
    let Some(guest) = settled() else { return };
    let mut host = guest.greet();
    host.start(&ExecSpec::new(TREE));
    let pids = pids(&host.line());
    host.leave();
    for pid in pids {
        await_end(&guest, pid);
    }
}

#[test]
fn background_child_that_keeps_stdout_does_not_hold_the_call() {
    let Some(guest) = settled() else { return };
    let outcome = guest.run(
        "import subprocess
print(subprocess.Popen(['sleep', '600'], start_new_session=True).pid)",
    );
    assert!(!outcome.exit.timed_out);
    assert_forked(&outcome);
    let child: i32 = outcome.text().parse().unwrap();
    assert!(alive(child));
    kill(Pid::from_raw(child), Signal::SIGKILL).unwrap();
}

#[test]
fn killed_zygote_starts_again_and_its_children_end_as_they_like() {
    // The children of one of them hold its end of the control socket open.
    for mode in ["good", "clingy"] {
        let Some(guest) = guest(mode) else { return };
        assert_eq!(settle(&guest), Some(true));
        check_killed_zygote(&guest);
    }
}

fn check_killed_zygote(guest: &Guest) {
    let check = |last_words: &str, expect| {
        let mut host = guest.greet();
        let code = format!("import os\nprint(os.getppid(), flush=True)\ninput()\n{last_words}");
        host.start(&ExecSpec::new(code));
        let zygote = host.line().parse().unwrap();
        kill(Pid::from_raw(zygote), Signal::SIGKILL).unwrap();
        await_end(guest, zygote);
        assert_eq!(settle(guest), Some(true));
        host.send_frame(Kind::Stdin, b"go on\n");
        let outcome = host.outcome();
        assert_forked(&outcome);
        assert_eq!(end(&outcome), expect, "{last_words}");
        assert_forked(&guest.run("pass"));
    };
    check("raise SystemExit(4)", (4, None, false));
    check("os._exit(5)", (5, None, false));
    check("os.abort()", (134, Some(6), false));
}

#[test]
fn zygote_that_a_program_stopped_is_replaced() {
    let Some(guest) = settled() else { return };
    let code = "import os, signal, time
os.kill(os.getppid(), signal.SIGSTOP)
time.sleep(600)";
    let spec = ExecSpec { timeout_ms: 300, ..ExecSpec::new(code) };
    let outcome = guest.greet().exec(&spec, b"");
    assert_eq!(end(&outcome), (-1, Some(9), true));
    assert!(outcome.exit.timed_out);
    assert_eq!(settle(&guest), Some(true));
    assert_forked(&guest.run("pass"));
}

#[test]
fn end_that_died_with_the_zygote_is_lost_and_says_so() {
    let Some(guest) = guest("forgetful") else { return };
    assert_eq!(settle(&guest), Some(true));
    let outcome = guest.run("import os; print('said', flush=True); os._exit(7)");
    assert_eq!(outcome.text(), "said");
    let error = "the zygote ended before it reported the program's exit";
    assert_eq!(outcome.exit.error.as_deref(), Some(error));
    assert_eq!(outcome.exit.exit_code, -1);
}

#[test]
fn spare_that_was_killed_is_not_used() {
    let Some(guest) = settled() else { return };
    let mut host = guest.greet();
    host.start(&ExecSpec::new("import os; print(os.getppid(), os.getpid(), flush=True); input()"));
    let line = host.line();
    let (zygote, program) = line.trim_end().split_once(' ').expect("two pids");
    assert_eq!(settle(&guest), Some(true));
    let listed = fs::read_to_string(format!("/proc/{zygote}/task/{zygote}/children")).unwrap();
    for spare in pids(listed.trim_end()).into_iter().filter(|pid| pid.to_string() != program) {
        kill(Pid::from_raw(spare), Signal::SIGKILL).ok();
        await_end(&guest, spare);
    }
    assert_forked(&guest.run("pass"));
    host.send_frame(Kind::Stdin, b"\n");
    assert_eq!(end(&host.outcome()), (0, None, false));
}

/// Waits until the zygote has `expected` processes it forked.
fn await_spares(zygote: &str, expected: usize) {
    while children(zygote) != expected {
        thread::sleep(Duration::from_millis(10));
    }
}

/// Processes the zygote has forked that are there.
fn children(zygote: &str) -> usize {
    let listed = fs::read_to_string(format!("/proc/{zygote}/task/{zygote}/children")).unwrap();
    pids(listed.trim_end()).into_iter().filter(|pid| alive(*pid)).count()
}

#[test]
fn taken_spares_are_replaced_once_programs_have_ended() {
    let Some(guest) = settled() else { return };
    let outcome = guest.run("import os; print(os.getppid())");
    let zygote = outcome.text();
    thread::scope(|scope| {
        for _ in 0..6 {
            scope.spawn(|| assert_forked(&guest.run("pass")));
        }
    });
    await_spares(zygote, SPARES);
    assert_forked(&guest.run("pass"));
}

#[test]
fn program_that_waits_has_its_successor_forked_meanwhile() {
    let Some(guest) = settled() else { return };
    let mut host = guest.greet();
    host.start(&ExecSpec::new("import os; print(os.getppid(), flush=True); input()"));
    await_spares(&host.line(), 1 + SPARES);
    host.send_frame(Kind::Stdin, b"\n");
    assert_eq!(end(&host.outcome()), (0, None, false));
}

#[test]
fn settling_leaves_the_spares_and_nothing_else() {
    let Some(guest) = settled() else { return };
    let outcome = guest.run("import os; print(os.getppid())");
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| guest.run("pass"));
        }
    });
    assert_eq!(settle(&guest), Some(true));
    assert_eq!(children(outcome.text()), SPARES);
}

#[test]
fn execs_spawn_while_the_zygote_is_not_ready() {
    let Some(guest) = guest("silent") else { return };
    assert_execs_spawn(&guest);
}

#[test]
fn execs_spawn_when_the_zygote_cannot_be_had() {
    for mode in ["dies", "garbage", "oversize", "stranger", "barren"] {
        let Some(guest) = guest(mode) else { return };
        assert_eq!(settle(&guest), Some(false), "{mode}");
        assert_execs_spawn(&guest);
    }
    let Some(guest) = guest_with(&["/nowhere/zygote"]) else { return };
    assert_eq!(settle(&guest), Some(false));
    assert_execs_spawn(&guest);
}

#[test]
fn pack_without_a_zygote_settles_too() {
    let guest = Guest::shell();
    assert_eq!(settle(&guest), None);
    assert_spawned(&guest.run("true"));
}

#[test]
fn zygote_ends_with_its_agent() {
    let Some(mut guest) = settled() else { return };
    let outcome = guest.run("import os; print(os.getppid())");
    let zygote = outcome.text().parse().unwrap();
    kill(Pid::from_raw(guest.pid().cast_signed()), Signal::SIGKILL).unwrap();
    assert_eq!(guest.wait().signal(), Some(9));
    while alive(zygote) {
        thread::yield_now();
    }
    let Some(mut guest) = settled() else { return };
    let outcome = guest.run("import os; print(os.getppid())");
    let zygote = outcome.text().parse().unwrap();
    assert_eq!(guest.terminate().code(), Some(0));
    while alive(zygote) {
        thread::yield_now();
    }
    assert!(!guest.dir().join("agent.sock.scratch").exists());
}
