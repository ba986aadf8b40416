//! A hostile guest, in sequence: whatever it answers to an operation, in whatever order and
//! pieces, the operation ends and what it hands on is within its limits.
#![no_main]

use std::time::Duration;

use bytes::BytesMut;
use emberd_fuzz::{ScriptedGuest, with_guest};
use emberd_guest::{FileContent, GuestError};
use emberd_proto::exec::{ExecExit, OUTPUT_BYTES_MAX};
use emberd_proto::file::{BATCH_MAX, ChangeKind, FileChange};
use emberd_proto::{
    ContextRun, ContextSpec, ExecSpec, FileEntry, FileType, GuestLimits, GuestMessage, Kind,
    ProcessSpec, Refusal, RefusalCode, Renewed, Settled, frame,
};
use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};
use tokio::time::timeout;

/// Wait for messages that are optional, by the paused clock.
const GRACE: Duration = Duration::from_secs(20);

/// Operation requested by a caller.
#[derive(Debug, Arbitrary)]
enum Asked {
    Exec,
    Process,
    Context { runs: u8 },
    Read { from: Option<u16> },
    Stat,
    List,
    Write(u16),
    MakeDir,
    Move,
    Remove,
    Pack,
    Unpack(u16),
    Watch,
    Metrics,
    Limit(u16),
    Port,
}

/// Message of a guest.
#[derive(Debug, Arbitrary)]
enum Said {
    Pong,
    Exited(i8),
    Started(u8),
    StdinTaken(u32),
    Entry(u16),
    Listed(u8, bool),
    Watching,
    Changes(u8),
    Done,
    Dialed,
    DataTaken(u32),
    Renewed,
    Settled,
    Refused(u8),
    Ready,
    Begun,
    Line(Vec<u8>),
    Over,
    Data(Vec<u8>),
    DataEnd,
    Stdout(Vec<u8>),
    Stderr(Vec<u8>),
    Many(u8, u16),
    Control(Vec<u8>),
    Bytes(Vec<u8>),
}

fn entry(size: u16) -> FileEntry {
    FileEntry {
        path: "/tmp/x".into(),
        file_type: if size % 3 == 0 { FileType::Directory } else { FileType::File },
        size: size.into(),
        mode: 0o644,
        uid: 0,
        gid: 0,
        owner: None,
        group: None,
        modified_ms: i64::from(size) * 1_000_000_000_000,
        target: None,
        target_type: None,
    }
}

impl Said {
    fn write(self, out: &mut BytesMut) {
        let message = match self {
            Self::Pong => GuestMessage::Pong,
            Self::Exited(code) => {
                GuestMessage::Exited(ExecExit { exit_code: code.into(), ..ExecExit::default() })
            }
            Self::Started(pid) => GuestMessage::Started { pid: pid.into() },
            Self::StdinTaken(bytes) => GuestMessage::StdinTaken { bytes: bytes as usize },
            Self::Entry(size) => GuestMessage::File(entry(size)),
            Self::Listed(count, cut) => GuestMessage::Listed {
                entries: (0..u16::from(count) * 2).map(entry).collect(),
                cut,
            },
            Self::Watching => GuestMessage::Watching,
            Self::Changes(count) => GuestMessage::Changes {
                changes: (0..u16::from(count) * 2)
                    .map(|_| FileChange { change: ChangeKind::Created, path: "a".into() })
                    .collect(),
            },
            Self::Done => GuestMessage::Done,
            Self::Dialed => GuestMessage::Dialed,
            Self::DataTaken(bytes) => GuestMessage::DataTaken { bytes: bytes as usize },
            Self::Renewed => GuestMessage::Renewed(Renewed { wall_clock_us: None }),
            Self::Settled => GuestMessage::Settled(Settled { zygote_ready: None }),
            Self::Refused(code) => {
                let code = match code % 4 {
                    0 => RefusalCode::Failed,
                    1 => RefusalCode::NotFound,
                    2 => RefusalCode::UnknownOperation,
                    _ => RefusalCode::Denied,
                };
                GuestMessage::Refused(Refusal { code, message: "no\n\u{1b}[2J".into() })
            }
            Self::Ready => return frame::encode(Kind::Data, b"{\"event\":\"ready\"}\n", out),
            Self::Begun => {
                let line = b"{\"event\":\"started\",\"execution_count\":1}\n";
                return frame::encode(Kind::Data, line, out);
            }
            Self::Line(data) => {
                let mut line = b"{\"event\":\"display\",\"data\":{".to_vec();
                line.extend(data);
                line.extend(b"}}\n");
                return frame::encode(Kind::Data, &line, out);
            }
            Self::Over => {
                let line = b"{\"event\":\"done\",\"execution_count\":1}\n";
                return frame::encode(Kind::Data, line, out);
            }
            Self::Data(bytes) => return frame::encode(Kind::Data, &bytes, out),
            Self::DataEnd => return frame::encode(Kind::DataEnd, &[], out),
            Self::Stdout(bytes) => return frame::encode(Kind::Stdout, &bytes, out),
            Self::Stderr(bytes) => return frame::encode(Kind::Stderr, &bytes, out),
            Self::Many(kind, count) => {
                let kinds = [Kind::Stdout, Kind::Stderr, Kind::Data];
                for _ in 0..count {
                    frame::encode(kinds[usize::from(kind) % kinds.len()], b"x", out);
                }
                return;
            }
            Self::Control(bytes) => return frame::encode(Kind::Control, &bytes, out),
            Self::Bytes(bytes) => return out.extend_from_slice(&bytes),
        };
        frame::encode_message(&message, out);
    }
}

#[derive(Debug, Arbitrary)]
struct Input {
    asked: Vec<Asked>,
    /// Answers to the frames of the host.
    said: Vec<Vec<Said>>,
}

/// Runs the operations; each may fail.
async fn carry_out(guest: &ScriptedGuest, asked: Asked) {
    let path = || "/tmp/x".into();
    let files = guest.files();
    match asked {
        Asked::Exec => {
            let spec = ExecSpec { timeout_ms: 10, ..ExecSpec::new("") };
            if let Ok(executed) = guest.exec(spec, b"", &mut |_| true, GRACE).await {
                assert!(executed.outcome.stdout.len() <= OUTPUT_BYTES_MAX);
            }
        }
        Asked::Process => start_and_end(guest).await,
        Asked::Context { runs } => {
            let Ok(context) = guest.contexts().open(ContextSpec::default()).await else { return };
            for _ in 0..runs % 4 {
                let run = ContextRun { code: "1".to_owned(), timeout_ms: Some(9), ..ContextRun::default() };
                let Ok(mut run) = guest.contexts().run(context.id, &run) else { break };
                while run.next().await.is_some() {}
            }
            drop(guest.contexts().delete(context.id).await);
        }
        Asked::Read { from } => {
            let offset = from.unwrap_or_default().into();
            pour(files.read(None, path(), offset, None).await).await;
        }
        Asked::Stat => drop(files.stat(None, path()).await),
        Asked::List => {
            let Ok(mut listing) = files.list(None, path(), 9).await else { return };
            while let Ok(Some(entries)) = listing.next().await {
                assert!(entries.len() <= BATCH_MAX);
            }
        }
        Asked::Write(bytes) => {
            let Ok(mut upload) = files.write(None, path(), None).await else { return };
            if upload.send(&vec![b'x'; usize::from(bytes) * 8].into()).await.is_ok() {
                drop(upload.finish().await);
            }
        }
        Asked::MakeDir => drop(files.make_dir(None, path(), None).await),
        Asked::Move => drop(files.rename(None, path(), "/tmp/y".into()).await),
        Asked::Remove => drop(files.remove(None, path()).await),
        Asked::Pack => pour(files.pack(None, path()).await).await,
        Asked::Unpack(bytes) => {
            let Ok(mut upload) = files.unpack(None, path()).await else { return };
            if upload.send(&vec![b'x'; usize::from(bytes) * 8].into()).await.is_ok() {
                drop(upload.finish().await);
            }
        }
        Asked::Watch => {
            let Ok(mut watch) = files.watch(None, path(), true).await else { return };
            while let Ok(Ok(Some(changes))) = timeout(GRACE, watch.next()).await {
                assert!(changes.len() <= BATCH_MAX);
            }
        }
        Asked::Metrics => drop(guest.metrics().await),
        Asked::Limit(pids) => {
            drop(
                guest
                    .limit(GuestLimits { pids: Some(pids.into()), disk_mib: Some(pids.into()) })
                    .await,
            );
        }
        Asked::Port => {
            let Ok(mut port) = guest.ports().dial(80).await else { return };
            port.write_all(b"GET / HTTP/1.0\r\n\r\n").await.ok();
            port.shutdown().await.ok();
            let mut answer = Vec::new();
            drop(timeout(GRACE, port.read_to_end(&mut answer)).await);
        }
    }
}

async fn start_and_end(guest: &ScriptedGuest) {
    let spec = ProcessSpec { code: Some("cat".to_owned()), ..ProcessSpec::default() };
    let Ok(process) = guest.processes().start(spec).await else { return };
    if let Ok(mut stdin) = process.stdin().await {
        drop(timeout(GRACE, stdin.write(vec![b'x'; 1000].into())).await);
    }
    let mut events = process.events(0);
    while let Ok(Some(_)) = timeout(GRACE, events.next()).await {}
    guest.processes().delete(process.pid()).await.ok();
}

async fn pour(content: Result<FileContent<DuplexStream>, GuestError>) {
    let Ok(mut content) = content else { return };
    let mut bytes = 0;
    while let Ok(Some(piece)) = content.next().await {
        bytes += piece.len() as u64;
    }
    assert!(content.length().is_none_or(|length| bytes <= length));
}

fuzz_target!(|input: Input| {
    let said = input.said.into_iter().map(|said| {
        let mut out = BytesMut::new();
        said.into_iter().for_each(|said| said.write(&mut out));
        out.to_vec()
    });
    let asked = input.asked;
    with_guest(said.collect(), async |guest, _closing| {
        for asked in asked.into_iter().take(4) {
            carry_out(&guest, asked).await;
        }
    });
});
