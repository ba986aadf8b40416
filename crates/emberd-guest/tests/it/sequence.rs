//! A hostile guest, in sequence: whatever it answers to the frames of its host, in whatever order,
//! every operation comes to an end, and what it hands on is within its limits.

use std::collections::VecDeque;
use std::pin::pin;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use emberd_guest::{Guest, GuestError};
use emberd_proto::exec::{ExecExit, OUTPUT_BYTES_MAX};
use emberd_proto::file::{BATCH_MAX, ChangeKind, FileChange};
use emberd_proto::{
    ContextRun, ContextSpec, ExecSpec, FileEntry, FileType, GuestMessage, Kind, ProcessSpec,
    Refusal, RefusalCode, frame,
};
use futures::FutureExt as _;
use proptest::prelude::*;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::scripted::{guest_of, message};

/// Longest wait for an operation, of a clock that does not run: an upload's own limits and the
/// slowest operation on files.
const OPERATION_MAX: Duration = Duration::from_secs(4000);

fn bulk(kind: Kind, payload: &[u8]) -> Vec<u8> {
    let mut out = BytesMut::new();
    frame::encode(kind, payload, &mut out);
    out.to_vec()
}

fn entry(size: u64) -> FileEntry {
    FileEntry {
        path: "/tmp/x".into(),
        file_type: FileType::File,
        size,
        mode: 0o644,
        uid: 0,
        gid: 0,
        owner: None,
        group: None,
        modified_ms: 0,
        target: None,
        target_type: None,
    }
}

/// Anything a guest can say: what has a place somewhere, and any bytes.
fn said() -> impl Strategy<Value = Vec<u8>> {
    let refusal = Refusal { code: RefusalCode::Failed, message: "no".to_owned() };
    let change = FileChange { change: ChangeKind::Created, path: "a".into() };
    let messages = vec![
        GuestMessage::Pong,
        GuestMessage::Exited(ExecExit::default()),
        GuestMessage::Started { pid: 7 },
        GuestMessage::StdinTaken { bytes: 1 },
        GuestMessage::StdinTaken { bytes: usize::MAX },
        GuestMessage::File(entry(4)),
        GuestMessage::Listed { entries: vec![entry(0); 3], cut: false },
        GuestMessage::Listed { entries: vec![entry(0); BATCH_MAX + 1], cut: true },
        GuestMessage::Watching,
        GuestMessage::Changes { changes: vec![change] },
        GuestMessage::Done,
        GuestMessage::Dialed,
        GuestMessage::DataTaken { bytes: 3 },
        GuestMessage::Refused(refusal),
    ];
    let lines: Vec<&[u8]> = vec![
        b"{\"event\":\"ready\"}\n",
        b"{\"event\":\"started\",\"execution_count\":1}\n",
        b"{\"event\":\"display\",\"data\":{\"text/plain\":\"x\"}}\n",
        b"{\"event\":\"done\",\"execution_count\":1}\n",
        b"{\"event\":",
    ];
    let kinds = vec![Kind::Stdout, Kind::Stderr, Kind::Data, Kind::DataEnd, Kind::Control];
    let bytes = prop::collection::vec(any::<u8>(), 0..24);
    prop_oneof![
        6 => prop::sample::select(messages).prop_map(|said| message(&said)),
        3 => prop::sample::select(lines).prop_map(|line| bulk(Kind::Data, line)),
        2 => (prop::sample::select(kinds), bytes.clone())
            .prop_map(|(kind, payload)| bulk(kind, &payload)),
        1 => bytes,
    ]
}

/// Does everything that can be done in a guest, one after the other; all of it may fail.
async fn do_all(guest: &Guest<DuplexStream>, order: &[u8]) {
    for operation in order {
        let done = timeout(OPERATION_MAX, operate(guest, operation % 9)).await;
        assert!(done.is_ok(), "operation {} has no end", operation % 9);
    }
}

async fn operate(guest: &Guest<DuplexStream>, operation: u8) {
    match operation {
        0 => {
            let spec = ExecSpec { timeout_ms: 10, ..ExecSpec::new("x") };
            if let Ok(executed) =
                guest.exec(spec, b"input", &mut |_| true, Duration::from_secs(1)).await
            {
                assert!(executed.outcome.stdout.len() <= OUTPUT_BYTES_MAX);
            }
        }
        1 => drop(guest.metrics().await),
        2 => {
            let path = "/tmp/x".into();
            let Ok(mut content) = guest.files().read(None, path, 0, None).await else { return };
            let mut bytes = 0;
            while let Ok(Some(piece)) = content.next().await {
                bytes += piece.len() as u64;
            }
            assert!(content.length().is_none_or(|length| bytes <= length));
        }
        3 => {
            let listing = guest.files().list(None, "/tmp".into(), 2).await;
            let Ok(mut listing) = listing else { return };
            while let Ok(Some(entries)) = listing.next().await {
                assert!(entries.len() <= BATCH_MAX);
            }
        }
        4 => {
            let upload = guest.files().write(None, "/tmp/x".into(), None).await;
            let Ok(mut upload) = upload else { return };
            if upload.send(&Bytes::from_static(b"some bytes")).await.is_ok() {
                drop(upload.finish().await);
            }
        }
        5 => {
            let Ok(mut watch) = guest.files().watch(None, "/tmp".into(), true).await else {
                return;
            };
            while let Ok(Ok(Some(changes))) = timeout(Duration::from_secs(1), watch.next()).await {
                assert!((1..=BATCH_MAX).contains(&changes.len()));
            }
        }
        6 => {
            let spec = ProcessSpec { code: Some("cat".to_owned()), ..ProcessSpec::default() };
            let Ok(process) = guest.processes().start(spec).await else { return };
            let mut events = process.events(0);
            let mut last = None;
            while let Ok(Some(event)) = timeout(Duration::from_secs(1), events.next()).await {
                assert!(last.is_none_or(|last| event.seq > last));
                last = Some(event.seq);
            }
            guest.processes().delete(process.pid()).ok();
        }
        7 => {
            let Ok(context) = guest.contexts().open(ContextSpec::default()).await else { return };
            let run = ContextRun { code: "1".to_owned(), timeout_ms: Some(10) };
            if let Ok(mut run) = guest.contexts().run(context.id, &run) {
                while run.next().await.is_some() {}
            }
            guest.contexts().delete(context.id).await.ok();
        }
        _ => {
            let Ok(mut port) = guest.ports().dial(80).await else { return };
            port.write_all(b"GET / HTTP/1.0\r\n\r\n").await.ok();
            port.shutdown().await.ok();
            let mut answer = Vec::new();
            timeout(Duration::from_secs(20), port.read_to_end(&mut answer)).await.ok();
        }
    }
}

#[tokio::test]
async fn idle_connections_are_closed_once_the_protocol_is_broken() {
    let alive = || tokio::runtime::Handle::current().metrics().num_alive_tasks();
    let pongs = vec![message(&GuestMessage::Pong); 3];
    let guest = guest_of(pongs.into(), CancellationToken::new()).await;
    let mut metrics = pin!(guest.metrics());
    assert!(metrics.as_mut().now_or_never().is_none(), "the guest has not run yet");
    // The first connection is in use: this opens another, which is idle then.
    guest.ping().await.unwrap();
    assert_eq!((guest.is_idle(), alive()), (true, 2));
    let broken = metrics.await;
    assert!(matches!(broken, Err(GuestError::Failed { .. })), "{broken:?}");
    assert!(!guest.is_idle());
    tokio::task::yield_now().await;
    assert_eq!(alive(), 0, "the guest sees each of its connections end");
    // What was under way meanwhile leaves no connection behind.
    guest.ping().await.unwrap();
    assert!(!guest.is_idle());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    #[test]
    fn whatever_a_guest_says_every_operation_ends(
        order in prop::collection::vec(any::<u8>(), 1..4),
        answers in prop::collection::vec(prop::collection::vec(said(), 0..6), 0..12),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = { runtime }.enable_time().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let script: VecDeque<_> = answers.into_iter().map(|said| said.concat()).collect();
            let guest = guest_of(script, CancellationToken::new()).await;
            do_all(&guest, &order).await;
        });
    }
}
