//! Real runs over the test double, a few iterations each.

use std::fs;
use std::path::Path;
use std::process::Stdio;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::{bench, temp_dir, text};

/// Runs `scenarios` over the double and returns what was written and what was printed.
fn run(scenarios: &[&str], flags: &[&str]) -> (Value, String) {
    let temp = temp_dir();
    let json = temp.path().join("result.json");
    let words = ["--double", "--packs", "shell", "--json", json.to_str().unwrap()];
    let output = bench(temp.path(), &[scenarios, &words, flags].concat()).output().unwrap();
    assert!(output.status.success(), "{}", text(&output));
    let document = serde_json::from_slice(&fs::read(&json).unwrap()).unwrap();
    fs::remove_file(&json).unwrap();
    assert_eq!(left_in(temp.path()), Vec::<String>::new());
    (document, String::from_utf8(output.stdout).unwrap())
}

fn left_in(dir: &Path) -> Vec<String> {
    let entries = dir.read_dir().unwrap();
    entries.map(|entry| entry.unwrap().path().display().to_string()).collect()
}

/// Asserts that `series` holds `n` samples in order.
#[track_caller]
fn check(document: &Value, scenario: &str, series: &str, n: u64) {
    let summary = &document["scenarios"][scenario][series];
    assert_eq!(summary["n"], n, "{scenario} {series}: {summary}");
    let value = |name: &str| summary[name].as_u64().unwrap();
    let numbers = [value("min"), value("p50"), value("p90"), value("max")];
    assert!(numbers.is_sorted(), "{summary}");
    assert_eq!(summary.get("p95").is_some(), n >= 20, "{summary}");
    assert_eq!(summary.get("p99").is_some(), n >= 100, "{summary}");
}

#[test]
fn overhead_is_told_beside_its_parts() {
    // What is asked of the daemon is not asked of the double.
    let flags = ["--iterations", "25", "--breakdown", "--", "--data-dir", "/nonexistent"];
    let (document, printed) = run(&["overhead"], &flags);
    for series in ["exec", "transport_floor", "http_floor", "http_floor_client", "unix_floor"] {
        check(&document, "overhead", series, 25);
    }
    check(&document, "overhead", "exec_whole/run", 25);
    assert_eq!(document["host"]["driver"], "double");
    assert!(printed.contains("STAGE") && printed.contains("≤ 100 µs"), "{printed}");
}

#[test]
fn keys_tls_and_the_journal_are_told_beside_none() {
    let (document, printed) = run(&["overhead", "audit", "tls"], &["--iterations", "3", "--key"]);
    for series in ["request", "create", "exec"] {
        check(&document, "overhead", &format!("{series}_with_key"), 3);
        check(&document, "overhead", &format!("{series}_without_key"), 3);
    }
    for series in ["request_recorded", "request_unrecorded"] {
        check(&document, "audit", series, 3);
    }
    check(&document, "audit", "cpu_recorded", 1);
    for series in ["handshake", "request_tls", "request_plain"] {
        check(&document, "tls", series, 3);
    }
    for scenario in ["audit", "tls"] {
        let checks = document["checks"][scenario].as_array().unwrap();
        assert_eq!(checks.len(), 2, "{checks:?}");
        assert!(checks.iter().all(|check| check["holds"] == true), "{checks:?}");
    }
    assert!(printed.contains("≤ exec_without_key + 5 µs"), "{printed}");
    assert!(printed.contains("≤ 2 ms"), "{printed}");
}

#[test]
fn a_scrape_is_timed_beside_sandboxes() {
    let (document, _) = run(&["metrics"], &["--iterations", "20"]);
    check(&document, "metrics", "scrape", 100);
    check(&document, "metrics", "scrape_bytes", 1);
    assert_eq!(document["scenarios"]["metrics"]["sandboxes_count"]["p50"], 20);
    let checks = document["checks"]["metrics"].as_array().unwrap();
    assert!(checks.iter().all(|check| check["holds"] == true), "{checks:?}");
}

#[test]
fn tools_are_timed_beside_the_api() {
    let (document, printed) = run(&["mcp"], &["--iterations", "5"]);
    for series in ["run_by_api", "run_by_stdio", "run_by_http"] {
        check(&document, "mcp", series, 5);
    }
    assert!(printed.contains("run_by_api + 1"), "{printed}");
}

#[test]
fn creations_and_churn_leave_nothing_behind() {
    let (document, printed) = run(&["warm-create", "churn"], &["--iterations", "6"]);
    check(&document, "warm-create", "create_shell", 6);
    check(&document, "churn", "life_shell", 6);
    check(&document, "churn", "life_shell_last_third", 2);
    let checks = document["checks"]["churn"].as_array().unwrap();
    assert_eq!(checks.len(), 2, "{checks:?}");
    assert!(checks.iter().all(|check| check["holds"] == true), "{checks:?}");
    assert!(!printed.contains("STAGE") && !printed.contains('\u{1b}'), "{printed}");
}

#[test]
fn every_other_scenario_comes_to_its_end() {
    let scenarios = [
        "restore",
        "ttfr",
        "exec",
        "workloads",
        "context",
        "delete",
        "freeze",
        "sizes",
        "adopt",
        "density",
        "memory",
        "cold-boot",
    ];
    let (document, _) = run(&scenarios, &["--iterations", "1"]);
    for (scenario, series) in [
        ("restore", "create_shell"),
        ("restore", "first_result_shell"),
        ("ttfr", "total_shell"),
        ("ttfr", "exec_steady_shell"),
        ("exec", "shell_spawn"),
        ("workloads", "shell_code_900k"),
        ("workloads", "shell_timeout_1s"),
        ("context", "open_shell"),
        ("context", "run_shell"),
        ("delete", "gone_shell"),
        ("freeze", "thaw_shell"),
        ("freeze", "exec_frozen_shell"),
        ("freeze", "busy_frozen_shell"),
        ("sizes", "create_512_mib_shell"),
        ("adopt", "serving_shell"),
        ("adopt", "adopted_64_shell"),
        ("density", "frozen_private_shell_bytes"),
        ("density", "busy_all_frozen_shell"),
        ("density", "exec_frozen_shell"),
        ("sizes", "create_4096_mib_disk_shell"),
        ("sizes", "create_512_pids_shell"),
        ("memory", "idle_pss_shell_bytes"),
        ("cold-boot", "create_shell"),
    ] {
        check(&document, scenario, series, 1);
    }
}

#[test]
fn files_go_in_and_out() {
    let (document, _) = run(&["files"], &["--iterations", "2"]);
    for series in ["push_128m_shell", "pull_128m_shell", "push_4k_shell", "stat_shell"] {
        check(&document, "files", series, 2);
    }
    for series in ["push_128m_shell", "write_128m_shell_floor", "loopback_128m_floor"] {
        check(&document, "files", &format!("{series}_bytes_per_s"), 2);
    }
}

#[test]
fn output_is_streamed_and_told_beside_its_floors() {
    let (document, printed) = run(&["stream"], &["--iterations", "2", "--breakdown"]);
    for series in ["first_byte_shell", "first_byte_shell/output", "exec_shell"] {
        check(&document, "stream", series, 2);
    }
    for series in ["echo_shell", "agent_shell_floor", "echo_floor"] {
        check(&document, "stream", series, 2);
    }
    for series in ["output_128m_shell", "exec_8m_shell", "output_128m_shell_floor"] {
        check(&document, "stream", &format!("{series}_bytes_per_s"), 1);
    }
    check(&document, "stream", "output_128m_shell_lost_bytes", 1);
    assert!(printed.contains("MiB/s") && printed.contains("follow"), "{printed}");
}

#[test]
fn many_processes_are_held_and_none_is_left() {
    let (document, _) = run(&["held"], &["--iterations", "1"]);
    let held = document["scenarios"]["held"]["held_shell_count"]["p50"].as_u64().unwrap();
    assert_eq!(held, 256, "as many as a sandbox may have");
    check(&document, "held", "start_shell", held);
    check(&document, "held", "echo_held_shell", held);
    check(&document, "held", "daemon_pss_each_shell_bytes", 1);
    let checks = document["checks"]["held"].as_array().unwrap();
    assert_eq!(checks.len(), 5, "{checks:?}");
    assert!(checks.iter().all(|check| check["holds"] == true), "{checks:?}");
}

#[test]
fn callers_at_once_are_all_answered() {
    let (document, _) = run(&["concurrency"], &["--iterations", "1"]);
    check(&document, "concurrency", "life_shell_01", 1);
    check(&document, "concurrency", "life_shell_16", 16);
    check(&document, "concurrency", "all_shell_16", 1);
}

#[test]
fn two_runs_are_compared() {
    let temp = temp_dir();
    let old = temp.path().join("old.json");
    let (document, _) = run(&["overhead"], &["--iterations", "3"]);
    fs::write(&old, document.to_string()).unwrap();
    let flags = ["--iterations", "3", "--compare", old.to_str().unwrap()];
    let (_, printed) = run(&["overhead"], &flags);
    assert!(printed.contains("OLD P50") && printed.contains("RATIO"), "{printed}");
}

#[test]
fn a_run_cut_short_stops_its_daemon() {
    let temp = temp_dir();
    let mut command = bench(temp.path(), &["churn", "--double", "--packs", "shell"]);
    let mut bench = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // From this line on it listens for signals.
    let (line, _) = emberd_testing::first_line(bench.stderr.take().unwrap()).unwrap();
    assert!(line.starts_with("churn: "), "{line}");
    kill_process(Pid::from_child(&bench), Signal::TERM).unwrap();
    let output = bench.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    assert!(text(&output).contains("interrupted"), "{}", text(&output));
    assert_eq!(left_in(temp.path()), Vec::<String>::new());
}
