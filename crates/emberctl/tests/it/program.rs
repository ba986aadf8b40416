//! `run` and `exec`: what goes in, what comes out, and what is left behind.

use std::io::Read as _;
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::fake_daemon::{
    FakeDaemon, Flaws, GUEST_FAILS, HANG, NOT_STARTED, OLD_DAEMON, OUT_OF_MEMORY,
};
use crate::{complaint, emberctl, printed, run, run_with_stdin};

fn daemon() -> FakeDaemon {
    FakeDaemon::start(Flaws::default())
}

#[test]
fn run_creates_runs_and_deletes() {
    let daemon = daemon();
    assert_eq!(printed(&run(&daemon.addr, &["run", "shell", "echo 42"])), "42\n");
    let requests = daemon.requests();
    assert_eq!(requests.len(), 3, "{requests:?}");
    assert_eq!(requests[0], "POST /sandboxes");
    assert!(requests[1].ends_with("/exec"), "{requests:?}");
    assert!(requests[2].starts_with("DELETE /sandboxes/sb_"), "{requests:?}");
    assert!(daemon.sandboxes().is_empty());
}

#[test]
fn exit_codes_are_the_programs() {
    let daemon = daemon();
    let cases = [
        (&["exit 7"][..], 7),
        (&["exit 125"], 125),
        (&["while :; do sleep 1; done", "--timeout", "100ms"], 124),
        (&[NOT_STARTED], 126),
        (&[GUEST_FAILS], 125),
    ];
    for (program, code) in cases {
        let args = [&["run", "shell"][..], program].concat();
        assert_eq!(run(&daemon.addr, &args).status.code(), Some(code), "{program:?}");
        let json = [&args[..], &["--json"]].concat();
        assert_eq!(run(&daemon.addr, &json).status.code(), Some(code), "{program:?} as JSON");
        assert!(daemon.sandboxes().is_empty(), "{program:?}");
    }
}

#[test]
fn failures_of_the_program_are_named() {
    let daemon = daemon();
    let endless = ["run", "shell", "while :; do sleep 1; done", "--timeout", "100ms"];
    assert_eq!(complaint(&run(&daemon.addr, &endless)), "emberctl: execution timed out\n");
    let not_started = run(&daemon.addr, &["run", "shell", NOT_STARTED]);
    assert_eq!(complaint(&not_started), "emberctl: cannot start /bin/none\n");
    let failed = run(&daemon.addr, &["run", "shell", GUEST_FAILS]);
    assert_eq!(complaint(&failed), "error: the guest is silent\n");
}

#[test]
fn fields_that_the_daemon_does_not_know_are_a_warning() {
    let daemon = daemon();
    let warned = String::from_utf8(run(&daemon.addr, &["run", "shell", OLD_DAEMON]).stderr);
    let warning = "warning: the daemon ignored fields it does not know: limits.pids, fresh\n";
    assert!(warned.unwrap().starts_with(&format!("{warning}hint: update the daemon\n")));
    let warned = run(&daemon.addr, &["run", "shell", "--json", OLD_DAEMON]).stderr;
    let line = String::from_utf8(warned).unwrap();
    let warning: Value = serde_json::from_str(line.lines().next().unwrap()).unwrap();
    assert_eq!(warning["fields"], serde_json::json!(["limits.pids", "fresh"]));
}

#[test]
fn output_is_byte_exact_and_kept_apart() {
    let daemon = daemon();
    let output = run(&daemon.addr, &["run", "shell", r"printf '\377\033[1m'; printf '\376' >&2"]);
    assert_eq!(output.stdout, b"\xff\x1b[1m");
    assert_eq!(output.stderr, b"\xfe");
}

#[test]
fn json_is_the_outcome_as_the_daemon_gave_it() {
    let daemon = daemon();
    let output = run(&daemon.addr, &["run", "shell", "--json", "echo out; echo err >&2; exit 3"]);
    assert_eq!(output.status.code(), Some(3));
    let outcome: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&outcome["stdout"], &outcome["stderr"]), (&"out\n".into(), &"err\n".into()));
    assert_eq!((&outcome["exit_code"], &outcome["timed_out"]), (&3.into(), &false.into()));
    assert!(output.stderr.is_empty());
}

#[test]
fn a_trace_tells_where_the_time_went() {
    let daemon = daemon();
    let output = run(&daemon.addr, &["run", "shell", "echo 42", "--trace"]);
    assert_eq!(printed(&output), "42\n");
    let trace = complaint(&output);
    let words = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    let lines: Vec<_> = trace.lines().map(words).collect();
    let named: Vec<_> = lines.iter().map(|line| line[0].as_str()).collect();
    let create = ["create", "way", "daemon"];
    let exec = ["exec", "way", "daemon", "turn", "launch", "run"];
    assert_eq!(named, [&create[..], &exec, &["delete", "way", "daemon"]].concat());
    assert_eq!(lines[0].last().unwrap(), "warm-pool");
    assert!(lines[3].ends_with(&["a".into(), "new".into(), "interpreter".into()]), "{trace}");
    assert_eq!(lines[5], ["daemon", "0.100", "ms"]);

    let id = printed(&run(&daemon.addr, &["create", "shell"])).trim().to_owned();
    let output = run(&daemon.addr, &["exec", &id, "echo 42", "--trace", "--json"]);
    let outcome: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(
        (&outcome["stdout"], &outcome["trace"][0]["request"]),
        (&"42\n".into(), &"exec".into())
    );
    let run_stage = &outcome["trace"][0]["stages"][2];
    assert_eq!((&run_stage["name"], &run_stage["duration_us"]), (&"run".into(), &500.into()));
    assert!(output.stderr.is_empty());
}

#[test]
fn want_of_memory_is_said_and_the_exit_code_is_the_signal_s() {
    let daemon = daemon();
    let killed = run(&daemon.addr, &["run", "shell", OUT_OF_MEMORY]);
    assert_eq!((killed.status.code(), killed.stdout.as_slice()), (Some(137), &b"so far"[..]));
    assert!(complaint(&killed).starts_with("emberctl: out of memory"), "{}", complaint(&killed));
}

#[test]
fn every_option_reaches_the_program() {
    let daemon = daemon();
    let id = printed(&run(&daemon.addr, &["create", "shell"])).trim().to_owned();
    let code = r#"pwd; echo "$COLOUR $SHAPE"; echo "$@"; cat"#;
    let mut args = vec!["exec", &id, "-i", "--env", "COLOUR=red", "-e", "SHAPE=a=b"];
    args.extend(["--cwd", "/usr", code, "--", "--first", "second"]);
    let output = run_with_stdin(&daemon.addr, &args, b"typed");
    assert_eq!(printed(&output), "/usr\nred a=b\n--first second\ntyped");
}

#[test]
fn code_comes_from_a_file_or_standard_input() {
    let daemon = daemon();
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(&file, "echo from a file").unwrap();
    let path = file.path().to_str().unwrap();
    assert_eq!(printed(&run(&daemon.addr, &["run", "shell", "-f", path])), "from a file\n");
    let output = run_with_stdin(&daemon.addr, &["run", "shell", "-f", "-"], b"echo typed");
    assert_eq!(printed(&output), "typed\n");
    std::fs::write(&file, [0xff]).unwrap();
    let refused = run(&daemon.addr, &["run", "shell", "-f", path]);
    assert_eq!(refused.status.code(), Some(125));
    assert!(complaint(&refused).contains("is not UTF-8 text"));
}

#[test]
fn standard_input_is_left_alone_unless_asked_for() {
    let daemon = daemon();
    let output = run_with_stdin(&daemon.addr, &["run", "shell", "cat; echo end"], b"typed");
    assert_eq!(printed(&output), "end\n");
}

#[test]
fn an_interrupted_run_deletes_its_sandbox() {
    let daemon = daemon();
    let mut child =
        emberctl(&daemon.addr, &["run", "shell", HANG]).stderr(Stdio::piped()).spawn().unwrap();
    while !daemon.next_request().ends_with("/exec") {}
    let pid = child.id().to_string();
    assert!(Command::new("kill").args(["-INT", &pid]).status().unwrap().success());
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert!(daemon.next_request().starts_with("DELETE /sandboxes/sb_"));
    assert!(daemon.sandboxes().is_empty());
    let mut complaint = String::new();
    child.stderr.unwrap().read_to_string(&mut complaint).unwrap();
    assert_eq!(complaint, "error: interrupted\n");
}

#[test]
fn an_odd_id_is_refused_not_a_crash() {
    let daemon = daemon();
    for id in ["", "sb 1", "../info", "é", "a?b#c", "%"] {
        let output = run(&daemon.addr, &["exec", id, "1"]);
        assert_eq!(output.status.code(), Some(125), "{id:?}: {}", complaint(&output));
        assert!(complaint(&output).starts_with("error: no s"), "{id:?}: {}", complaint(&output));
    }
}
