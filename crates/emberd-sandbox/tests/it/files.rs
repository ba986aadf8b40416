//! Files of a sandbox: transfers, refusals, and guests that break the protocol.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use emberd_proto::file::{BATCH_MAX, ChangeKind, ENTRIES_MAX};
use emberd_proto::{FileEntry, FileType, GuestMessage, GuestPath, Kind, RefusalCode};
use emberd_sandbox::{FileContent, GuestError, SandboxId, SandboxState, Unknown};
use rustix::process::Signal;

use crate::fixture::{ById as _, Fixture, said, until, violating};

/// A sandbox, and a directory of the host that is its guest's too.
async fn sandbox(fixture: &Fixture) -> (SandboxId, PathBuf) {
    let id = fixture.create().await;
    let dir = fixture.sandboxes.get(id).unwrap().view().dir.join("files");
    std::fs::create_dir(&dir).unwrap();
    (id, dir)
}

async fn upload(fixture: &Fixture, id: SandboxId, path: &Path, content: &[u8]) -> FileEntry {
    let sandboxes = &fixture.sandboxes;
    let mut upload = sandboxes.files(id).write(None, path.into(), None).await.unwrap();
    for piece in content.chunks(100_000) {
        upload.send(&Bytes::copy_from_slice(piece)).await.unwrap();
    }
    upload.finish().await.unwrap()
}

async fn collect(mut content: FileContent) -> Result<Vec<u8>, GuestError> {
    let mut bytes = Vec::new();
    while let Some(piece) = content.next().await? {
        bytes.extend_from_slice(&piece);
    }
    Ok(bytes)
}

fn code<T>(outcome: Result<T, GuestError>) -> RefusalCode {
    match outcome {
        Err(GuestError::Refused(refusal)) => refusal.code,
        Err(other) => panic!("expected a refusal, got {other}"),
        Ok(_) => panic!("expected a refusal"),
    }
}

#[tokio::test]
async fn content_goes_in_and_comes_out() {
    let fixture = Fixture::new();
    let (id, dir) = sandbox(&fixture).await;
    let content: Vec<u8> = (0..3_000_000_u32).map(|n| n.to_le_bytes()[2]).collect();
    let path = dir.join("a/b");
    assert_eq!(upload(&fixture, id, &path, &content).await.size, 3_000_000);
    let files = fixture.sandboxes.files(id);
    let read = files.read(None, GuestPath::from(&path), 0, None);
    assert!(collect(read.await.unwrap()).await.unwrap() == content);
    let part = files.read(None, GuestPath::from(&path), 2_999_990, Some(99));
    let part = part.await.unwrap();
    assert_eq!((part.entry().size, part.length()), (3_000_000, Some(10)));
    assert_eq!(collect(part).await.unwrap(), content[2_999_990..]);
    fixture.close().await;
}

#[tokio::test]
async fn trees() {
    let fixture = Fixture::new();
    let (id, dir) = sandbox(&fixture).await;
    let at = |name: &str| GuestPath(dir.join(name));
    let sandboxes = &fixture.sandboxes;
    sandboxes.files(id).make_dir(None, at("a/b"), Some(0o700)).await.unwrap();
    assert_eq!(
        code(sandboxes.files(id).make_dir(None, at("a"), None).await),
        RefusalCode::AlreadyExists
    );
    upload(&fixture, id, &dir.join("a/file"), b"x").await;
    let moved = sandboxes.files(id).rename(None, at("a/file"), at("c/file")).await.unwrap();
    assert_eq!((moved.path, moved.file_type), (at("c/file"), FileType::File));
    let mut listing = sandboxes.files(id).list(None, at("."), 3).await.unwrap();
    let mut listed = Vec::new();
    while let Some(entries) = listing.next().await.unwrap() {
        listed.extend(entries.into_iter().map(|entry| entry.path));
    }
    assert_eq!(listed, [at("a"), at("a/b"), at("c"), at("c/file")]);
    assert!(!listing.is_cut());
    let packed = sandboxes.files(id).pack(None, at(".")).await.unwrap();
    let packed = collect(packed).await.unwrap();
    let mut unpack = sandboxes.files(id).unpack(None, at("copy")).await.unwrap();
    unpack.send(&packed.into()).await.unwrap();
    unpack.finish().await.unwrap();
    assert_eq!(std::fs::read(dir.join("copy/c/file")).unwrap(), b"x");
    sandboxes.files(id).remove(None, at("copy")).await.unwrap();
    sandboxes.files(id).remove(None, at("copy")).await.unwrap();
    assert_eq!(code(sandboxes.files(id).stat(None, at("copy")).await), RefusalCode::NotFound);
    fixture.close().await;
}

#[tokio::test]
async fn changes_are_told() {
    let fixture = Fixture::new();
    let (id, dir) = sandbox(&fixture).await;
    let sandboxes = &fixture.sandboxes;
    let mut watch = sandboxes.files(id).watch(None, GuestPath::from(&dir), true).await.unwrap();
    upload(&fixture, id, &dir.join("file"), b"x").await;
    let changes = watch.next().await.unwrap().unwrap();
    assert_eq!(
        (changes[0].change, changes[0].path.as_path()),
        (ChangeKind::Created, &*dir.join("file"))
    );
    let id = fixture.create().await;
    let mut other = sandboxes.files(id).watch(None, "/".into(), false).await.unwrap();
    let (ended, deleted) = tokio::join!(other.next(), sandboxes.delete(id));
    deleted.unwrap();
    assert!(matches!(ended, Err(GuestError::Deleted { .. })), "{ended:?}");
    fixture.close().await;
}

#[tokio::test]
async fn upload_that_is_given_up_leaves_what_was_there() {
    let fixture = Fixture::new();
    let (id, dir) = sandbox(&fixture).await;
    let path = dir.join("file");
    upload(&fixture, id, &path, b"old").await;
    let given_up = fixture.sandboxes.files(id).write(None, GuestPath::from(&path), None).await;
    let mut given_up = given_up.unwrap();
    given_up.send(&Bytes::from_static(b"half of the n")).await.unwrap();
    until(|| std::fs::read_dir(&dir).unwrap().count() == 2).await;
    drop(given_up);
    until(|| std::fs::read_dir(&dir).unwrap().count() == 1).await;
    assert_eq!(std::fs::read(&path).unwrap(), b"old");
    fixture.close().await;
}

#[tokio::test]
async fn upload_that_is_refused_ends_before_all_is_sent() {
    let fixture = Fixture::new();
    let (id, dir) = sandbox(&fixture).await;
    let upload = fixture.sandboxes.files(id).write(None, GuestPath::from(&dir), None).await;
    let mut upload = upload.unwrap();
    let piece = Bytes::from(vec![0; 1 << 16]);
    let refused = loop {
        if let Err(error) = upload.send(&piece).await {
            break Err::<(), _>(error);
        }
    };
    assert_eq!(code(refused), RefusalCode::WrongType);
    fixture.close().await;
}

#[tokio::test]
async fn more_at_once_than_there_are_turns() {
    let fixture = Fixture::new();
    let (id, dir) = sandbox(&fixture).await;
    upload(&fixture, id, &dir.join("file"), b"x").await;
    let path = GuestPath(dir.join("file"));
    let files = fixture.sandboxes.files(id);
    let stats = (0..300).map(|_| files.stat(None, path.clone()));
    for stat in futures::future::join_all(stats).await {
        assert_eq!(stat.unwrap().size, 1);
    }
    fixture.close().await;
}

#[tokio::test]
async fn nobody_to_ask() {
    let fixture = Fixture::new();
    let unknown = fixture.sandboxes.get(SandboxId::random()).map(drop);
    assert!(matches!(unknown, Err(Unknown(_))), "{unknown:?}");
    let (id, dir) = sandbox(&fixture).await;
    let file = std::fs::File::create(dir.join("large")).unwrap();
    file.set_len(1 << 30).unwrap();
    let files = fixture.sandboxes.files(id);
    let read = files.read(None, GuestPath(dir.join("large")), 0, None);
    let read = read.await.unwrap();
    fixture.signal(id, Signal::KILL);
    let outcome = collect(read).await;
    assert!(matches!(outcome, Err(GuestError::Gone { .. })), "{:?}", outcome.err());
    fixture.close().await;
}

fn some_entry(size: u64) -> FileEntry {
    FileEntry {
        path: "/x".into(),
        file_type: FileType::File,
        size,
        mode: 0,
        uid: 0,
        gid: 0,
        owner: None,
        group: None,
        modified_ms: 0,
        target: None,
        target_type: None,
    }
}

/// The false message is reported as an error, and the microVM ends.
async fn check_ended<T>((fixture, id): (Fixture, SandboxId), outcome: Result<T, GuestError>) {
    match outcome {
        Err(GuestError::Failed { .. } | GuestError::Gone { .. }) => {}
        Err(other) => panic!("expected a broken protocol, got {other:?}"),
        Ok(_) => panic!("the violation was accepted"),
    }
    until(|| matches!(fixture.sandboxes.get(id).unwrap().view().state, SandboxState::Gone(_)))
        .await;
    fixture.close().await;
}

#[tokio::test]
async fn content_that_is_not_as_was_said() {
    let file = |size| said(&GuestMessage::File(some_entry(size)));
    let violations = [
        vec![file(3), (Kind::Data, b"four".to_vec())],
        vec![file(3), (Kind::Data, Vec::new())],
        vec![file(3), (Kind::Stdout, b"x".to_vec())],
        vec![file(3), said(&GuestMessage::Done)],
        vec![file(3), (Kind::Control, b"}".to_vec())],
        vec![said(&GuestMessage::Done)],
        vec![(Kind::Data, b"x".to_vec())],
    ];
    for violation in violations {
        let (fixture, id) = violating(&violation).await;
        let outcome = match fixture.sandboxes.files(id).read(None, "x".into(), 0, None).await {
            Ok(content) => collect(content).await,
            Err(error) => Err(error),
        };
        check_ended((fixture, id), outcome).await;
    }
    // A file may become shorter during the read: the guest keeps the protocol.
    let (fixture, id) = violating(&[file(3), (Kind::DataEnd, Vec::new())]).await;
    let content = fixture.sandboxes.files(id).read(None, "x".into(), 0, None).await.unwrap();
    assert_eq!(code(collect(content).await), RefusalCode::Failed);
    fixture.close().await;
}

#[tokio::test]
async fn listing_without_an_end() {
    let batch =
        |count, cut| said(&GuestMessage::Listed { entries: vec![some_entry(0); count], cut });
    let violations = [
        vec![batch(BATCH_MAX + 1, false)],
        vec![batch(1, false), batch(0, false)],
        vec![batch(1, true), batch(1, false)],
        vec![batch(BATCH_MAX, false); ENTRIES_MAX / BATCH_MAX + 1],
    ];
    for violation in violations {
        let (fixture, id) = violating(&violation).await;
        let outcome = async {
            let mut listing = fixture.sandboxes.files(id).list(None, "x".into(), 1).await?;
            while listing.next().await?.is_some() {}
            Ok::<_, GuestError>(())
        };
        let outcome = outcome.await;
        check_ended((fixture, id), outcome).await;
    }
}

#[tokio::test]
async fn changes_that_are_none() {
    for violation in
        [said(&GuestMessage::Changes { changes: Vec::new() }), said(&GuestMessage::Done)]
    {
        let (fixture, id) = violating(&[said(&GuestMessage::Watching), violation]).await;
        let watch = fixture.sandboxes.files(id).watch(None, "x".into(), true).await;
        let outcome = watch.unwrap().next().await;
        check_ended((fixture, id), outcome).await;
    }
}
