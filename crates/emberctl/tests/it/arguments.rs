//! Wrong usage, help and a daemon that is not there.

use serde_json::Value;

use crate::{ADDR_DEAD, complaint, printed, run};

#[track_caller]
fn check_usage_error(args: &[&str], said: &str) {
    let output = run(ADDR_DEAD, args);
    assert_eq!(output.status.code(), Some(125), "{args:?}: {}", complaint(&output));
    assert!(complaint(&output).contains(said), "{args:?}: {}", complaint(&output));
    assert!(output.stdout.is_empty(), "{args:?}");
}

#[test]
fn wrong_usage_is_our_own_error() {
    check_usage_error(&[], "Usage:");
    check_usage_error(&["teleport"], "unrecognized subcommand");
    check_usage_error(&["run", "python"], "required arguments");
    check_usage_error(&["run", "python", "1", "-f", "x"], "cannot be used with");
    check_usage_error(&["exec", "sb_1", "1", "--timeout", "soon"], "500ms");
    check_usage_error(&["exec", "sb_1", "1", "--timeout", "0"], "timeout_ms is 0");
    check_usage_error(&["exec", "sb_1", "1", "--timeout", "2h"], "3600000");
    check_usage_error(&["exec", "sb_1", "1", "--env", "A"], "NAME=VALUE");
    check_usage_error(&["exec", "sb_1", "1", "--env", "=A"], "not a valid name");
    check_usage_error(&["exec", "sb_1", "-f", "/nonexistent"], "cannot read /nonexistent");
    check_usage_error(&["exec", "sb_1", "-i", "-f", "-"], "both the code and the program's input");
    check_usage_error(&["rm"], "required arguments");
    check_usage_error(&["template"], "Usage:");
    check_usage_error(&["template", "build"], "required arguments");
    check_usage_error(&["--addr", "nonsense", "ls"], "nonsense");
}

#[test]
fn usage_errors_are_json_on_request() {
    let output = run(ADDR_DEAD, &["--json", "teleport"]);
    assert_eq!(output.status.code(), Some(125));
    let error: Value = serde_json::from_slice(&output.stderr).unwrap();
    assert_eq!(error["error"], "unrecognized subcommand 'teleport'");
}

#[test]
fn help_and_version_are_no_errors() {
    assert!(printed(&run(ADDR_DEAD, &["--help"])).contains("Exit codes:"));
    assert!(printed(&run(ADDR_DEAD, &["--version"])).starts_with("emberctl "));
    assert!(printed(&run(ADDR_DEAD, &["run", "--help"])).contains("--timeout"));
    assert!(printed(&run(ADDR_DEAD, &["completions", "bash"])).contains("complete -F"));
}

#[test]
fn a_missing_daemon_comes_with_a_hint() {
    for args in [&["ls"][..], &["ping"], &["create"], &["run", "python", "1"], &["test"]] {
        let output = run(ADDR_DEAD, args);
        assert_eq!(output.status.code(), Some(125), "{args:?}");
        let complaint = complaint(&output);
        assert!(complaint.starts_with("error: cannot connect"), "{args:?}: {complaint}");
        assert!(complaint.contains("No such file"), "{args:?}: {complaint}");
        assert!(complaint.ends_with("\nhint: start the daemon: scripts/serve.sh\n"), "{complaint}");
    }
}

#[test]
fn a_missing_daemon_is_json_on_request() {
    let output = run(ADDR_DEAD, &["ls", "--json"]);
    assert_eq!(output.status.code(), Some(125));
    let error: Value = serde_json::from_slice(&output.stderr).unwrap();
    assert_eq!(error["hint"], "start the daemon: scripts/serve.sh");
    assert!(error.get("code").is_none());
}
