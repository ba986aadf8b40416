//! Clients that would have all of the daemon: its log, its descriptors, its places, its memory.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Command, Stdio};

use emberd_api::{BODY_BYTES_MAX, ErrorCode, ExecBody, ProcessSpec};
use emberd_client::Client;
use emberd_proto::ExecSpec;
use rustix::process::{Resource, Rlimit, Signal, getrlimit, setrlimit};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

use super::{Daemon, Room};
use crate::{raw, wait};

/// Stops a daemon in order, looks for anything left behind, and returns the log.
async fn stop(daemon: Daemon, room: Room) -> String {
    let log = daemon.stop(Signal::TERM).await;
    room.close().await;
    log
}

fn authority(daemon: &Daemon) -> &str {
    daemon.addr.strip_prefix("http://").unwrap()
}

/// Sends the same request again and again on one connection; each is answered with `status`.
async fn flood(daemon: &Daemon, request: &str, count: usize, status: &str) {
    let mut stream = TcpStream::connect(authority(daemon)).await.unwrap();
    let mut answer = vec![0; 4096];
    for _ in 0..count {
        stream.write_all(request.as_bytes()).await.unwrap();
        let length = stream.read(&mut answer).await.unwrap();
        let answer = String::from_utf8_lossy(&answer[..length]);
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
        assert!(answer.ends_with('}'), "{answer}");
    }
}

#[tokio::test]
async fn requests_do_not_fill_the_log() {
    for format in ["text", "json"] {
        let room = Room::new();
        let mut command = room.command();
        command.args(["--log-format", format]);
        let daemon = Daemon::spawn(command);
        let path = "A".repeat(30_000);
        let page = format!(
            "GET /{path} HTTP/1.1\r\nHost: localhost\r\nSec-Fetch-Site: cross-site\r\n\
             User-Agent: %1b[2J\r\n\r\n"
        );
        flood(&daemon, &page, 1500, "403").await;
        let program = format!("GET /{path} HTTP/1.1\r\nHost: localhost\r\n\r\n");
        flood(&daemon, &program, 1500, "404").await;
        let unknown = format!("GET /sandboxes/{path} HTTP/1.1\r\nHost: localhost\r\n\r\n");
        flood(&daemon, &unknown, 300, "404").await;
        let log = stop(daemon, room).await;
        // At most 1.5 kB for each line of two bursts and of what the pace let through since.
        assert!(log.len() < 2_000_000, "{format}: {}", log.len());
        assert!(log.lines().all(|line| line.len() < 2000), "{format}");
        assert!(!log.contains('\u{1b}'), "{format}");
        let said = "lines like this were dropped";
        assert!(log.contains(said) && log.contains("refused a web page"), "{format}: {log}");
    }
}

/// How many descriptors the daemon has open.
fn descriptors(daemon: &Daemon) -> usize {
    fs::read_dir(format!("/proc/{}/fd", daemon.process_id())).unwrap().count()
}

/// Sends a request, reads the beginning of its answer, and then nothing.
async fn taking_nothing(daemon: &Daemon, head: &str) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    let mut stream = socket.connect(authority(daemon).parse().unwrap()).await.unwrap();
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut status = [0; 12];
    stream.read_exact(&mut status).await.unwrap();
    let status = String::from_utf8_lossy(&status);
    assert!(["HTTP/1.1 101", "HTTP/1.1 200"].contains(&&*status), "{status} to {head}");
    stream
}

#[tokio::test]
async fn streams_nobody_reads_end_with_their_sandbox() {
    let room = Room::new();
    let daemon = room.start();
    daemon.client.healthz().await.unwrap();
    let before = descriptors(&daemon);
    let (id, _) = daemon.create().await;
    let yes = ProcessSpec::of_argv(["sh", "-c", "while :; do echo yyyyyyyyyyyyyyyyyyyyyyy; done"]);
    let pid = daemon.client.start_process(&id, &yes).await.unwrap().pid;
    let large = room.path("large");
    fs::File::create(&large).unwrap().set_len(1 << 30).unwrap();
    let large = large.to_str().unwrap();
    // The double's loopback is the host's: what listens sends without end.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let server = tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                let head = b"HTTP/1.1 200 OK\r\n\r\n";
                let mut sent = stream.write_all(head).await;
                while sent.is_ok() {
                    sent = stream.write_all(&[b'x'; 4096]).await;
                }
            });
        }
    });
    let events = format!("GET /sandboxes/{id}/processes/{pid}/events HTTP/1.1\r\nHost: localhost");
    let upgrade = "Connection: Upgrade\r\nUpgrade";
    let key = "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==";
    let host = format!("{port}-{}.localhost", id.replace('_', "-"));
    let heads = [
        format!("{events}\r\n{upgrade}: websocket\r\n{key}\r\n\r\n"),
        format!("{events}\r\n\r\n"),
        format!("GET /sandboxes/{id}/files?path={large} HTTP/1.1\r\nHost: localhost\r\n\r\n"),
        format!(
            "GET /sandboxes/{id}/files/archive?path={large} HTTP/1.1\r\nHost: localhost\r\n\r\n"
        ),
        format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n"),
        format!(
            "GET /sandboxes/{id}/ports/{port} HTTP/1.1\r\nHost: localhost\r\n{upgrade}: tcp\r\n\r\n"
        ),
        format!("GET /sandboxes/{id}/logs?follow=true HTTP/1.1\r\nHost: localhost\r\n\r\n"),
        format!("GET /sandboxes/{id}/files/watch?path=/tmp HTTP/1.1\r\nHost: localhost\r\n\r\n"),
    ];
    let mut streams = Vec::new();
    for head in heads.iter().chain(&heads) {
        streams.push(taking_nothing(&daemon, head).await);
    }
    assert!(descriptors(&daemon) >= before + streams.len());
    daemon.client.delete_process(&id, pid).await.unwrap();
    daemon.client.delete(&id).await.unwrap();
    wait::until(async || descriptors(&daemon) <= before).await;
    // The clients are all still there.
    drop(streams);
    server.abort();
    stop(daemon, room).await;
}

/// The daemon with so few descriptors, and no more to be had.
pub fn with_descriptors(count: u32, command: &Command) -> Command {
    let mut limited = Command::new("/bin/sh");
    limited.arg("-c").arg(format!("ulimit -n {count}; exec \"$0\" \"$@\""));
    limited.arg(command.get_program()).args(command.get_args());
    limited.env_clear().env("PATH", "/usr/bin:/bin");
    limited.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    limited
}

#[tokio::test]
async fn a_vmm_has_no_more_descriptors_than_its_daemon_may_have() {
    for (may_have, has) in [(1500, 1500), (2500, 2048)] {
        let room = Room::new();
        let daemon = Daemon::spawn(with_descriptors(may_have, &room.command()));
        let (id, vmm_pid) = daemon.create().await;
        let limits = std::fs::read_to_string(format!("/proc/{vmm_pid}/limits")).unwrap();
        let open_files = limits.lines().find_map(|line| line.strip_prefix("Max open files"));
        let words: Vec<_> = open_files.unwrap().split_whitespace().take(2).collect();
        assert_eq!(words, [has.to_string(), has.to_string()]);
        daemon.client.delete(&id).await.unwrap();
        stop(daemon, room).await;
    }
}

#[tokio::test]
async fn silent_connections_keep_nobody_out() {
    let room = Room::new();
    // A quarter of them is for connections.
    let daemon = Daemon::spawn(with_descriptors(2048, &room.command()));
    let maximum = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).unwrap();
    let mut silent = Vec::new();
    for _ in 0..700 {
        silent.push(TcpStream::connect(authority(&daemon)).await.unwrap());
    }
    let (id, _) = daemon.create().await;
    for _ in 0..20 {
        silent.push(TcpStream::connect(authority(&daemon)).await.unwrap());
        let client = Client::new(authority(&daemon)).unwrap();
        let outcome = client.exec(&id, &crate::api::body("echo 42")).await.unwrap();
        assert_eq!(outcome.stdout, "42\n");
    }
    daemon.client.delete(&id).await.unwrap();
    drop(silent);
    let log = stop(daemon, room).await;
    assert!(!log.contains("cannot accept"), "{log}");
}

#[tokio::test]
async fn large_bodies_leave_room_for_small_ones() {
    let room = Room::new();
    let daemon = room.start();
    let mut large = Vec::new();
    for _ in 0..4 {
        let mut stream = TcpStream::connect(authority(&daemon)).await.unwrap();
        let head = format!(
            "POST /sandboxes HTTP/1.1\r\nHost: localhost\r\nContent-Length: {BODY_BYTES_MAX}\r\n\r\n "
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        large.push(stream);
    }
    let (id, _) = daemon.create().await;
    drop(large);
    let stdin = Some("x".repeat(8 << 20));
    let body = ExecBody { spec: ExecSpec::new("wc -c"), stdin, stdin_base64: None };
    let outcome = daemon.client.exec(&id, &body).await.unwrap();
    assert_eq!(outcome.stdout.trim(), "8388608");
    stop(daemon, room).await;
}

#[tokio::test]
async fn little_text_that_is_many_values_is_refused() {
    let room = Room::new();
    let daemon = room.start();
    let (id, _) = daemon.create().await;
    for unknown in ["[],".repeat(20_000), "0,".repeat(20_000), "[".repeat(1000)] {
        let body = format!(r#"{{"code":"","unknown":[{unknown}0]}}"#);
        let path = format!("/sandboxes/{id}/exec");
        let answer = raw::request(authority(&daemon), "POST", &path, &body).await;
        assert_eq!((answer.status, answer.error().code), (400, ErrorCode::InvalidJson));
    }
    stop(daemon, room).await;
}

#[tokio::test]
async fn heads_and_bodies_out_of_the_ordinary() {
    let room = Room::new();
    let daemon = room.start();
    let host = "Host: localhost\r\nConnection: close";
    let cases = [
        (format!("GET /{} HTTP/1.1\r\n{host}\r\n\r\n", "A".repeat(70_000)), "414"),
        (format!("GET / HTTP/1.1\r\n{host}\r\n{}\r\n", "X: y\r\n".repeat(200)), "431"),
        ("GET /healthz HTTP/1.0\r\n\r\n".to_owned(), "200"),
        (format!("GET /healthz HTTP/1.1\r\n{host}\r\nSec-Fetch-Site: none\r\n\r\n"), "200"),
        (format!("GET /healthz HTTP/1.1\r\n{host}\r\nSec-Fetch-Site: same-site\r\n\r\n"), "403"),
        // Trailers are read and mean nothing.
        (
            format!(
                "POST /sandboxes HTTP/1.1\r\n{host}\r\nTransfer-Encoding: chunked\r\n\r\n\
                 1\r\n[\r\n0\r\nX-Trailer: {}\r\n\r\n",
                "A".repeat(100)
            ),
            "400",
        ),
        // It is never asked to go on.
        (
            format!(
                "POST /sandboxes HTTP/1.1\r\n{host}\r\nExpect: 100-continue\r\n\
                 Content-Length: 99999999999\r\n\r\n"
            ),
            "413",
        ),
    ];
    for (request, status) in cases {
        let mut stream = TcpStream::connect(authority(&daemon)).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = [0; 12];
        stream.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer[9..], status.as_bytes(), "{request:.80}");
    }
    // One after the other, each is answered.
    let mut stream = TcpStream::connect(authority(&daemon)).await.unwrap();
    let many = "GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n".repeat(199);
    let last = format!("GET /healthz HTTP/1.1\r\n{host}\r\n\r\n");
    stream.write_all((many + &last).as_bytes()).await.unwrap();
    let mut answers = String::new();
    stream.read_to_string(&mut answers).await.unwrap();
    assert_eq!(answers.matches("HTTP/1.1 200 OK").count(), 200);
    stop(daemon, room).await;
}

#[tokio::test]
async fn a_unix_socket_beside_the_port() {
    let room = Room::new();
    let path = room.path("emberd.sock");
    let mut command = room.command();
    command.arg("--socket").arg(&path);
    let daemon = Daemon::spawn(command);
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let by_socket = Client::new(&format!("unix:{}", path.display())).unwrap();
    let id = by_socket.create(Some("shell")).await.unwrap().id;
    assert_eq!(daemon.client.get(&id).await.unwrap().id, id);
    let other = Room::new();
    let mut second = other.command();
    second.arg("--socket").arg(&path);
    let refused = Room::refused(second);
    assert!(refused.contains("is in use by another program"), "{refused}");
    let mut long = other.command();
    long.arg("--socket").arg(format!("/{}", "x".repeat(107)));
    let refused = Room::refused(long);
    assert!(refused.contains("the socket's path has 108 bytes, over 107"), "{refused}");
    stop(daemon, room).await;
    assert!(!path.exists());
}
