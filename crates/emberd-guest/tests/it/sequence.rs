//! A hostile guest, in sequence: whatever it answers to the frames of its host, in whatever order,
//! every operation comes to an end, and what it hands on is within its limits.

use std::collections::VecDeque;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use emberd_guest::{
    CONTEXTS_MAX, Guest, GuestError, LimitsError, Link, PROCESSES_MAX, ProcessEventKind, Recovered,
};
use emberd_proto::exec::{ExecExit, OUTPUT_BYTES_MAX};
use emberd_proto::file::{BATCH_MAX, ChangeKind, FileChange};
use emberd_proto::message::{GENERATION, GENERATION_OLDEST, NOTES_BYTES_MAX, PROGRAMS_MAX};
use emberd_proto::{
    Attached, ContextRun, ContextSpec, ExecSpec, FileEntry, FileType, GuestLimits, GuestMessage,
    Kind, ProcessSpec, Program, Refusal, RefusalCode, Welcome, frame,
};
use futures::FutureExt as _;
use proptest::prelude::*;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::host::TestHost;
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

const CONTEXT_NOTE: &str = r#"{"context":{"id":"ctx_00ff1234abcd","spec":{},"created_ms":1,
    "is_ready":true,"execution_count":3,"run":{"seq":0,"sent":0,"timeout_ms":10,"asked_ms":1,
    "interrupted_by":"call"}}}"#;

fn attached(id: u64, seq: u64) -> Attached {
    Attached { id, seq, received: 0, input: 0, taken: 0 }
}

fn program(id: u64, note: &str) -> Program {
    Program { id, pid: 7, next: u64::MAX, received: 1, ended: id > 2, note: note.to_owned() }
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
        GuestMessage::Attached(attached(1, 0)),
        GuestMessage::Attached(attached(1, 0)),
        GuestMessage::Attached(attached(u64::MAX, u64::MAX)),
        GuestMessage::Attached(Attached { received: 3, input: 1, taken: 2, ..attached(1, 4) }),
        GuestMessage::Program(program(1, r#"{"process":{"argv":[],"tty":true,"started_ms":1}}"#)),
        GuestMessage::Program(program(2, CONTEXT_NOTE)),
        GuestMessage::Program(program(3, "")),
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
        let done = timeout(OPERATION_MAX, operate(guest, operation % 11)).await;
        assert!(done.is_ok(), "operation {} has no end", operation % 11);
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
        9 => drop(guest.limit(GuestLimits { pids: Some(64), disk_mib: Some(4096) }).await),
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
            guest.processes().delete(process.pid()).await.ok();
        }
        8 => {
            let Ok(recovered) = guest.recover().await else { return };
            assert!(recovered.processes <= PROCESSES_MAX + PROGRAMS_MAX);
            assert!(recovered.contexts <= CONTEXTS_MAX);
            for context in guest.contexts().list() {
                let run = ContextRun {
                    code: "1".to_owned(),
                    timeout_ms: Some(10),
                    ..ContextRun::default()
                };
                if let Ok(mut run) = guest.contexts().run(context.id, &run) {
                    while run.next().await.is_some() {}
                }
            }
            for process in guest.processes().list() {
                guest.processes().delete(process.pid()).await.ok();
            }
        }
        7 => {
            let Ok(context) = guest.contexts().open(ContextSpec::default()).await else { return };
            let run =
                ContextRun { code: "1".to_owned(), timeout_ms: Some(10), ..ContextRun::default() };
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
    let guest = guest_of(pongs.into(), CancellationToken::new(), GENERATION).await;
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

#[tokio::test]
async fn a_limit_that_a_guest_does_not_know_is_told_from_a_guest_that_failed() {
    let limits = GuestLimits { pids: Some(64), disk_mib: Some(4096) };
    let refusal = Refusal { code: RefusalCode::UnknownOperation, message: "no".to_owned() };
    let script = [message(&GuestMessage::Refused(refusal)), message(&GuestMessage::Done)];
    let guest = guest_of(script.into(), CancellationToken::new(), GENERATION_OLDEST).await;
    let refused = guest.limit(limits).await;
    assert!(matches!(refused, Err(LimitsError::Unavailable(_))), "{refused:?}");
    guest.limit(limits).await.unwrap();
    let script = [message(&GuestMessage::Pong)].into();
    let guest = guest_of(script, CancellationToken::new(), GENERATION).await;
    let broken = guest.limit(limits).await;
    assert!(matches!(broken, Err(LimitsError::Guest(GuestError::Failed { .. }))), "{broken:?}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    #[test]
    fn whatever_a_guest_says_every_operation_ends(
        order in prop::collection::vec(any::<u8>(), 1..4),
        answers in prop::collection::vec(prop::collection::vec(said(), 0..6), 0..12),
        generation in GENERATION_OLDEST..=GENERATION,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = { runtime }.enable_time().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let script: VecDeque<_> = answers.into_iter().map(|said| said.concat()).collect();
            let guest = guest_of(script, CancellationToken::new(), generation).await;
            do_all(&guest, &order).await;
        });
    }
}

/// Whether a guest that lists `programs` is ended for it.
async fn is_ended_for(programs: impl IntoIterator<Item = Program>, answers: usize) -> bool {
    let mut list: Vec<u8> = Vec::new();
    for program in programs {
        list.extend(message(&GuestMessage::Program(program)));
    }
    list.extend(message(&GuestMessage::Done));
    let script = [message(&GuestMessage::Done), list];
    let script = script.into_iter().chain((0..answers).map(|_| message(&GuestMessage::Done)));
    let guest = guest_of(script.collect(), CancellationToken::new(), GENERATION).await;
    let recovered = timeout(OPERATION_MAX, guest.recover()).await.expect("it comes to an end");
    guest.processes().list().is_empty() && matches!(recovered, Err(GuestError::Failed { .. }))
}

#[tokio::test(start_paused = true)]
async fn a_list_over_its_limits_ends_the_guest() {
    let many = |count: u64| (0..count).map(|id| program(id, ""));
    // Programs without a note are deleted, each with an answer.
    assert!(!is_ended_for(many(PROGRAMS_MAX as u64), PROGRAMS_MAX).await);
    assert!(is_ended_for(many(PROGRAMS_MAX as u64 + 1), 0).await);
    assert!(is_ended_for(many(1_000_000), 0).await);
    assert!(is_ended_for([program(1, ""), program(1, "")], 0).await, "one id for two");
    let long = "x".repeat(400 << 10);
    let count = NOTES_BYTES_MAX as u64 / (400 << 10) + 1;
    assert!(is_ended_for((0..count).map(|id| program(id, &long)), 0).await, "notes too long");
}

#[tokio::test(start_paused = true)]
async fn a_guest_that_changes_its_mind_about_a_program_is_ended() {
    let note = r#"{"process":{"argv":["x"],"user":null,"tty":false,"started_ms":1}}"#;
    let listed = || {
        let mut list = message(&GuestMessage::Program(program(1, note)));
        list.extend(message(&GuestMessage::Done));
        list
    };
    let answers = [
        // Another program, numbers that nobody asked for, more input than was ever sent.
        GuestMessage::Attached(attached(2, 0)),
        GuestMessage::Attached(Attached { input: 1 << 40, ..attached(1, 0) }),
        GuestMessage::Attached(Attached { taken: 1, ..attached(1, 0) }),
        GuestMessage::Started { pid: 7 },
        GuestMessage::Done,
    ];
    for answer in answers {
        let said = message(&answer);
        let script = [message(&GuestMessage::Done), listed(), said].into();
        let guest = guest_of(script, CancellationToken::new(), GENERATION).await;
        let recovered = guest.recover().await;
        assert!(matches!(recovered, Err(GuestError::Failed { .. })), "{answer:?}: {recovered:?}");
    }
    // One that has forgotten it meanwhile, as may happen, is not.
    let refusal = Refusal { code: RefusalCode::NotFound, message: "no".to_owned() };
    let script = [
        message(&GuestMessage::Done),
        listed(),
        message(&GuestMessage::Refused(refusal)),
        message(&GuestMessage::Done),
    ];
    let guest = guest_of(script.into(), CancellationToken::new(), GENERATION).await;
    assert_eq!(guest.recover().await.unwrap().ended, 1);
}

#[tokio::test(start_paused = true)]
async fn a_guest_that_closes_each_connection_is_given_up() {
    let note = r#"{"process":{"argv":["x"],"user":null,"tty":false,"started_ms":1}}"#;
    let mut list = message(&GuestMessage::Program(program(1, note)));
    list.extend(message(&GuestMessage::Done));
    let welcome = Welcome {
        generation: GENERATION,
        agent_version: "closing".to_owned(),
        init_started_us: None,
        serving_us: None,
    };
    let welcome = message(&GuestMessage::Welcome(welcome));
    let listed = [&welcome[..], &message(&GuestMessage::Done), &list].concat();
    // Says all at once, and closes.
    let says = |said: Vec<u8>| {
        let (host, mut guest) = tokio::io::duplex(1 << 16);
        tokio::spawn(async move {
            guest.write_all(&said).await.unwrap();
            guest.shutdown().await.unwrap();
            tokio::io::copy(&mut guest, &mut tokio::io::sink()).await.unwrap();
        });
        host
    };
    let (first, _) = Link::greet(says(welcome.clone())).await.unwrap();
    let count = Arc::new(AtomicUsize::new(0));
    let connects = Arc::clone(&count);
    let attached = [&welcome[..], &message(&GuestMessage::Attached(attached(1, 0)))].concat();
    let host = TestHost::new(Box::new(move || {
        let is_first = connects.fetch_add(1, Ordering::Relaxed) == 0;
        let stream = says(if is_first { listed.clone() } else { attached.clone() });
        Box::pin(async move { Ok(stream) })
    }));
    let guest = Guest::new("sb_000000000000".to_owned(), host, first);
    assert_eq!(guest.recover().await.unwrap().processes, 1);
    // The process is lost and deleted. What the guest says to that ends the guest.
    while guest.processes().get(7).is_ok() {
        tokio::task::yield_now().await;
    }
    assert!((3..100).contains(&count.load(Ordering::Relaxed)));
}

#[tokio::test]
async fn a_process_of_an_older_agent_is_numbered_here_and_takes_input() {
    let started = message(&GuestMessage::Started { pid: 7 });
    let mut rest = bulk(Kind::Stdout, b"a\xc3");
    rest.extend(bulk(Kind::Stdout, b"\xa9"));
    rest.extend(message(&GuestMessage::StdinTaken { bytes: 5 }));
    rest.extend(message(&GuestMessage::Exited(ExecExit { exit_code: 3, ..ExecExit::default() })));
    let script = [started, rest].into();
    let guest = guest_of(script, CancellationToken::new(), GENERATION_OLDEST).await;
    let process = guest.processes().start(ProcessSpec::of_argv(["cat"])).await.unwrap();
    let mut stdin = process.stdin().await.unwrap();
    stdin.write(Bytes::from_static(b"hello")).await.unwrap();
    stdin.end().await.unwrap();
    assert_eq!(process.wait().await.exit_code, 3);
    let (mut events, mut all) = (process.events(0), Vec::new());
    while let Some(event) = events.next().await {
        all.push(event);
    }
    let numbers: Vec<_> = all.iter().map(|event| event.seq).collect();
    assert_eq!(numbers, [0, 1, 2, 3]);
    assert_eq!(all[1].kind, ProcessEventKind::Stdout(Bytes::from_static(b"a")));
    assert_eq!(all[2].kind, ProcessEventKind::Stdout(Bytes::from_static("é".as_bytes())));
    assert_eq!(guest.recover().await.unwrap(), Recovered::default());
}
