//! Sandboxes that end in the middle of everything: by an agent that dies alone, and by a timeout.
//! As PID 1 an agent takes its machine along; the double does likewise.

use std::fs;
use std::path::{Path, PathBuf};

use emberd_api::{
    ErrorBody, ErrorCode, ExecBody, FileType, ProcessEventKind, ProcessSpec, SandboxState,
    TIMEOUT_MS_MIN, UpdateSandbox,
};
use emberd_client::{Attachment, Client, ClientError, Download, FileOptions, FileSpan, Logs};
use emberd_client::{Tunnel, Upload, Watch, WatchError};
use emberd_proto::ExecSpec;
use futures::StreamExt as _;
use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use super::{Daemon, Room};
use crate::api::refusal;
use crate::{raw, wait};

/// More than all buffers on the way hold.
const BIG_FILE_BYTES: u64 = 1 << 30;

/// Words of the errors of a sandbox whose microVM has ended, and of one that is deleted.
const LOST: &str = "is gone";
const DELETED: &str = "was deleted";

/// How the error of a guest begins that has ended alone.
const BROKEN: &str = "the guest of sandbox";

fn plain() -> FileOptions {
    FileOptions::default()
}

fn exec(code: &str) -> ExecBody {
    ExecBody { spec: ExecSpec::new(code), stdin: None, stdin_base64: None }
}

/// Everything that can go on in a sandbox, under way.
struct UnderWay {
    exec: JoinHandle<Result<(), ClientError>>,
    attachment: Attachment,
    stdin: JoinHandle<raw::Answer>,
    download: Download,
    upload: JoinHandle<Result<(), ClientError>>,
    watch: Watch,
    tunnel: Tunnel,
    proxied: TcpStream,
    logs: Logs,
}

impl UnderWay {
    /// Returns once all of it has begun.
    async fn begin(daemon: &Daemon, id: &str, dir: &Path) -> Self {
        let client = &daemon.client;
        let running = dir.join("running");
        let code = format!("echo > {}; exec sleep 1000", running.display());
        let (caller, of) = (client.clone(), id.to_owned());
        let exec = tokio::spawn(async move { caller.exec(&of, &exec(&code)).await.map(drop) });
        wait::until(async || running.exists()).await;

        let spec = ProcessSpec::of_argv(["cat"]);
        let pid = client.start_process(id, &spec).await.unwrap().pid;
        let mut attachment = client.attach(id, pid, 0).await.unwrap();
        let begun = attachment.event().await.unwrap().unwrap();
        assert!(matches!(begun.kind, ProcessEventKind::Started { .. }), "{begun:?}");
        let stdin = endless_stdin(daemon, id, pid);
        let echoed = attachment.event().await.unwrap().unwrap();
        assert!(matches!(echoed.kind, ProcessEventKind::Stdout(_)), "{echoed:?}");

        let big = dir.join("big");
        fs::File::create(&big).unwrap().set_len(BIG_FILE_BYTES).unwrap();
        let whole = FileSpan::default();
        let mut download = client.file_read(id, &big, whole, &plain()).await.unwrap();
        download.next().await.unwrap().unwrap();

        let (tunnel, proxied) = connections(daemon, id).await;
        Self {
            exec,
            attachment,
            stdin,
            download,
            upload: endless_upload(client, id, dir).await,
            watch: client.file_watch(id, &dir.join("watched"), false, &plain()).await.unwrap(),
            tunnel,
            proxied,
            logs: client.logs(id, Some(0), true).await.unwrap(),
        }
    }

    /// Each has ended, and says that it did not end well, and `how`.
    async fn hears_the_end(mut self, how: &str) {
        let (status, body) = refusal(self.exec.await.unwrap());
        check_end(&body, how);
        if body.code == ErrorCode::SandboxGone {
            assert_eq!(status, 410);
            // Who has lost a sandbox learns what to do; one that is deleted was to end.
            assert_eq!(body.hint.is_some(), how == LOST, "{body:?}");
        }

        let last = self.attachment.event().await.unwrap().unwrap();
        let ProcessEventKind::Exit(exit) = last.kind else { panic!("{last:?}") };
        assert_eq!(exit.exit_code, -1);
        let why = exit.error.unwrap();
        assert!(why.contains(how) || how == LOST && why.starts_with(BROKEN), "{why}");
        let answer = self.stdin.await.unwrap();
        assert_eq!((answer.status, answer.error().code), (409, ErrorCode::ProcessEnded));

        let broken = loop {
            match self.download.next().await {
                Ok(Some(_)) => {}
                ended => break ended,
            }
        };
        assert!(matches!(broken, Err(ClientError::Broken { .. })), "{broken:?}");
        check_end(&refusal(self.upload.await.unwrap()).1, how);
        let ended = self.watch.next().await;
        let Err(WatchError::Ended(body)) = ended else { panic!("{ended:?}") };
        check_end(&body, how);

        let broken = self.tunnel.read(&mut [0; 1]).await;
        assert_eq!(broken.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
        let mut rest = Vec::new();
        drop(self.proxied.read_to_end(&mut rest).await);
        // Chunked, and without the last chunk.
        assert!(!rest.ends_with(b"0\r\n\r\n"), "{}", String::from_utf8_lossy(&rest));
        // A log has no other end than that of its sandbox.
        while self.logs.next().await.unwrap().is_some() {}
    }
}

/// Checks the error of what a sandbox did when it ended. On a busy host the end of a guest may be
/// seen more than a second before that of the whole machine.
fn check_end(body: &ErrorBody, how: &str) {
    match body.code {
        ErrorCode::SandboxGone => assert!(body.error.contains(how), "{body:?}"),
        code => assert!(code == ErrorCode::GuestFailed && how == LOST, "{body:?}"),
    }
}

/// A tunnel to a port, and an answer from it that has begun.
async fn connections(daemon: &Daemon, id: &str) -> (Tunnel, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                stream.write_all(b"HTTP/1.1 200 OK\r\n\r\nhalf").await.unwrap();
                // For as long as the other side likes.
                stream.read_to_end(&mut Vec::new()).await.ok();
            });
        }
    });
    let mut tunnel = daemon.client.connect_port(id, port).await.unwrap();
    tunnel.read_exact(&mut [0; 23]).await.unwrap();
    let authority = daemon.addr.strip_prefix("http://").unwrap();
    let mut proxied = TcpStream::connect(authority).await.unwrap();
    let host = format!("{port}-{}.localhost", id.replace('_', "-"));
    proxied.write_all(format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n").as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"half\r\n") {
        assert_ne!(proxied.read_buf(&mut answer).await.unwrap(), 0);
    }
    (tunnel, proxied)
}

/// Input for a process of which no more comes than the first byte.
fn endless_stdin(daemon: &Daemon, id: &str, pid: u32) -> JoinHandle<raw::Answer> {
    let authority = daemon.addr.strip_prefix("http://").unwrap().to_owned();
    let request = format!(
        "POST /sandboxes/{id}/processes/{pid}/stdin HTTP/1.1\r\nHost: localhost\r\n\
         Content-Length: 2\r\nConnection: close\r\n\r\nx"
    );
    tokio::spawn(async move { raw::send(&authority, request.into_bytes()).await })
}

/// An upload of which no more comes than was seen to arrive.
async fn endless_upload(
    client: &Client,
    id: &str,
    dir: &Path,
) -> JoinHandle<Result<(), ClientError>> {
    let target = dir.join("watched/upload");
    fs::create_dir(dir.join("watched")).unwrap();
    let pieces = futures::stream::once(async { Ok(vec![b'x'; 1 << 20].into()) });
    let upload = Upload::new(pieces.chain(futures::stream::pending()));
    let (caller, of) = (client.clone(), id.to_owned());
    let upload =
        tokio::spawn(
            async move { caller.file_write(&of, &target, upload, &plain()).await.map(drop) },
        );
    // It is written beside its target.
    let watched = dir.join("watched");
    wait::until(async || fs::read_dir(&watched).unwrap().next().is_some()).await;
    upload
}

#[tokio::test]
async fn an_agent_that_dies_takes_its_sandbox_along_and_everybody_hears_the_end() {
    let room = Room::new();
    let daemon = room.start();
    let (lost, vmm_pid) = daemon.create().await;
    let (other, _) = daemon.create().await;
    let agent = daemon.client.exec(&lost, &exec("echo $PPID")).await.unwrap().stdout;
    let agent: u32 = agent.trim().parse().unwrap();
    let sandbox = daemon.client.get(&lost).await.unwrap();
    let dir = PathBuf::from(&sandbox.dir).join("files");
    fs::create_dir(&dir).unwrap();
    let under_way = UnderWay::begin(&daemon, &lost, &dir).await;

    kill_process(Pid::from_raw(agent.cast_signed()).unwrap(), Signal::KILL).unwrap();
    Box::pin(under_way.hears_the_end(LOST)).await;

    let seen = daemon.client.get(&lost).await.unwrap();
    assert_eq!((seen.state, seen.vmm_pid), (SandboxState::Gone, None));
    assert!(seen.reason.unwrap().starts_with("its VMM "));
    let refused = daemon.client.exec(&lost, &exec("")).await;
    assert_eq!(refusal(refused).1.code, ErrorCode::SandboxGone);
    let refused = daemon.client.file_stat(&lost, &dir, &plain()).await;
    assert_eq!(refusal(refused).1.code, ErrorCode::SandboxGone);
    let refused = daemon.client.start_process(&lost, &ProcessSpec::of_argv(["true"])).await;
    assert_eq!(refusal(refused).1.code, ErrorCode::SandboxGone);
    let refused = daemon.client.connect_port(&lost, 1).await.map(drop);
    assert_eq!(refusal(refused).1.code, ErrorCode::SandboxGone);

    // Its neighbour has noticed nothing, and nothing holds up its deletion.
    let top = daemon.client.file_stat(&other, Path::new("/"), &plain()).await.unwrap();
    assert_eq!(top.file_type, FileType::Directory);
    daemon.client.delete(&lost).await.unwrap();
    wait::until(async || !Path::new(&sandbox.dir).exists()).await;
    assert!(!wait::is_running(vmm_pid) && !wait::is_running(agent));
    daemon.stop(Signal::TERM).await;
    room.close().await;
}

#[tokio::test]
async fn a_timeout_in_the_middle_of_everything_is_heard_and_leaves_nothing() {
    let room = Room::new();
    let daemon = room.start();
    let (id, vmm_pid) = daemon.create().await;
    let sandbox = daemon.client.get(&id).await.unwrap();
    let dir = PathBuf::from(&sandbox.dir).join("files");
    fs::create_dir(&dir).unwrap();
    let under_way = UnderWay::begin(&daemon, &id, &dir).await;
    let soon = UpdateSandbox { timeout_ms: Some(Some(TIMEOUT_MS_MIN)), ..UpdateSandbox::default() };
    daemon.client.update(&id, &soon).await.unwrap();
    Box::pin(under_way.hears_the_end(DELETED)).await;
    let refused = daemon.client.exec(&id, &exec("")).await;
    assert_eq!(refusal(refused).1.code, ErrorCode::UnknownSandbox);
    wait::until(async || !Path::new(&sandbox.dir).exists()).await;
    assert!(!wait::is_running(vmm_pid));
    room.finish(daemon).await;
}
