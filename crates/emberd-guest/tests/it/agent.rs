//! The real agent, on a Unix socket.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use emberd_guest::{Guest, GuestError, Link, renewal};
use emberd_proto::{ExecSpec, RefusalCode};
use tokio::net::UnixStream;
use tokio::process::{Child, Command};

use crate::host::TestHost;

const GRACE: Duration = Duration::from_secs(60);

/// An interpreter for code without quotes.
const INTERPRETER: &str = r#"
trap : INT
echo '{"event":"ready"}' >&0
count=0
while read -r line; do
    count=$((count + 1))
    echo "{\"event\":\"started\",\"execution_count\":$count}" >&0
    code=${line#*'"code":"'}
    eval "${code%'"}'*}"
    echo "{\"event\":\"done\",\"execution_count\":$count}" >&0
done
"#;

/// The agent as a process of this host; killed when dropped.
pub struct Agent {
    _process: Child,
    pub socket: PathBuf,
    _dir: tempfile::TempDir,
}

/// The agent's binary, built beside the running test.
fn binary() -> PathBuf {
    let exe = std::env::current_exe().unwrap();
    let found = exe.ancestors().skip(1).take(2).map(|dir| dir.join("emberd-init"));
    found.into_iter().find(|path| path.exists()).expect("run `cargo build -p emberd-init` first")
}

impl Agent {
    pub fn start() -> Self {
        let dir = tempfile::Builder::new().prefix("guest").tempdir_in("/tmp").unwrap();
        let pack = serde_json::json!({
            "name": "shell", "run": ["/bin/sh", "{file}"], "file_name": "main.sh",
            "contexts": [{"languages": ["shell"], "run": ["/bin/sh", "-c", INTERPRETER]}],
        });
        std::fs::write(dir.path().join("pack.json"), pack.to_string()).unwrap();
        let socket = dir.path().join("agent.sock");
        let process = Command::new(binary())
            .arg("--listen")
            .arg(&socket)
            .arg("--pack")
            .arg(dir.path().join("pack.json"))
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        Self { _process: process, socket, _dir: dir }
    }
}

/// Connects as soon as the agent listens: nothing tells when a socket begins to.
pub async fn connect(socket: &Path) -> UnixStream {
    loop {
        match UnixStream::connect(socket).await {
            Ok(stream) => return stream,
            Err(_) => tokio::time::sleep(Duration::from_millis(1)).await,
        }
    }
}

pub async fn guest(agent: &Agent) -> (Guest<UnixStream>, Arc<AtomicBool>) {
    let (first, _) = Link::greet(connect(&agent.socket).await).await.unwrap();
    let socket = agent.socket.clone();
    let host = TestHost::new(Box::new(move || {
        let socket = socket.clone();
        Box::pin(async move { Ok(connect(&socket).await) })
    }));
    let broke = Arc::clone(&host.broke);
    (Guest::new("sb_00ff1234abcd".to_owned(), host, first), broke)
}

#[tokio::test]
async fn code_runs_and_files_arrive() {
    let agent = Agent::start();
    let (guest, broke) = guest(&agent).await;
    let executed =
        guest.exec(ExecSpec::new("cat; exit 3"), b"input", &mut |_| true, GRACE).await.unwrap();
    assert_eq!((executed.outcome.stdout.as_str(), executed.outcome.exit.exit_code), ("input", 3));
    let path = agent.socket.with_file_name("written");
    let mut upload = guest.files().write(None, (&path).into(), None).await.unwrap();
    upload.send(&bytes::Bytes::from_static(b"content")).await.unwrap();
    assert_eq!(upload.finish().await.unwrap().size, 7);
    assert_eq!(std::fs::read(&path).unwrap(), b"content");
    let missing = agent.socket.with_file_name("missing");
    let refused = guest.files().stat(None, (&missing).into()).await;
    let Err(GuestError::Refused(refusal)) = refused else { panic!("{refused:?}") };
    assert_eq!(refusal.code, RefusalCode::NotFound);
    guest.ping().await.unwrap();
    assert!(guest.is_idle() && !broke.load(Ordering::Relaxed));
}

#[tokio::test]
async fn processes_tell_what_they_write_and_how_they_end() {
    let agent = Agent::start();
    let (guest, _) = guest(&agent).await;
    let spec = emberd_proto::ProcessSpec {
        argv: ["/bin/sh", "-c", "echo out; exit 4"].map(String::from).into(),
        ..Default::default()
    };
    let process = guest.processes().start(spec).await.unwrap();
    assert_eq!(process.wait().await.exit_code, 4);
    assert_eq!(guest.processes().list().len(), 1);
    guest.processes().delete(process.pid()).await.unwrap();
    assert!(guest.processes().list().is_empty());
}

#[tokio::test]
async fn agent_that_is_no_guest_is_greeted_and_renewed() {
    let agent = Agent::start();
    let stream = connect(&agent.socket).await;
    let (mut link, _) = renewal::greet(stream, "sb_00ff1234abcd").await.unwrap();
    assert!(link.is_idle());
    link.ping().await.unwrap();
}
