//! Deletion: alone, at once, in the middle of things.

use emberd_proto::ExecSpec;
use emberd_sandbox::{GuestError, OpenError, SandboxId, Sandboxes, Unknown};
use futures::FutureExt as _;
use futures::future::join_all;

use crate::fixture::{ById as _, Fixture, UNTIL_AGENT_DIES, driver, is_running, until};

#[tokio::test]
async fn deleted_sandbox_is_found_no_more_and_then_gone() {
    let fixture = Fixture::new();
    let id = fixture.create().await;
    let pid = fixture.vmm_pid(id);
    assert!(is_running(pid));
    fixture.sandboxes.delete(id).await.unwrap();
    // The test has not let anything else run since.
    assert!(is_running(pid));
    assert_eq!(fixture.sandboxes.reaping(), 1);
    assert!(fixture.sandboxes.get(id).is_err());
    until(|| fixture.sandboxes.reaping() == 0).await;
    assert!(!is_running(pid));
    assert!(fixture.left().is_empty());
    let again = fixture.sandboxes.delete(id).await;
    assert!(matches!(again, Err(Unknown(_))));
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
    assert!(matches!(refused, Err(Unknown(_))));
    fixture.close().await;
}

#[tokio::test]
async fn deletion_cuts_off_execs() {
    let fixture = Fixture::new();
    let id = fixture.create().await;
    let dir = fixture.sandboxes.get(id).unwrap().view().dir;
    let cwd = Some(dir.display().to_string());
    let spec = ExecSpec { cwd, ..ExecSpec::new(UNTIL_AGENT_DIES) };
    let exec = fixture.sandboxes.exec(id, spec, b"");
    let delete = async {
        until(|| dir.join("running").exists()).await;
        fixture.sandboxes.delete(id).await.unwrap();
    };
    let (outcome, ()) = tokio::join!(exec, delete);
    assert!(matches!(outcome, Err(GuestError::Deleted { .. })), "{outcome:?}");
    fixture.close().await;
}

#[tokio::test]
async fn deletion_goes_on_when_its_caller_goes_away() {
    let fixture = Fixture::new();
    let id = fixture.create().await;
    let pid = fixture.vmm_pid(id);
    // Whether it was done at once or is cut off makes no difference.
    let _done = fixture.sandboxes.delete(id).now_or_never();
    // A shutdown waits for all deletions under way.
    fixture.sandboxes.shutdown().await;
    assert!(!is_running(pid));
    fixture.close().await;
}

#[tokio::test]
async fn flood_of_deletions_waits_for_those_before_it() {
    const AT_ONCE: usize = 16;
    let fixture = Fixture::new();
    let ids = join_all((0..AT_ONCE + 4).map(|_| fixture.create())).await;
    let mut deletions: Vec<_> =
        ids.into_iter().map(|id| Box::pin(fixture.sandboxes.delete(id))).collect();
    // Nothing else runs between the polls, so nothing is reaped between them.
    let answered = deletions.iter_mut().map(|deletion| deletion.as_mut().now_or_never());
    let answered: Vec<_> = answered.collect();
    assert_eq!(answered.iter().flatten().count(), AT_ONCE);
    assert_eq!(fixture.sandboxes.count(), 0);
    for deletion in deletions.into_iter().skip(AT_ONCE) {
        deletion.await.unwrap();
    }
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
