//! Creation, and every way it ends otherwise.

use emberd_sandbox::{CreateError, SandboxState};
use fake_firecracker::{Double, Then};

use crate::fixture::{Fixture, NEVER, pass, shell, until};

#[tokio::test]
async fn sandbox_is_ready_and_its_directory_says_what_it_is() {
    let fixture = Fixture::new();
    let id = fixture.create().await;
    let view = fixture.sandboxes.get(id).unwrap().view();
    assert!(matches!(view.state, SandboxState::Ready { .. }));
    assert_eq!(view.dir, fixture.run_dir.join(id.to_string()));
    let boot = view.boot.unwrap();
    assert_eq!((boot.kernel, boot.init), (None, None));
    let record = std::fs::read_to_string(view.dir.join("sandbox.jsonl")).unwrap();
    assert!(record.contains(&format!(r#""id":"{id}","pack":"shell","#)), "{record}");
    assert!(record.contains(r#""stage":"running""#), "{record}");
    fixture.close().await;
}

#[tokio::test]
async fn sandboxes_are_listed_oldest_first() {
    let fixture = Fixture::new();
    let created = [fixture.create().await, fixture.create().await, fixture.create().await];
    let listed: Vec<_> = fixture.sandboxes.list().iter().map(|view| view.id).collect();
    assert_eq!(listed, created);
    fixture.close().await;
}

#[tokio::test]
async fn unknown_pack_starts_nothing() {
    let fixture = Fixture::new();
    let error = fixture.sandboxes.create(&"cobol".parse().unwrap()).await.unwrap_err();
    assert!(matches!(error, CreateError::UnknownPack(_)));
    assert!(fixture.left().is_empty());
    fixture.close().await;
}

#[tokio::test]
async fn one_sandbox_too_many_is_refused_until_another_is_gone() {
    let fixture = Fixture::with(|config| config.sandboxes_max = 2);
    let first = fixture.create().await;
    fixture.create().await;
    let error = fixture.sandboxes.create(&shell()).await.unwrap_err();
    assert!(matches!(error, CreateError::TooMany(2)));
    fixture.sandboxes.delete(first).await.unwrap();
    fixture.create().await;
    fixture.close().await;
}

/// Creates with guests that misbehave, and returns the error with its causes; nothing may be
/// left.
async fn failure(misbehave: impl Fn(&Double)) -> (CreateError, String) {
    let fixture = Fixture::new();
    misbehave(&fixture.double);
    let error = fixture.sandboxes.create(&shell()).await.unwrap_err();
    torn_down(fixture, error).await
}

/// As [`failure`], with guests that never answer.
async fn failure_in_time(misbehave: impl Fn(&Double)) -> (CreateError, String) {
    let fixture = Fixture::with(|config| config.boot_timeout = NEVER);
    misbehave(&fixture.double);
    let shell = shell();
    let (created, ()) = tokio::join!(fixture.sandboxes.create(&shell), async {
        until(|| fixture.some_vm_started()).await;
        pass(NEVER).await;
    });
    torn_down(fixture, created.unwrap_err()).await
}

async fn torn_down(fixture: Fixture, error: CreateError) -> (CreateError, String) {
    assert!(fixture.left().is_empty());
    assert_eq!(fixture.sandboxes.count(), 0);
    fixture.close().await;
    let source = std::error::Error::source(&error).map(|source| format!(": {source}"));
    let text = format!("{error}{}", source.unwrap_or_default());
    (error, text)
}

#[tokio::test]
async fn vmm_that_does_not_start() {
    let script = "echo 'cannot set up guest memory'; exit 1";
    let (error, text) = failure(|double| double.first(script)).await;
    assert!(matches!(error, CreateError::Boot { .. }));
    assert!(text.contains("cannot set up guest memory"), "{text}");
}

#[tokio::test]
async fn vmm_that_ends_or_refuses_half_way() {
    for (fault, expect) in [
        ("die-at=PUT /actions=148", "exited with code 148 (seccomp violation"),
        ("refuse-at=PUT /vsock", "did not complete PUT /vsock"),
        ("cut-api=40", "did not complete PUT"),
    ] {
        let (error, text) = failure(|double| double.misbehave(fault)).await;
        assert!(matches!(error, CreateError::Boot { .. }), "{text}");
        assert!(text.contains(expect), "{text}");
    }
}

#[tokio::test]
async fn guest_that_panics_while_booting() {
    let script = "echo 'Kernel panic - not syncing'; set -- \"$@\" --fault die-at-boot=3";
    let (error, text) = failure(|double| double.first(script)).await;
    assert!(matches!(error, CreateError::Died { .. }));
    assert!(text.contains("Kernel panic - not syncing"), "{text}");
}

#[tokio::test]
async fn guest_that_never_answers() {
    for fault in ["never-ready", "no-listener"] {
        let (error, text) = failure_in_time(|double| double.misbehave(fault)).await;
        assert!(matches!(error, CreateError::NotReady { .. }), "{text}");
        assert!(text.contains("3600s; its console"), "{text}");
    }
    let (error, _) = failure_in_time(|double| double.answer(b"", Then::Silence)).await;
    assert!(matches!(error, CreateError::NotReady { .. }));
}

#[tokio::test]
async fn guest_that_answers_nonsense() {
    let cases: [(&[u8], &str); 4] = [
        (b"\xff\xff\xff\xff\x01", "malformed"),
        (b"\0\0\0\x09\x01", "malformed"),
        (b"\0\0\0\x12\x01{\"answer\":\"pong\"}", "broke the protocol"),
        (b"", "closed"),
    ];
    for (bytes, expect) in cases {
        let (error, text) = failure(|double| double.answer(bytes, Then::Close)).await;
        assert!(matches!(error, CreateError::Guest { .. }), "{text}");
        assert!(text.contains(expect), "{text}");
    }
}

#[tokio::test]
async fn guest_whose_stream_breaks_off() {
    let (error, text) = failure(|double| double.misbehave("cut-vsock=3")).await;
    assert!(matches!(error, CreateError::Guest { .. }), "{text}");
}

#[tokio::test]
async fn slow_guest_is_waited_for() {
    let fixture = Fixture::new();
    fixture.double.misbehave("slow-boot=400");
    let id = fixture.create().await;
    assert_eq!(fixture.exec(id, "echo awake").await.unwrap().stdout, "awake\n");
    fixture.close().await;
}

/// A fixture with one creation under way that will not end by itself.
async fn creating() -> (Fixture, tokio::task::JoinHandle<Result<(), CreateError>>) {
    let fixture = Fixture::new();
    fixture.double.misbehave("never-ready");
    let sandboxes = fixture.sandboxes.clone();
    let creation = tokio::spawn(async move { sandboxes.create(&shell()).await.map(drop) });
    until(|| fixture.left().iter().any(|dir| dir.join("sandbox.jsonl").exists())).await;
    (fixture, creation)
}

#[tokio::test]
async fn caller_that_goes_away_takes_the_sandbox_along() {
    let (fixture, creation) = creating().await;
    creation.abort();
    assert!(creation.await.unwrap_err().is_cancelled());
    assert!(fixture.left().is_empty());
    assert_eq!(fixture.sandboxes.count(), 0);
    fixture.close().await;
}

#[tokio::test]
async fn deletion_of_a_sandbox_being_created() {
    let (fixture, creation) = creating().await;
    let view = &fixture.sandboxes.list()[0];
    assert_eq!(view.state, SandboxState::Creating);
    fixture.sandboxes.delete(view.id).await.unwrap();
    assert!(matches!(creation.await.unwrap(), Err(CreateError::Deleted(_))));
    until(|| fixture.sandboxes.reaping() == 0).await;
    assert!(fixture.left().is_empty());
    fixture.close().await;
}

#[tokio::test]
async fn shutdown_cuts_off_creations_and_refuses_new_ones() {
    let (fixture, creation) = creating().await;
    fixture.sandboxes.shutdown().await;
    assert!(fixture.left().is_empty());
    assert!(matches!(creation.await.unwrap(), Err(CreateError::ShuttingDown)));
    let late = fixture.sandboxes.create(&shell()).await;
    assert!(matches!(late, Err(CreateError::ShuttingDown)));
    fixture.close().await;
}

#[tokio::test]
async fn closing_spares_sandboxes_that_are_ready() {
    let fixture = Fixture::new();
    let id = fixture.create().await;
    fixture.sandboxes.close();
    assert_eq!(fixture.exec(id, "echo still here").await.unwrap().stdout, "still here\n");
    fixture.close().await;
}
