//! Execs: what comes out, what is refused, and every way a guest can fail.

use std::time::Duration;

use emberd_proto::ExecSpec;
use emberd_proto::exec::{OUTPUT_BYTES_MAX, STDIN_BYTES_MAX};
use emberd_sandbox::{GuestError, SandboxId, SandboxState, Unknown};
use emberd_vmm::ExitReason;
use rustix::process::Signal;

use crate::fixture::{ById as _, Fixture, UNTIL_AGENT_DIES, until};

#[tokio::test]
async fn outcome_tells_how_the_program_ended() {
    let fixture = Fixture::new();
    let id = fixture.create().await;
    let spec = ExecSpec {
        args: vec!["one".into(), "two".into()],
        env: [("COLOUR".into(), "red".into())].into(),
        cwd: Some("/".into()),
        ..ExecSpec::new("echo $1 $2 $COLOUR $PWD; cat >&2; exit 7")
    };
    let outcome = fixture.sandboxes.exec(id, spec, b"from stdin").await.unwrap().outcome;
    assert_eq!(outcome.stdout, "one two red /\n");
    assert_eq!(outcome.stderr, "from stdin");
    assert_eq!(outcome.exit.exit_code, 7);
    fixture.close().await;
}

#[tokio::test]
async fn time_limit_is_an_outcome() {
    let fixture = Fixture::new();
    let id = fixture.create().await;
    let spec = ExecSpec { timeout_ms: 50, ..ExecSpec::new("sleep 1000") };
    let outcome = fixture.sandboxes.exec(id, spec, b"").await.unwrap().outcome;
    assert!(outcome.exit.timed_out);
    assert_eq!(outcome.exit.error.as_deref(), Some("execution timed out"));
    assert_eq!(fixture.exec(id, "echo next").await.unwrap().stdout, "next\n");
    fixture.close().await;
}

#[tokio::test]
async fn large_input_and_output_cross_without_a_jam() {
    let fixture = Fixture::new();
    let id = fixture.create().await;
    let stdin = vec![b'x'; 4 << 20];
    let executed = fixture.sandboxes.exec(id, ExecSpec::new("cat; cat >&2"), &stdin).await;
    let outcome = executed.unwrap().outcome;
    assert_eq!(outcome.stdout.len(), stdin.len());
    assert!(!outcome.exit.stdout_truncated);
    fixture.close().await;
}

#[tokio::test]
async fn output_over_the_cap_is_cut_and_flagged() {
    let fixture = Fixture::new();
    let id = fixture.create().await;
    let outcome = fixture.exec(id, "head -c 10000000 /dev/zero").await.unwrap();
    assert_eq!(outcome.stdout.len(), OUTPUT_BYTES_MAX);
    assert!(outcome.exit.stdout_truncated);
    fixture.close().await;
}

#[tokio::test]
async fn broken_limits_are_refused_before_the_guest_hears_of_them() {
    let fixture = Fixture::new();
    let id = fixture.create().await;
    // A guest that hears of nothing cannot have been the one to refuse.
    fixture.signal(id, Signal::STOP);
    let spec = ExecSpec { timeout_ms: 0, ..ExecSpec::new("") };
    let refused = fixture.sandboxes.exec(id, spec, b"").await;
    assert!(matches!(refused, Err(GuestError::Invalid(_))));
    let stdin = vec![0; STDIN_BYTES_MAX + 1];
    let refused = fixture.sandboxes.exec(id, ExecSpec::new(""), &stdin).await;
    assert!(matches!(refused, Err(GuestError::StdinTooLarge(_))));
    fixture.close().await;
}

#[tokio::test]
async fn unknown_sandbox() {
    let fixture = Fixture::new();
    let refused = fixture.sandboxes.get(SandboxId::random()).map(drop);
    assert!(matches!(refused, Err(Unknown(_))));
    fixture.close().await;
}

#[tokio::test]
async fn microvm_that_ends_by_itself_is_noticed() {
    let fixture = Fixture::new();
    let id = fixture.create().await;
    fixture.signal(id, Signal::KILL);
    let gone = SandboxState::Gone(ExitReason::Signal(9));
    until(|| fixture.sandboxes.get(id).unwrap().view().state == gone).await;
    let refused = fixture.exec(id, "").await;
    assert!(
        matches!(refused, Err(GuestError::Gone { reason, .. }) if reason.ends_with("signal 9"))
    );
    fixture.sandboxes.delete(id).await.unwrap();
    until(|| fixture.left().is_empty()).await;
    fixture.close().await;
}

#[tokio::test]
async fn microvm_that_ends_during_an_exec() {
    let fixture = Fixture::new();
    let id = fixture.create().await;
    let pid = fixture.vmm_pid(id);
    let dir = fixture.sandboxes.get(id).unwrap().view().dir;
    let spec = ExecSpec { cwd: Some(dir.display().to_string()), ..ExecSpec::new(UNTIL_AGENT_DIES) };
    let exec = fixture.sandboxes.exec(id, spec, b"");
    let kill = async {
        until(|| dir.join("running").exists()).await;
        assert_eq!(fixture.vmm_pid(id), pid);
        fixture.signal(id, Signal::KILL);
    };
    let (outcome, ()) = tokio::join!(exec, kill);
    assert!(matches!(outcome, Err(GuestError::Gone { .. })), "{outcome:?}");
    fixture.close().await;
}

#[tokio::test]
async fn guest_that_stops_answering_is_given_up() {
    let fixture = Fixture::with(|config| config.exec_grace = Duration::from_millis(100));
    let id = fixture.create().await;
    fixture.signal(id, Signal::STOP);
    let spec = ExecSpec { timeout_ms: 1, ..ExecSpec::new("") };
    let outcome = fixture.sandboxes.exec(id, spec, b"").await;
    assert!(matches!(outcome, Err(GuestError::Unresponsive { .. })), "{outcome:?}");
    fixture.sandboxes.delete(id).await.unwrap();
    fixture.close().await;
}

#[tokio::test]
async fn caller_that_goes_away_ends_the_program() {
    let fixture = Fixture::new();
    let id = fixture.create().await;
    let dir = fixture.sandboxes.get(id).unwrap().view().dir;
    let code = "echo $$ > pid.new; mv pid.new pid; exec sleep 1000";
    let spec = ExecSpec { cwd: Some(dir.display().to_string()), ..ExecSpec::new(code) };
    let sandboxes = fixture.sandboxes.clone();
    let exec = tokio::spawn(async move { sandboxes.exec(id, spec, b"").await.map(drop) });
    let pid_file = dir.join("pid");
    until(|| pid_file.exists()).await;
    let pid: u32 = std::fs::read_to_string(pid_file).unwrap().trim().parse().unwrap();
    exec.abort();
    until(|| !crate::fixture::is_running(pid)).await;
    fixture.close().await;
}
