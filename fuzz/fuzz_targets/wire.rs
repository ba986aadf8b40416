//! A hostile guest against the daemon, in sequence: whatever it answers to an operation, in
//! whatever order and pieces, the caller gets an answer and the daemon goes on.
#![no_main]

use std::cell::OnceCell;
use std::collections::VecDeque;

use axum::body::Body;
use axum::http::Request;
use bytes::BytesMut;
use emberd_fuzz::{Daemon, LAST_CONTEXT};
use emberd_proto::exec::ExecExit;
use emberd_proto::file::{ChangeKind, FileChange};
use emberd_proto::{
    FileEntry, FileType, GuestMessage, Kind, Refusal, RefusalCode, Renewed, Settled, frame,
};
use emberd_sandbox::SandboxId;
use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;

/// What a caller asks for.
#[derive(Debug, Arbitrary)]
enum Asked {
    Exec,
    Process,
    Context { runs: u8, events: bool },
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
    Port,
}

/// What a guest says.
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
    /// What is said in answer to each frame of the host.
    said: Vec<Vec<Said>>,
}

fn requests(id: SandboxId, asked: Vec<Asked>) -> Vec<Request<Body>> {
    let request = |method: &str, path: &str, body: Vec<u8>| {
        let path = format!("/sandboxes/{id}/{path}");
        Request::builder().method(method).uri(path).body(Body::from(body)).unwrap()
    };
    let mut requests = Vec::new();
    for asked in asked.into_iter().take(4) {
        let last = match asked {
            Asked::Exec => request("POST", "exec", br#"{"code":"","timeout_ms":10}"#.into()),
            Asked::Process => {
                requests.push(request("POST", "processes", br#"{"code":"cat"}"#.into()));
                for pid in 0..3 {
                    let path = format!("processes/{pid}/stdin");
                    requests.push(request("POST", &path, vec![b'x'; 1000]));
                    let path = format!("processes/{pid}/events");
                    requests.push(request("GET", &path, Vec::new()));
                }
                request("GET", "processes", Vec::new())
            }
            Asked::Context { runs, events } => {
                requests.push(request("POST", "contexts", Vec::new()));
                let path = format!("contexts/{LAST_CONTEXT}/run");
                for _ in 0..runs % 4 {
                    let mut run = request("POST", &path, br#"{"code":"1","timeout_ms":9}"#.into());
                    if events {
                        let accept = "text/event-stream".parse().unwrap();
                        run.headers_mut().insert("accept", accept);
                    }
                    requests.push(run);
                }
                request("GET", "contexts", Vec::new())
            }
            Asked::Read { from } => {
                let mut read = request("GET", "files?path=/tmp/x", Vec::new());
                if let Some(from) = from {
                    let range = format!("bytes={from}-").parse().unwrap();
                    read.headers_mut().insert("range", range);
                }
                read
            }
            Asked::Stat => request("HEAD", "files?path=/tmp/x", Vec::new()),
            Asked::List => request("GET", "files/list?path=/tmp&depth=9", Vec::new()),
            Asked::Write(bytes) => {
                request("PUT", "files?path=/tmp/x", vec![b'x'; usize::from(bytes) * 8])
            }
            Asked::MakeDir => request("POST", "files/mkdir?path=/tmp/x", Vec::new()),
            Asked::Move => request("POST", "files/move?path=/tmp/x&to=/tmp/y", Vec::new()),
            Asked::Remove => request("DELETE", "files?path=/tmp/x", Vec::new()),
            Asked::Pack => request("GET", "files/archive?path=/tmp/x", Vec::new()),
            Asked::Unpack(bytes) => {
                request("PUT", "files/archive?path=/tmp/x", vec![b'x'; usize::from(bytes) * 8])
            }
            Asked::Watch => request("GET", "files/watch?path=/tmp/x", Vec::new()),
            Asked::Metrics => request("GET", "metrics", Vec::new()),
            Asked::Port => {
                let get = Request::get("/").header("x-emberd-sandbox", id.to_string());
                get.header("x-emberd-port", "80").body(Body::empty()).unwrap()
            }
        };
        requests.push(last);
    }
    requests
}

thread_local! {
    static DAEMON: OnceCell<Daemon> = const { OnceCell::new() };
}

fuzz_target!(|input: Input| {
    let script: VecDeque<Vec<u8>> = input
        .said
        .into_iter()
        .map(|said| {
            let mut out = BytesMut::new();
            said.into_iter().for_each(|said| said.write(&mut out));
            out.to_vec()
        })
        .collect();
    let asked = input.asked;
    DAEMON.with(|daemon| {
        let daemon = daemon.get_or_init(Daemon::start);
        for (status, _, body) in daemon.run(script, |id| requests(id, asked)) {
            if status.is_client_error() || status.is_server_error() {
                let _error: serde_json::Value = serde_json::from_slice(&body).unwrap_or_default();
            }
        }
    });
});
