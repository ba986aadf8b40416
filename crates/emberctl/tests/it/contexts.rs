//! `context`: what is sent, what a run's events look like, exit codes, and pictures.

use std::io::Read as _;
use std::process::Stdio;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::fake_contexts::{CONTEXT, CUT, ENDLESS, error};
use crate::fake_daemon::{FakeDaemon, Flaws};
use crate::{complaint, emberctl, printed, run};

fn daemon() -> FakeDaemon {
    FakeDaemon::start(Flaws::default())
}

/// Arguments that run code whose events are these.
fn run_of(events: &Value) -> [String; 5] {
    ["context", "run", "sb_1", CONTEXT, &events.to_string()].map(str::to_owned)
}

fn run_events(daemon: &FakeDaemon, events: &Value, more: &[&str]) -> std::process::Output {
    let args = run_of(events);
    let args: Vec<_> = args.iter().map(String::as_str).chain(more.iter().copied()).collect();
    run(&daemon.addr, &args)
}

#[test]
fn contexts_are_opened_listed_restarted_and_deleted() {
    let daemon = daemon();
    let new = ["context", "new", "sb_1", "-l", "python", "--cwd", "/usr", "-u", "user"];
    assert_eq!(printed(&run(&daemon.addr, &new)), format!("{CONTEXT}\n"));
    let document = run(&daemon.addr, &[&new[..], &["--json"]].concat());
    let document: Value = serde_json::from_str(printed(&document)).unwrap();
    assert_eq!(
        (&document["id"], &document["language"], &document["cwd"], &document["state"]),
        (&json!(CONTEXT), &json!("python"), &json!("/usr"), &json!("idle"))
    );
    let list = format!(
        "CONTEXT           LANGUAGE    STATE  RUNS  WHY\n\
         {CONTEXT}  -           busy   2     -\n\
         {CONTEXT}  javascript  dead   2     killed by signal 9\n"
    );
    assert_eq!(printed(&run(&daemon.addr, &["context", "ls", "sb_1"])), list);
    let document = run(&daemon.addr, &["context", "ls", "sb_1", "--json"]);
    let document: Value = serde_json::from_str(printed(&document)).unwrap();
    assert_eq!(document["contexts"][1]["reason"], "killed by signal 9");
    let of = |command: &str, more: &[&str]| {
        let args = [&["context", command, "sb_1", CONTEXT][..], more].concat();
        printed(&run(&daemon.addr, &args)).to_owned()
    };
    assert_eq!(of("interrupt", &[]), "");
    assert_eq!(of("restart", &[]), format!("{CONTEXT}\n"));
    assert_eq!(of("rm", &[]), format!("{CONTEXT}\n"));
    for (command, field) in [("interrupt", "interrupted"), ("restart", "id"), ("rm", "deleted")] {
        let document: Value = serde_json::from_str(&of(command, &["--json"])).unwrap();
        assert_eq!(document[field], CONTEXT, "{command}");
    }
    let path = format!("/sandboxes/sb_1/contexts/{CONTEXT}");
    let requests = daemon.requests();
    assert_eq!(requests[0], "POST /sandboxes/sb_1/contexts");
    assert_eq!(requests[4], format!("POST {path}/interrupt"));
    assert_eq!(requests[6], format!("DELETE {path}"));
}

#[test]
fn what_the_daemon_refuses_is_our_own_error() {
    let daemon = daemon();
    for command in ["interrupt", "restart", "rm"] {
        let output = run(&daemon.addr, &["context", command, "sb_1", "ctx_2"]);
        assert_eq!(output.status.code(), Some(125), "{command}");
        assert_eq!(complaint(&output), "error: no such context\n", "{command}");
    }
    let refused = run(&daemon.addr, &["context", "run", "sb_1", "ctx_2", "1", "--json"]);
    assert_eq!(refused.status.code(), Some(125));
    let document: Value = serde_json::from_slice(&refused.stderr).unwrap();
    assert_eq!(document["code"], "not_found");
    let late = run(&daemon.addr, &["context", "run", "sb_1", CONTEXT, "1", "--timeout", "2h"]);
    assert_eq!(late.status.code(), Some(125));
    assert!(complaint(&late).contains("3600000"), "{}", complaint(&late));
}

#[test]
fn run_is_shown_as_it_happens_each_kind_on_its_stream() {
    let daemon = daemon();
    let events = json!([
        {"event": "stdout", "text": "out\n"},
        {"event": "stderr", "text": "err\n"},
        {"event": "from the future"},
        {"event": "display", "data": {"text/plain": "frame", "text/html": "<table>"}},
        {"event": "result", "data": {"text/plain": "4\u{1b}2"}},
    ]);
    let output = run_events(&daemon, &events, &[]);
    assert_eq!(printed(&output), "out\nframe\n4\u{fffd}2\n");
    assert_eq!(complaint(&output), "err\nemberctl: also as text/html\n");
    let lines = run_events(&daemon, &events, &["--json"]);
    let names: Vec<_> = printed(&lines)
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap()["event"].clone())
        .collect();
    assert_eq!(names, ["started", "stdout", "stderr", "other", "display", "result", "end"]);
    let much = run_events(&daemon, &json!([{"event": "stdout", "text": "much"}]), &[]);
    assert_eq!(complaint(&much), "emberctl: the output of the run was cut at its limit\n");
}

#[test]
fn exit_code_says_how_the_run_ended() {
    let daemon = daemon();
    let failed = run_events(&daemon, &json!([error("NameError")]), &[]);
    assert_eq!(failed.status.code(), Some(1));
    assert_eq!(complaint(&failed), "Traceback:\nNameError\n");
    assert_eq!(run_events(&daemon, &json!([error("E")]), &["--json"]).status.code(), Some(1));
    let late = ["context", "run", "sb_1", CONTEXT, ENDLESS, "--timeout", "1s"];
    assert_eq!(run(&daemon.addr, &late).status.code(), Some(124));
    let cut = run(&daemon.addr, &["context", "run", "sb_1", CONTEXT, CUT]);
    assert_eq!(cut.status.code(), Some(125), "an end that does not come is no success");
    assert!(complaint(&cut).starts_with("error: "), "{}", complaint(&cut));
    let rest =
        format!("hint: for the rest of the run: emberctl context events sb_1 {CONTEXT} --from 6\n");
    assert!(complaint(&cut).ends_with(&rest), "{}", complaint(&cut));
}

#[test]
fn events_of_runs_are_shown_to_their_end() {
    let daemon = daemon();
    let events = run(&daemon.addr, &["context", "events", "sb_1", CONTEXT, "-f"]);
    assert_eq!(printed(&events), "rest\n");
    assert_eq!(
        complaint(&events),
        "emberctl: some output is missing here\nTraceback:\nNameError\n"
    );
    let lines = run(&daemon.addr, &["context", "events", "sb_1", CONTEXT, "-f", "--json"]);
    let ids: Vec<_> = printed(&lines)
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap()["id"].as_u64().unwrap())
        .collect();
    assert_eq!(ids, [3, 4, 5, 6, 7, 8]);
}

#[test]
fn interrupt_from_the_keyboard_is_passed_on() {
    let daemon = daemon();
    let mut command =
        emberctl(&daemon.addr, &["context", "run", "sb_1", CONTEXT, ENDLESS, "--json"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // It listens for signals before it asks.
    let (_, mut stdout) = emberd_testing::first_line(child.stdout.take().unwrap()).unwrap();
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    let mut rest = String::new();
    stdout.read_to_string(&mut rest).unwrap();
    assert!(rest.contains("KeyboardInterrupt") && rest.contains("\"end\""), "{rest}");
    assert_eq!(child.wait().unwrap().code(), Some(1));
    assert!(daemon.requests().last().unwrap().ends_with("/interrupt"));
}

/// Two pictures, the second in two forms, and a third that is none.
fn pictures() -> Value {
    json!([
        {"event": "display", "data": {"text/plain": "first", "image/png": "aGVsbG8=\n"}},
        {"event": "result", "data": {
            "text/plain": "second", "image/svg+xml": "<svg/>", "image/jpeg": "aGVsbG8="}},
        {"event": "display", "data": {"image/png": "%"}},
    ])
}

#[test]
fn pictures_are_saved_where_that_is_asked_for() {
    let daemon = daemon();
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path().join("made").join("by us");
    let shown = dir.to_str().unwrap();
    let output = run_events(&daemon, &pictures(), &["--save", shown]);
    let expect =
        format!("first\n{shown}/run-3-1.png\nsecond\n{shown}/run-3-2.svg\n{shown}/run-3-2.jpg\n");
    assert_eq!(printed(&output), expect);
    let hint = "emberctl: pictures not saved: 1 (their content does not match their types)\n";
    assert_eq!(complaint(&output), hint);
    assert_eq!(std::fs::read(dir.join("run-3-1.png")).unwrap(), b"hello");
    assert_eq!(std::fs::read(dir.join("run-3-2.svg")).unwrap(), b"<svg/>");
    assert_eq!(std::fs::read_dir(&dir).unwrap().count(), 3);
    let lines = run_events(&daemon, &pictures(), &["--save", shown, "--json"]);
    let saved = printed(&lines)
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap())
        .filter(|line| line["event"] == "saved");
    let paths: Vec<_> = saved.map(|line| line["path"].clone()).collect();
    let expect = ["run-3-1.png", "run-3-2.svg", "run-3-2.jpg"];
    assert_eq!(paths, expect.map(|name| format!("{shown}/{name}")));
    assert_eq!(complaint(&lines), "");
}

#[test]
fn pictures_that_are_not_saved_are_told() {
    let daemon = daemon();
    let output = run_events(&daemon, &pictures(), &[]);
    assert_eq!(printed(&output), "first\nsecond\n");
    assert_eq!(
        complaint(&output),
        "emberctl: pictures not saved: 4 (save pictures with --save DIR)\n"
    );
    let nowhere = run_events(&daemon, &pictures(), &["--save", "/proc/none"]);
    assert_eq!(nowhere.status.code(), Some(125));
    assert!(complaint(&nowhere).starts_with("error: cannot create /proc/none"));
    assert_eq!(daemon.requests().len(), 1, "nothing ran that could not be saved");
}
