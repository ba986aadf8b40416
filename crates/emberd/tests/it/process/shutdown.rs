//! How the daemon stops: in order, and with nothing left behind.

use std::path::Path;

use emberd_api::{ErrorCode, ExecBody};
use emberd_client::ClientError;
use emberd_proto::ExecSpec;
use rustix::process::Signal;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use super::Room;
use crate::wait;

/// A program that says that it runs, and ends once `release` exists or its agent is gone.
fn waiting(dir: &Path) -> ExecBody {
    let code = "echo $$ > running.new; mv running.new running; \
                while kill -0 $PPID 2>/dev/null && ! [ -e release ]; do sleep 0.02; done; \
                echo released";
    let spec = ExecSpec { cwd: Some(dir.display().to_string()), ..ExecSpec::new(code) };
    ExecBody { spec, stdin: None, stdin_base64: None }
}

/// Waits until the program in `dir` runs and returns its process id.
async fn running(dir: &Path) -> u32 {
    let file = dir.join("running");
    wait::until(async || file.exists()).await;
    std::fs::read_to_string(file).unwrap().trim().parse().unwrap()
}

#[tokio::test]
async fn every_microvm_is_removed() {
    let room = Room::new();
    let daemon = room.start();
    let (_, first) = daemon.create().await;
    let (_, second) = daemon.create().await;
    daemon.stop(Signal::TERM).await;
    assert!(!wait::is_running(first) && !wait::is_running(second));
    room.close().await;
}

#[tokio::test]
async fn program_under_way_is_waited_for() {
    let room = Room::new();
    let mut daemon = room.start();
    let (id, _) = daemon.create().await;
    let body = waiting(&room.path(""));
    let exec = daemon.client.exec(&id, &body);
    let authority = daemon.addr.strip_prefix("http://").unwrap();
    let stop = async {
        running(&room.path("")).await;
        daemon.signal(Signal::TERM);
        wait::until(async || TcpStream::connect(authority).await.is_err()).await;
        std::fs::write(room.path("release"), "").unwrap();
    };
    let (outcome, ()) = tokio::join!(exec, stop);
    assert_eq!(outcome.unwrap().stdout, "released\n");
    assert_eq!(daemon.exit_code().await, Some(0));
    room.close().await;
}

#[tokio::test]
async fn second_signal_cuts_programs_off() {
    let room = Room::new();
    let mut daemon = room.start();
    let (id, pid) = daemon.create().await;
    let body = waiting(&room.path(""));
    let exec = daemon.client.exec(&id, &body);
    let authority = daemon.addr.strip_prefix("http://").unwrap();
    let stop = async {
        running(&room.path("")).await;
        daemon.signal(Signal::TERM);
        wait::until(async || TcpStream::connect(authority).await.is_err()).await;
        daemon.signal(Signal::TERM);
    };
    let (outcome, ()) = tokio::join!(exec, stop);
    let Err(ClientError::Api { status, body }) = outcome else { panic!("{outcome:?}") };
    assert_eq!((status, body.code), (410, ErrorCode::SandboxGone));
    assert_eq!(daemon.exit_code().await, Some(0));
    assert!(!wait::is_running(pid));
    room.close().await;
}

#[tokio::test]
async fn creation_under_way_is_cut_off() {
    let room = Room::new();
    room.double.misbehave("never-ready");
    let mut daemon = room.start();
    let client = daemon.client.clone();
    let creation = tokio::spawn(async move { client.create(None).await });
    let started = || wait::left_in(&room.run_dir()).pop();
    wait::until(async || started().is_some_and(|dir| dir.join("sandbox.jsonl").exists())).await;
    daemon.signal(Signal::TERM);
    let outcome = creation.await.unwrap();
    let Err(ClientError::Api { status, body }) = outcome else { panic!("{outcome:?}") };
    assert_eq!((status, body.code), (503, ErrorCode::ShuttingDown));
    assert_eq!(daemon.exit_code().await, Some(0));
    room.close().await;
}

#[tokio::test]
async fn idle_connection_does_not_hold_the_daemon() {
    let room = Room::new();
    let daemon = room.start();
    let authority = daemon.addr.strip_prefix("http://").unwrap();
    let mut silent = TcpStream::connect(authority).await.unwrap();
    // Answered after the silent one was accepted.
    daemon.client.healthz().await.unwrap();
    daemon.stop(Signal::TERM).await;
    assert_eq!(silent.read(&mut [0]).await.unwrap_or(0), 0);
    room.close().await;
}

#[tokio::test]
async fn caller_that_hangs_up_ends_its_program() {
    let room = Room::new();
    let daemon = room.start();
    let (id, _) = daemon.create().await;
    let (client, body) = (daemon.client.clone(), waiting(&room.path("")));
    let exec = tokio::spawn(async move { client.exec(&id, &body).await });
    let pid = running(&room.path("")).await;
    exec.abort();
    wait::until(async || !wait::is_running(pid)).await;
    daemon.stop(Signal::TERM).await;
    room.close().await;
}

/// What has no end of its own: a log and events that are followed, a tunnel, a proxied answer.
#[tokio::test]
async fn endless_streams_do_not_hold_the_daemon() {
    let room = Room::new();
    let daemon = room.start();
    let (id, _) = daemon.create().await;
    // The double's loopback is the host's.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let mut logs = daemon.client.logs(&id, None, true).await.unwrap();
    let mut events = daemon.client.events(&[], None, true).await.unwrap();
    let mut tunnel = daemon.client.connect_port(&id, port).await.unwrap();
    let (_tunnelled, _) = listener.accept().await.unwrap();
    let authority = daemon.addr.strip_prefix("http://").unwrap();
    let mut caller = TcpStream::connect(authority).await.unwrap();
    let host = format!("{port}-{}.localhost", id.replace('_', "-"));
    let asked = format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n");
    caller.write_all(asked.as_bytes()).await.unwrap();
    let (mut inside, _) = listener.accept().await.unwrap();
    inside.write_all(b"HTTP/1.1 200 OK\r\n\r\nbegun").await.unwrap();
    let mut begun = [0; 15];
    caller.read_exact(&mut begun).await.unwrap();
    assert_eq!(&begun, b"HTTP/1.1 200 OK");
    let log = daemon.stop(Signal::TERM).await;
    assert!(!log.contains("requests still run"), "{log}");
    // Each has come to an end, whichever.
    while matches!(logs.next().await, Ok(Some(_))) {}
    while matches!(events.next().await, Ok(Some(_))) {}
    drop(tunnel.read_to_end(&mut Vec::new()).await);
    drop(caller.read_to_end(&mut Vec::new()).await);
    room.close().await;
}
