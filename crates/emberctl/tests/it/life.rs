//! `emberctl test`: it passes over a sound daemon and finds out the others.

use std::process::Output;

use serde_json::Value;

use crate::fake_daemon::{FakeDaemon, Flaws};
use crate::{printed, run};

fn try_out(flaws: Flaws) -> (Output, Value, FakeDaemon) {
    let daemon = FakeDaemon::start(flaws);
    let output = run(&daemon.addr, &["test", "--pack", "shell", "--json"]);
    let report = serde_json::from_slice(&output.stdout).unwrap();
    (output, report, daemon)
}

fn steps_with<'a>(report: &'a Value, verdict: &str) -> Vec<&'a str> {
    let steps = report["steps"].as_array().unwrap().iter();
    let named = steps.filter(|step| step["verdict"] == verdict);
    named.map(|step| step["name"].as_str().unwrap()).collect()
}

#[test]
fn a_sound_daemon_passes_every_step() {
    let (output, report, daemon) = try_out(Flaws::default());
    assert_eq!(output.status.code(), Some(0), "{report:#}");
    assert_eq!(steps_with(&report, "ok").len(), 14, "{report:#}");
    assert_eq!((&report["failed"], &report["skipped"]), (&0.into(), &0.into()));
    assert!(daemon.sandboxes().is_empty());
}

#[test]
fn people_see_one_line_a_step_and_the_sum() {
    let daemon = FakeDaemon::start(Flaws::default());
    let output = run(&daemon.addr, &["test", "--pack", "shell"]);
    let lines: Vec<&str> = printed(&output).lines().collect();
    assert_eq!(lines.len(), 15, "{lines:#?}");
    assert!(lines[..14].iter().all(|line| line.starts_with("ok    ")), "{lines:#?}");
    assert_eq!(lines[14], "14 ok, 0 FAIL, 0 SKIP");
}

#[test]
fn code_that_runs_on_the_hosts_kernel_is_found_out() {
    let (output, report, daemon) = try_out(Flaws { host_kernel: true, ..Flaws::default() });
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(steps_with(&report, "fail"), ["guest kernel booted"]);
    assert!(daemon.sandboxes().is_empty(), "the sandbox is deleted all the same");
}

#[test]
fn a_sandbox_that_leaves_something_behind_is_found_out() {
    let (output, report, _daemon) = try_out(Flaws { leaks: true, ..Flaws::default() });
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(steps_with(&report, "fail"), ["VMM process is gone", "work directory is gone"]);
}

#[test]
fn what_another_host_hides_is_skipped_with_a_reason() {
    let (output, report, _daemon) = try_out(Flaws { elsewhere: true, ..Flaws::default() });
    assert_eq!(output.status.code(), Some(0), "{report:#}");
    let skipped = ["VMM process runs", "VMM process is gone", "work directory is gone"];
    assert_eq!(steps_with(&report, "skipped"), skipped);
    let steps = report["steps"].as_array().unwrap();
    let step = steps.iter().find(|step| step["verdict"] == "skipped").unwrap();
    assert_eq!(step["seen"], "the daemon runs on another host: this host has no /nonexistent");
}
