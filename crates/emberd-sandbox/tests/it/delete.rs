//! Deletion: alone, at once, in the middle of things.

use emberd_proto::ExecSpec;
use emberd_sandbox::{DeleteError, ExecError, OpenError, SandboxId, Sandboxes};
use futures::FutureExt as _;
use futures::future::join_all;

use crate::fixture::{Fixture, UNTIL_AGENT_DIES, driver, is_running, until};

#[tokio::test]
async fn nothing_is_left_of_a_deleted_sandbox() {
    let fixture = Fixture::new();
    let id = fixture.create().await;
    let pid = fixture.vmm_pid(id);
    assert!(is_running(pid));
    fixture.sandboxes.delete(id).await.unwrap();
    assert!(!is_running(pid));
    assert!(fixture.left().is_empty());
    assert!(fixture.sandboxes.get(id).is_none());
    let again = fixture.sandboxes.delete(id).await;
    assert!(matches!(again, Err(DeleteError::Unknown(_))));
    fixture.close().await;
}

#[tokio::test]
async fn of_many_deletions_at_once_one_finds_the_sandbox() {
    let fixture = Fixture::new();
    let id = fixture.create().await;
    let outcomes = join_all((0..16).map(|_| fixture.sandboxes.delete(id))).await;
    assert_eq!(outcomes.iter().filter(|outcome| outcome.is_ok()).count(), 1);
    fixture.close().await;
}

#[tokio::test]
async fn unknown_sandbox() {
    let fixture = Fixture::new();
    let refused = fixture.sandboxes.delete(SandboxId::random()).await;
    assert!(matches!(refused, Err(DeleteError::Unknown(_))));
    fixture.close().await;
}

#[tokio::test]
async fn deletion_cuts_off_execs() {
    let fixture = Fixture::new();
    let id = fixture.create().await;
    let dir = fixture.sandboxes.get(id).unwrap().dir;
    let cwd = Some(dir.display().to_string());
    let spec = ExecSpec { cwd, ..ExecSpec::new(UNTIL_AGENT_DIES) };
    let exec = fixture.sandboxes.exec(id, spec, b"");
    let delete = async {
        until(|| dir.join("running").exists()).await;
        fixture.sandboxes.delete(id).await.unwrap();
    };
    let (outcome, ()) = tokio::join!(exec, delete);
    assert!(matches!(outcome, Err(ExecError::Deleted(_))), "{outcome:?}");
    fixture.close().await;
}

#[tokio::test]
async fn deletion_goes_on_when_its_caller_goes_away() {
    let fixture = Fixture::new();
    let id = fixture.create().await;
    let pid = fixture.vmm_pid(id);
    let mut deletion = Box::pin(fixture.sandboxes.delete(id));
    assert!(deletion.as_mut().now_or_never().is_none());
    drop(deletion);
    // A shutdown waits for deletions under way, whoever asked for them.
    fixture.sandboxes.shutdown().await;
    assert!(!is_running(pid));
    fixture.close().await;
}

#[tokio::test]
async fn second_daemon_on_one_run_directory_is_refused() {
    let fixture = Fixture::new();
    let (config, images) = (fixture.sandboxes.config().clone(), fixture.sandboxes.images().clone());
    let second = Sandboxes::open(config, images, driver(&fixture.double));
    assert!(matches!(second.err(), Some(OpenError::RunDirInUse { .. })));
    fixture.close().await;
}
