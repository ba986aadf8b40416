//! `egress`, and the policies of `create` and `run`.

use serde_json::{Value, json};

use crate::fake_daemon::{FakeDaemon, Flaws};
use crate::{ADDR_DEAD, complaint, printed, run};

fn json(addr: &str, args: &[&str]) -> Value {
    serde_json::from_str(printed(&run(addr, &[args, &["--json"]].concat()))).unwrap()
}

fn create(addr: &str, args: &[&str]) -> String {
    printed(&run(addr, &[&["create"], args].concat())).trim().to_owned()
}

#[test]
fn options_of_a_creation_become_its_policy() {
    let daemon = FakeDaemon::start(Flaws::default());
    let addr = daemon.addr.as_str();
    let options = [
        "--profile",
        "pip,npm",
        "--allow",
        "a.example:22,443",
        "--allow",
        "github",
        "--deny",
        "t.example",
    ];
    let id = create(addr, &options);
    assert_eq!(
        json(addr, &["egress", "show", &id])["policy"],
        json!({"profiles": ["pip", "npm", "github"], "allow": ["a.example:22,443"],
            "deny": ["t.example"]})
    );
    let id = create(addr, &[]);
    assert_eq!(json(addr, &["egress", "show", &id])["policy"], json!({}));
    // `run` takes the same options.
    let ran = run(addr, &["run", "shell", "--allow", "a.example", "echo ran"]);
    assert_eq!(printed(&ran), "ran\n");
}

#[test]
fn a_policy_is_changed_and_shown() {
    let daemon = FakeDaemon::start(Flaws::default());
    let addr = daemon.addr.as_str();
    let id = create(addr, &["--profile", "pip"]);
    let policy = |args: &[&str]| json(addr, args)["policy"].clone();
    assert_eq!(
        policy(&["egress", "allow", &id, "a.example", "npm", "nexus:8081"]),
        json!({"profiles": ["pip", "npm"], "allow": ["a.example", "nexus:8081"]})
    );
    assert_eq!(policy(&["egress", "deny", &id, "b.example"])["deny"], json!(["b.example"]));
    let removed = policy(&["egress", "remove", &id, "pip", "a.example", "b.example"]);
    assert_eq!(removed, json!({"profiles": ["npm"], "allow": ["nexus:8081"]}));
    let shown = run(addr, &["egress", "remove", &id, "x.example"]);
    let shown = printed(&shown);
    for line in [
        "state        unavailable: no BPF",
        "connections  2 open, 5 made, 4 denied, 1 failed",
        "data         2.0 KiB sent, 3 B received",
        "reset        1 connections",
        "profiles     npm",
        "nexus:8081  sandbox",
    ] {
        assert!(shown.lines().any(|shown| shown == line), "{line}: {shown}");
    }
}

#[test]
fn a_check_is_printed_and_ends_with_its_decision() {
    let daemon = FakeDaemon::start(Flaws::default());
    let addr = daemon.addr.as_str();
    let id = create(addr, &[]);
    let allowed = run(addr, &["egress", "check", &id, "a.example"]);
    assert_eq!(
        printed(&allowed),
        "allowed: a.example:443, by *.example (sandbox), at 192.0.2.1, 2001:db8::1\n"
    );
    let denied = run(addr, &["egress", "check", &id, "evil.test:22"]);
    assert_eq!(denied.status.code(), Some(1));
    let text = String::from_utf8(denied.stdout).unwrap();
    assert_eq!(text, "denied: evil.test:22, no_rule\nhint: add it to `allow`\n");
    let wrong = run(ADDR_DEAD, &["egress", "check", "sb_1", "a.example:x"]);
    assert_eq!(wrong.status.code(), Some(125));
    assert!(complaint(&wrong).contains("the port is not a number"), "{}", complaint(&wrong));
}

#[test]
fn a_log_is_read_to_its_end_and_followed() {
    let daemon = FakeDaemon::start(Flaws::default());
    let addr = daemon.addr.as_str();
    let id = create(addr, &[]);
    let log = run(addr, &["egress", "log", &id]);
    let expected = [
        "(2 records are no longer kept)",
        "2026-11-28T03:50:01.123456Z  allowed  a.example:443  by *.example (sandbox)  1.0 KiB \
         sent, 10 B received",
        "2026-11-28T03:50:02.123456Z  denied   e\u{fffd}[2Jvil  lookup  no_rule  3 times",
    ];
    assert_eq!(printed(&log).lines().collect::<Vec<_>>(), expected);
    let document = json(addr, &["egress", "log", &id]);
    assert_eq!((&document["next"], &document["gap"]), (&json!(9), &json!(2)));
    assert_eq!(document["records"][1]["reason"], "no_rule");

    let followed = run(addr, &["egress", "log", "-f", "--denied", &id]);
    let lines: Vec<_> = printed(&followed).lines().collect();
    assert_eq!((lines.len(), lines[0]), (2, "(3 records are no longer kept)"));
    let followed = run(addr, &["egress", "log", "-f", "--denied", &id, "--json"]);
    let lines: Vec<Value> =
        printed(&followed).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((&lines[0], &lines[1]["seq"]), (&json!({"gap": 3}), &json!(9)));
}

#[test]
fn profiles_are_listed() {
    let daemon = FakeDaemon::start(Flaws::default());
    let table = run(&daemon.addr, &["egress", "profiles"]);
    let lines: Vec<_> = printed(&table).lines().collect();
    assert_eq!(lines[1], "pip      pack:python  index.example, files.example");
    assert_eq!(json(&daemon.addr, &["egress", "profiles"])["profiles"][1]["from"], "built-in");
    let unknown = run(&daemon.addr, &["egress", "show", "sb_1"]);
    assert_eq!(unknown.status.code(), Some(125));
}
