//! Shutdown in every phase of what is made ahead: nothing is left.

use std::fs;

use emberd_sandbox::{BuildTemplateError, CreateError, TemplateState};
use fake_firecracker::Double;
use futures::FutureExt as _;
use rustix::process::{Pid, Signal, kill_process};

use crate::fixture::{Fixture, SAME, shell, until};

fn some_dir(fixture: &Fixture, file: &str) -> bool {
    fixture.left().iter().any(|dir| dir.join(file).exists())
}

#[tokio::test]
async fn while_the_guest_of_a_template_boots() {
    let fixture = Fixture::restored_by(|double| double.misbehave("never-ready"));
    until(|| fixture.some_vm_started()).await;
    assert_eq!(fixture.template().state, TemplateState::Building);
    fixture.close().await;
}

#[tokio::test]
async fn while_a_template_is_written() {
    let fixture = Fixture::restored_by(|double| double.misbehave("hang-at=PUT /snapshot/create"));
    let templates = fixture.run_dir.with_file_name("templates");
    let begun = || fs::read_dir(&templates).unwrap().count() == 1;
    until(begun).await;
    let pack = shell();
    let (built, ()) = tokio::join!(fixture.sandboxes.build_template(&pack, &SAME, None), async {
        fixture.sandboxes.shutdown().await;
    });
    assert!(matches!(built, Err(BuildTemplateError::ShuttingDown)), "{built:?}");
    assert_eq!(fs::read_dir(&templates).unwrap().count(), 0);
    fixture.close().await;
}

#[tokio::test]
async fn while_a_template_warms_up() {
    let hang = |double: &Double| fs::write(double.kernel().with_file_name("hang"), "").unwrap();
    let fixture = Fixture::restored_by(hang);
    until(|| some_dir(&fixture, "warming")).await;
    fixture.close().await;
}

#[tokio::test]
async fn while_a_microvm_for_the_pool_warms_up() {
    let fixture = Fixture::pooled(1);
    fixture.filled().await;
    fixture.hang_programs(true);
    fixture.create().await;
    until(|| some_dir(&fixture, "warming")).await;
    fixture.close().await;
}

#[tokio::test]
async fn while_a_microvm_is_loaded_for_the_pool() {
    let fixture = Fixture::pooled_by(2, |double| double.misbehave("hang-at=PUT /snapshot/load"));
    until(|| fixture.pool().filling == 1 && fixture.left().len() == 1).await;
    fixture.close().await;
}

#[tokio::test]
async fn while_a_sandbox_is_restored() {
    let fixture = Fixture::restored_by(|double| double.misbehave("hang-at=PUT /snapshot/load"));
    fixture.build().await;
    let creation = {
        let sandboxes = fixture.sandboxes.clone();
        tokio::spawn(async move { sandboxes.create(&shell()).await })
    };
    until(|| fixture.sandboxes.count() == 1).await;
    fixture.sandboxes.shutdown().await;
    let created = creation.await.unwrap();
    assert!(matches!(created, Err(CreateError::ShuttingDown)), "{created:?}");
    fixture.close().await;
}

#[tokio::test]
async fn with_everything_full() {
    let fixture = Fixture::pooled(3);
    fixture.filled().await;
    fixture.create().await;
    fixture.sandboxes.shutdown().await;
    let late = fixture.sandboxes.create(&shell()).await;
    assert!(matches!(late, Err(CreateError::ShuttingDown)));
    let pool = fixture.pool();
    assert_eq!((pool.ready, pool.filling, pool.standing_by), (0, 0, 0));
    fixture.close().await;
}

#[tokio::test]
async fn in_the_middle_of_a_flood() {
    let fixture = Fixture::pooled(2);
    fixture.filled().await;
    let creations: Vec<_> = (0..10)
        .map(|_| {
            let sandboxes = fixture.sandboxes.clone();
            tokio::spawn(async move { sandboxes.create(&shell()).await.map(drop) })
        })
        .collect();
    until(|| fixture.sandboxes.count() >= 5).await;
    fixture.sandboxes.shutdown().await;
    for creation in creations {
        let created = creation.await.unwrap();
        assert!(matches!(created, Ok(()) | Err(CreateError::ShuttingDown)), "{created:?}");
    }
    fixture.close().await;
}

#[tokio::test]
async fn a_request_that_waits_for_an_adopted_guest_is_served_by_a_daemon_that_stops() {
    let fixture = Fixture::new();
    let id = fixture.create().await;
    let pid = Pid::from_raw(fixture.vmm_pid(id).cast_signed()).unwrap();
    let send = |signal| kill_process(pid, signal).unwrap();
    let fixture = fixture.succeed(|| send(Signal::STOP)).await;
    let handle = fixture.sandboxes.get(id).unwrap();
    let mut request = Box::pin(handle.enter());
    assert!(request.as_mut().now_or_never().is_none());
    fixture.sandboxes.close();
    assert!(request.as_mut().now_or_never().is_none());
    send(Signal::CONT);
    drop(request.await.unwrap());
    fixture.close().await;
}
