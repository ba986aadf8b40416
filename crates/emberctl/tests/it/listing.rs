//! `create`, `ls`, `inspect`, `rm`, `ping` and `info`: for people and for programs.

use serde_json::Value;

use crate::fake_daemon::{FakeDaemon, Flaws};
use crate::{complaint, printed, run};

fn json(addr: &str, args: &[&str]) -> Value {
    serde_json::from_str(printed(&run(addr, &[args, &["--json"]].concat()))).unwrap()
}

#[test]
fn a_sandbox_is_listed_and_shown_until_it_is_removed() {
    let daemon = FakeDaemon::start(Flaws::default());
    let addr = daemon.addr.as_str();
    let id = printed(&run(addr, &["create", "shell"])).trim().to_owned();

    let table = run(addr, &["ls"]);
    let lines: Vec<&str> = printed(&table).lines().collect();
    assert_eq!(lines.len(), 2, "{lines:?}");
    let heading: Vec<_> = lines[0].split_whitespace().collect();
    assert_eq!(heading, ["ID", "PACK", "STATE", "AGE", "LEFT", "BOOT", "VMM", "PID"]);
    assert!(lines[1].starts_with(&format!("{id}  shell  ready")), "{}", lines[1]);
    assert!(lines[1].contains("snapshot-restore, 2000 ms"), "{}", lines[1]);

    let shown = run(addr, &["inspect", &id]);
    for line in [
        "boot path           snapshot-restore",
        "VMM started in      50.000 ms",
        "template loaded in  10.000 ms",
        "guest answered in   1930.000 ms",
        "renewed in          4.000 ms",
        "warmed up in        6.000 ms",
    ] {
        assert!(printed(&shown).lines().any(|shown| shown == line), "{}", printed(&shown));
    }
    assert_eq!(json(addr, &["inspect", &id])["language_pack"], "shell");
    assert_eq!(json(addr, &["ls"])["sandboxes"][0]["id"], id.as_str());

    assert_eq!(printed(&run(addr, &["rm", &id])), format!("{id}\n"));
    assert_eq!(json(addr, &["ls"])["sandboxes"], Value::Array(Vec::new()));
    assert_eq!(printed(&run(addr, &["ls"])).lines().count(), 1);
}

#[test]
fn timeouts_and_metadata_are_set_and_shown() {
    let daemon = FakeDaemon::start(Flaws::default());
    let addr = daemon.addr.as_str();
    let options = ["create", "--timeout", "10m", "--metadata", "run=1", "--metadata", "a=b=c"];
    let id = printed(&run(addr, &options)).trim().to_owned();
    let shown = json(addr, &["inspect", &id]);
    assert_eq!((&shown["timeout_ms"], &shown["metadata"]["a"]), (&600_000.into(), &"b=c".into()));
    let text = run(addr, &["inspect", &id]);
    for line in ["time left           10m", "metadata            run=1"] {
        assert!(printed(&text).lines().any(|shown| shown == line), "{}", printed(&text));
    }
    let options =
        ["create", "--cpus", "2", "--memory", "1g", "-e", "TOKEN=s3cret", "--env", "A=b=c"];
    let id2 = printed(&run(addr, &options)).trim().to_owned();
    let text = run(addr, &["inspect", &id2]);
    assert!(printed(&text).contains("variables           A, TOKEN\n"), "{}", printed(&text));
    assert!(
        printed(&text).contains("size                1024 MiB, 2 vCPU\n"),
        "{}",
        printed(&text)
    );
    let listed = run(addr, &["ls", "--metadata", "run=1"]);
    assert!(printed(&listed).contains("  10m   "), "{}", printed(&listed));
    assert_eq!(printed(&run(addr, &["timeout", &id, "2h"])), "2h\n");
    assert_eq!(printed(&run(addr, &["timeout", &id, "never"])), "never\n");
    assert_eq!(json(addr, &["touch", &id, "--timeout", "90s"])["timeout_ms"], 90_000);
    assert_eq!(printed(&run(addr, &["touch", &id])), "never\n");
    assert_eq!(complaint(&run(addr, &["touch", "sb_1"])), "error: no sandbox sb_1\n");
    let wrong = run(addr, &["timeout", &id, "soon"]);
    assert!(complaint(&wrong).contains("soon"), "{}", complaint(&wrong));
}

#[test]
fn create_asks_for_python_unless_told_otherwise() {
    let daemon = FakeDaemon::start(Flaws::default());
    let id = json(&daemon.addr, &["create"])["id"].as_str().unwrap().to_owned();
    assert_eq!(json(&daemon.addr, &["inspect", &id])["language_pack"], "python");
}

#[test]
fn rm_removes_what_it_can_and_names_what_it_cannot() {
    let daemon = FakeDaemon::start(Flaws::default());
    let id = printed(&run(&daemon.addr, &["create"])).trim().to_owned();
    let output = run(&daemon.addr, &["rm", "sb_1", &id]);
    assert_eq!(output.status.code(), Some(125));
    assert_eq!(output.stdout, format!("{id}\n").as_bytes());
    assert_eq!(complaint(&output), "error: no sandbox sb_1\n");
    assert!(daemon.sandboxes().is_empty());
}

#[test]
fn a_refusal_comes_with_the_daemons_hint() {
    let daemon = FakeDaemon::start(Flaws::default());
    let output = run(&daemon.addr, &["create", "cobol"]);
    let said = "error: unknown language pack `cobol`\nhint: installed are python, shell\n";
    assert_eq!((output.status.code(), complaint(&output).as_str()), (Some(125), said));

    let output = run(&daemon.addr, &["create", "cobol", "--json"]);
    let error: Value = serde_json::from_slice(&output.stderr).unwrap();
    assert_eq!(error["code"], "unknown_pack");
    assert_eq!(error["hint"], "installed are python, shell");
    assert!(output.stdout.is_empty());
}

#[test]
fn templates_are_built_listed_and_removed() {
    let daemon = FakeDaemon::start(Flaws::default());
    let addr = daemon.addr.as_str();
    let states = || {
        let templates = json(addr, &["template", "ls"])["templates"].clone();
        let state = |template: &Value| template["state"].as_str().unwrap().to_owned();
        templates.as_array().unwrap().iter().map(state).collect::<Vec<_>>()
    };
    assert_eq!(states(), ["absent", "absent"]);
    let built = run(addr, &["template", "build", "shell", "python"]);
    let rows: Vec<Vec<_>> =
        printed(&built).lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(rows[1][..5], ["shell", "ready", "2", "512", "MiB"]);
    assert_eq!(rows[2][..2], ["python", "ready"]);
    assert_eq!(complaint(&built), "", "nobody watches: no progress");
    assert_eq!(json(addr, &["template", "build", "shell"])[0]["state"], "ready");
    assert_eq!(states(), ["ready", "ready"]);
    assert_eq!(printed(&run(addr, &["template", "rm", "python"])), "python\n");
    assert_eq!(states(), ["absent", "ready"]);
    let refused = run(addr, &["template", "build", "cobol"]);
    let said = "error: unknown language pack `cobol`\nhint: installed are python, shell\n";
    assert_eq!((refused.status.code(), complaint(&refused).as_str()), (Some(125), said));
}

#[test]
fn ping_and_info_tell_what_the_daemon_is() {
    let daemon = FakeDaemon::start(Flaws::default());
    assert_eq!(printed(&run(&daemon.addr, &["ping"])), "ok\n");
    assert_eq!(json(&daemon.addr, &["ping"])["status"], "ok");
    let drained = "the daemon creates no sandboxes until it is restarted\n";
    assert_eq!(printed(&run(&daemon.addr, &["daemon", "drain"])), drained);
    assert_eq!(json(&daemon.addr, &["daemon", "drain"])["draining"], true);
    let info = run(&daemon.addr, &["info"]);
    assert!(printed(&info).contains("chosen because  a test\n"), "{}", printed(&info));
    assert!(printed(&info).contains("shell: POSIX shell\n"), "{}", printed(&info));
    assert!(printed(&info).contains("egress ceiling  public\n"), "{}", printed(&info));
    assert!(printed(&info).contains("512 of 36864 MiB\n"), "{}", printed(&info));
    assert!(printed(&info).contains("limits          memory, cpu\n"), "{}", printed(&info));
    let pool = "python (256 MiB, 1 vCPU): 1 ready of 2, raised to 4, 1 filling, 1 standing by; \
        7 handed out, 3 missed, 0 discarded\n";
    assert!(printed(&info).contains(pool), "{}", printed(&info));
    assert_eq!(json(&daemon.addr, &["info"])["guest_ram_mib"], 256);
}

#[test]
fn events_are_printed_one_a_line() {
    let daemon = FakeDaemon::start(Flaws::default());
    let addr = daemon.addr.as_str();
    let expect = "(events after 3 and before 5 are no longer kept)\n\
        5  1970-01-01T00:00:01.500Z  sb_1  created\n";
    assert_eq!(printed(&run(addr, &["events"])), expect);
    assert_eq!(daemon.next_request(), "GET /events?follow=false");
    let options = ["events", "-f", "--after", "7", "--sandbox", "sb_1", "--sandbox", "sb_2"];
    let output = run(addr, &[&options[..], &["--json"]].concat());
    let lines: Vec<_> = printed(&output).lines().collect();
    assert_eq!((lines.len(), lines[0]), (2, r#"{"after":3,"before":5}"#));
    let query = "follow=true&sandbox=sb_1&sandbox=sb_2&after=7";
    assert_eq!(daemon.next_request(), format!("GET /events?{query}"));
}

#[test]
fn lists_are_narrowed_down() {
    let daemon = FakeDaemon::start(Flaws::default());
    let addr = daemon.addr.as_str();
    let options = ["ls", "--phase", "frozen", "--phase", "running", "--limit", "3", "--after", "9"];
    printed(&run(addr, &options));
    let query = "phase=frozen&phase=running&limit=3&after=9";
    assert_eq!(daemon.next_request(), format!("GET /sandboxes?{query}"));
    let wrong = run(addr, &["ls", "--phase", "ready"]);
    assert!(complaint(&wrong).contains("not one of creating, running, frozen, gone"));
}
