//! What reaches into a real guest, and what comes out of it: ports, files, logs and metrics,
//! over HTTP and by `emberctl`.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::{env, fs};

use emberd_api::{ChangeKind, ErrorCode, GuestPath, PORT_HEADER, SANDBOX_HEADER};
use emberd_api::{Metrics, ProcessEventKind, ProcessSpec};
use emberd_client::{FileOptions, FileSpan, Upload};
use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::Daemon;
use crate::raw;

/// Serves files as `python3 -m http.server` does, and after an upgrade echoes five bytes.
const SERVER: &str = "import http.server, os\n\
    os.makedirs('/srv/www', exist_ok=True)\n\
    os.chdir('/srv/www')\n\
    open('index.html', 'w').write('hello from inside\\n')\n\
    class Handler(http.server.SimpleHTTPRequestHandler):\n  \
      def do_GET(self):\n    \
        if self.headers.get('Upgrade') != 'websocket': return super().do_GET()\n    \
        self.protocol_version = 'HTTP/1.1'\n    \
        self.send_response(101)\n    \
        self.send_header('Connection', 'Upgrade')\n    \
        self.send_header('Upgrade', 'websocket')\n    \
        self.end_headers()\n    \
        self.wfile.write(self.rfile.read(5))\n\
    server = http.server.ThreadingHTTPServer(('127.0.0.1', 8000), Handler)\n\
    print('serves', flush=True)\n\
    server.serve_forever()";

/// Memory a guest has unless configured otherwise, in bytes.
const GUEST_RAM_BYTES: u64 = 256 << 20;

#[tokio::test(flavor = "multi_thread")]
async fn ports_files_logs_and_metrics() {
    let Some(daemon) = Daemon::start(&[]) else { return };
    let id = daemon.create("python").await;
    let server = ProcessSpec { code: Some(SERVER.into()), ..ProcessSpec::default() };
    let server = daemon.client.start_process(&id, &server).await.unwrap().pid;
    let mut attachment = daemon.client.attach(&id, server, 1).await.unwrap();
    let begun = attachment.event().await.unwrap().unwrap();
    assert!(matches!(begun.kind, ProcessEventKind::Stdout(_)), "{begun:?}");

    a_server_is_reached_by_host_and_by_headers(&daemon, &id).await;
    an_upgrade_passes(&daemon, &id).await;
    a_forwarded_port_is_the_server_s(&daemon, &id).await;
    files_cross_both_ways(&daemon, &id).await;
    directories_are_copied(&daemon, &id);
    the_console_and_the_machine_are_told(&daemon, &id).await;
    daemon.client.delete(&id).await.unwrap();
    daemon.stop();
}

/// The host that names a port of the sandbox.
fn host(port: u16, id: &str) -> String {
    format!("{port}-{}.localhost", id.replace('_', "-"))
}

async fn get(authority: &str, head: &str) -> raw::Answer {
    let request = format!("GET / HTTP/1.1\r\n{head}\r\nConnection: close\r\n\r\n");
    raw::send(authority, request.into_bytes()).await
}

async fn a_server_is_reached_by_host_and_by_headers(daemon: &Daemon, id: &str) {
    let by_headers =
        |port: u16| format!("Host: localhost\r\n{SANDBOX_HEADER}: {id}\r\n{PORT_HEADER}: {port}");
    for head in [format!("Host: {}", host(8000, id)), by_headers(8000)] {
        let answer = get(&daemon.authority, &head).await;
        assert_eq!((answer.status, answer.body.as_str()), (200, "hello from inside\n"), "{head}");
        assert!(answer.head.contains("SimpleHTTP"), "{}", answer.head);
    }
    for head in [format!("Host: {}", host(8001, id)), by_headers(8001)] {
        let answer = get(&daemon.authority, &head).await;
        assert_eq!((answer.status, answer.error().code), (502, ErrorCode::PortClosed), "{head}");
        assert!(answer.error().hint.is_some());
    }
}

async fn an_upgrade_passes(daemon: &Daemon, id: &str) {
    let mut socket = TcpStream::connect(&daemon.authority).await.unwrap();
    let head = format!(
        "GET / HTTP/1.1\r\nHost: {}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nhello",
        host(8000, id)
    );
    socket.write_all(head.as_bytes()).await.unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 101 ") && answer.ends_with("\r\n\r\nhello"), "{answer}");
}

async fn a_forwarded_port_is_the_server_s(daemon: &Daemon, id: &str) {
    let mut command = emberctl(daemon, &["--json", "forward", id, "0:8000"]);
    let mut forward = command.stdout(Stdio::piped()).spawn().unwrap();
    // The document comes in lines, and nothing behind it.
    let stdout = forward.stdout.take().unwrap();
    let mut documents = serde_json::Deserializer::from_reader(stdout).into_iter();
    let document: Option<serde_json::Result<serde_json::Value>> = documents.next();
    let listening = document.unwrap().unwrap()["listening"].as_str().unwrap().to_owned();
    let answer = get(&listening, "Host: localhost").await;
    kill_process(Pid::from_child(&forward), Signal::INT).unwrap();
    assert!(forward.wait().unwrap().success());
    assert_eq!((answer.status, answer.body.as_str()), (200, "hello from inside\n"));
}

async fn files_cross_both_ways(daemon: &Daemon, id: &str) {
    let plain = FileOptions::default();
    let mut watch = daemon.client.file_watch(id, Path::new("/srv"), true, &plain).await.unwrap();
    let content: Vec<u8> = (0..3_000_000_u32).map(|n| n.to_le_bytes()[1]).collect();
    let path = Path::new("/srv/www/big ü");
    let options = FileOptions { user: Some("nobody".into()), mode: Some(0o640) };
    let upload = Upload::bytes(content.clone());
    let written = daemon.client.file_write(id, path, upload, &options).await.unwrap();
    assert_eq!((written.size, written.mode, written.uid), (3_000_000, 0o640, 65534));
    let change = watch.next().await.unwrap().unwrap();
    assert_eq!((change.change, change.path), (ChangeKind::Created, GuestPath(path.into())));

    let sum = "import os, zlib\n\
        os.chdir('/srv/www')\n\
        print(os.stat('big ü').st_size, sum(open('big ü', 'rb').read()))";
    let expect: u64 = content.iter().map(|byte| u64::from(*byte)).sum();
    assert_eq!(daemon.output(id, sum).await, format!("3000000 {expect}\n"));
    let mut download =
        daemon.client.file_read(id, path, FileSpan::default(), &plain).await.unwrap();
    let mut read = Vec::new();
    while let Some(piece) = download.next().await.unwrap() {
        read.extend_from_slice(&piece);
    }
    assert!(read == content);
    let served = get_path(daemon, id, "/big%20%C3%BC").await;
    assert_eq!(served, content.len());
}

/// How many bytes the server inside answers with.
async fn get_path(daemon: &Daemon, id: &str, path: &str) -> usize {
    let mut socket = TcpStream::connect(&daemon.authority).await.unwrap();
    let head =
        format!("GET {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", host(8000, id));
    socket.write_all(head.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    socket.read_to_end(&mut answer).await.unwrap();
    let body_at = answer.windows(4).position(|window| window == b"\r\n\r\n").unwrap() + 4;
    answer.len() - body_at
}

fn directories_are_copied(daemon: &Daemon, id: &str) {
    let temp = tempfile::tempdir().unwrap();
    let (tree, back) = (temp.path().join("tree"), temp.path().join("back"));
    fs::create_dir_all(tree.join("a/b")).unwrap();
    fs::write(tree.join("a/b/file"), "within").unwrap();
    let inside = format!("{id}:/srv/tree");
    printed(emberctl(daemon, &["cp", tree.to_str().unwrap(), &inside]));
    let listed = printed(emberctl(daemon, &["files", "ls", &format!("{inside}/a/b")]));
    assert!(listed.contains("file"), "{listed}");
    printed(emberctl(daemon, &["cp", &inside, back.to_str().unwrap()]));
    assert_eq!(fs::read_to_string(back.join("a/b/file")).unwrap(), "within");
}

async fn the_console_and_the_machine_are_told(daemon: &Daemon, id: &str) {
    let log = printed(emberctl(daemon, &["logs", id]));
    if daemon.client.info().await.unwrap().vmm.driver == "qemu" {
        assert!(log.contains("emberd-init: ready"), "{log}");
    }
    let metrics = printed(emberctl(daemon, &["--json", "metrics", id]));
    let metrics: Metrics = serde_json::from_str(&metrics).unwrap();
    // The kernel keeps a part for itself, and says less than it was given.
    let memory = GUEST_RAM_BYTES / 2..=GUEST_RAM_BYTES;
    assert!(memory.contains(&metrics.memory_total_bytes), "{metrics:?}");
    assert!((1..metrics.memory_total_bytes).contains(&metrics.memory_used_bytes), "{metrics:?}");
    // Half of it is the room for files, of which the upload took some.
    assert!((1 << 30..=2 << 30).contains(&metrics.disk_total_bytes), "{metrics:?}");
    assert!((3_000_000..metrics.disk_total_bytes).contains(&metrics.disk_used_bytes));
    assert_eq!(metrics.cpu_count, 1);
    // The agent, the warm interpreter and the server at least.
    assert!((3..100).contains(&metrics.process_count) && metrics.uptime_ms > 0, "{metrics:?}");
}

/// `emberctl`, built beside the running test, with `args` for the daemon.
fn emberctl(daemon: &Daemon, args: &[&str]) -> Command {
    let exe = env::current_exe().unwrap();
    let mut places = exe.ancestors().skip(1).take(2).map(|dir| dir.join("emberctl"));
    let program: Option<PathBuf> = places.find(|path| path.exists());
    let mut command = Command::new(program.expect("run `cargo build -p emberctl` first"));
    command.args(args).env("EMBERD_ADDR", &daemon.authority).stdin(Stdio::null());
    command
}

/// Standard output of a success.
fn printed(mut command: Command) -> String {
    let output = command.output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {errors}");
    String::from_utf8(output.stdout).unwrap()
}
