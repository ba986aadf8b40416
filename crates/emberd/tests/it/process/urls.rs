//! Signed URLs of ports as only a process shows them: over a restart, for WebSockets that are open,
//! and in nothing that is written.

use std::fs;
use std::sync::Arc;
use std::time::Instant;

use emberd_api::{AuditEvent, CreateUrl, ReadAudit};
use emberd_client::Client;
use emberd_keys::Role;
use rustix::process::Signal;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use super::tls::{self, Ca};
use super::{Daemon, Room};
use crate::{raw, wait};

/// A port that upgrades each request and then sends back what comes.
async fn echo() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    head.push(stream.read_u8().await.unwrap());
                }
                let switch = "HTTP/1.1 101 -\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
                stream.write_all(switch.as_bytes()).await.unwrap();
                let (mut reader, mut writer) = stream.split();
                tokio::io::copy(&mut reader, &mut writer).await.ok();
            });
        }
    });
    port
}

fn host(port: u16, id: &str) -> String {
    format!("{port}-{}.localhost", id.replace('_', "-"))
}

async fn token(client: &Client, id: &str, port: u16, expires_ms: Option<u64>) -> String {
    let wanted = CreateUrl { port, expires_ms, base: None };
    let url = client.create_url(id, &wanted).await.unwrap().url;
    url.split_once("emberd_token=").unwrap().1.to_owned()
}

/// Opens a WebSocket with the cookie, and has it echo something.
async fn open(daemon: &Daemon, host: &str, token: &str) -> TcpStream {
    let addr = daemon.addr.strip_prefix("http://").unwrap();
    let mut stream = TcpStream::connect(addr).await.unwrap();
    let head = format!(
        "GET / HTTP/1.1\r\nHost: {host}\r\nOrigin: http://{host}\r\nConnection: Upgrade\r\n\
         Upgrade: websocket\r\nCookie: emberd_port={token}\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    assert!(head.starts_with(b"HTTP/1.1 101"), "{}", String::from_utf8_lossy(&head));
    stream.write_all(b"x").await.unwrap();
    assert_eq!(stream.read_u8().await.unwrap(), b'x');
    stream
}

async fn ends(mut stream: TcpStream, what: &str) {
    let began = Instant::now();
    let mut rest = Vec::new();
    let ended = tokio::time::timeout(wait::PATIENCE, stream.read_to_end(&mut rest));
    drop(ended.await.expect("it ends"));
    println!("{what}: {:?}", began.elapsed());
}

#[tokio::test]
async fn what_a_url_has_begun_ends_with_it() {
    let room = Room::new();
    let (key, secret) = room.key("one", Role::User);
    let (_, admin) = room.key("admin", Role::Admin);
    let daemon = room.start();
    let client = daemon.with(&secret);
    let id = client.create(Some("shell")).await.unwrap().id;
    let port = echo().await;
    let host = host(port, &id);
    let lasting = token(&daemon.with(&admin), &id, port, None).await;
    let mut kept = open(&daemon, &host, &lasting).await;
    let short = token(&client, &id, port, Some(2_000)).await;
    ends(open(&daemon, &host, &short).await, "expired").await;
    let of_key = token(&client, &id, port, None).await;
    let open_of_key = open(&daemon, &host, &of_key).await;
    emberd_keys::remove(&room.keys(), &[key.id.to_string()]).unwrap();
    ends(open_of_key, "key removed").await;
    // That of another key, with more time, has gone on.
    kept.write_all(b"y").await.unwrap();
    assert_eq!(kept.read_u8().await.unwrap(), b'y');
    daemon.with(&admin).revoke_urls(&id).await.unwrap();
    ends(kept, "revoked").await;
    daemon.stop(Signal::TERM).await;
    room.close().await;
}

/// Asks for `path` of `host` over TLS, and returns the head of the answer.
async fn asked(daemon: &Daemon, ca: &Ca, host: &str, path: &str) -> String {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(&ca.cert).unwrap()).unwrap();
    let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let stream = TcpStream::connect(tls::authority(daemon)).await.unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    let mut stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    String::from_utf8(head).unwrap()
}

#[tokio::test]
async fn the_cookie_over_tls_is_for_tls_alone() {
    let room = Room::new();
    let (_, secret) = room.key("one", Role::User);
    let (daemon, ca, _) = tls::secured(&room);
    let client = tls::client(&daemon, &ca.trusted()).with_key(&secret).unwrap();
    let id = client.create(Some("shell")).await.unwrap().id;
    let wanted = CreateUrl { port: 8000, expires_ms: None, base: None };
    let url = client.create_url(&id, &wanted).await.unwrap().url;
    let host = host(8000, &id);
    assert!(url.starts_with(&format!("https://{host}:")), "{url}");
    let path = format!("/?{}", url.split_once("/?").unwrap().1);
    let head = asked(&daemon, &ca, &host, &path).await;
    assert!(head.starts_with("HTTP/1.1 303 "), "{head}");
    let cookie = head.lines().find(|line| line.starts_with("set-cookie: emberd_port=")).unwrap();
    assert!(cookie.ends_with("; HttpOnly; SameSite=Lax; Secure"), "{cookie}");
    client.delete(&id).await.unwrap();
    daemon.stop(Signal::TERM).await;
    room.close().await;
}

#[tokio::test]
async fn urls_outlive_a_daemon_and_so_does_their_end() {
    let room = Room::new();
    let (_, secret) = room.key("one", Role::User);
    let daemon = room.keeping();
    let client = daemon.with(&secret);
    let id = client.create(Some("shell")).await.unwrap().id;
    let port = echo().await;
    let host = host(port, &id);
    let old = token(&client, &id, port, None).await;
    daemon.crash().await;
    let next = room.keeping();
    let client = next.with(&secret);
    drop(open(&next, &host, &old).await);
    client.revoke_urls(&id).await.unwrap();
    next.crash().await;
    let last = room.start();
    let addr = last.addr.strip_prefix("http://").unwrap();
    let head = format!("GET /?emberd_token={old} HTTP/1.1\r\nHost: {host}\r\n");
    let head = format!("{head}Connection: close\r\n\r\n");
    assert_eq!(raw::send(addr, head.into_bytes()).await.status, 401);
    last.stop(Signal::TERM).await;
    room.close().await;
}

#[tokio::test]
async fn neither_token_nor_secret_is_in_anything_that_is_shown() {
    let room = Room::new();
    let (_, secret) = room.key("admin", Role::Admin);
    let mut command = room.command();
    command.env("RUST_LOG", "trace");
    let daemon = Daemon::spawn(command);
    let client = daemon.with(&secret);
    let id = client.create(Some("shell")).await.unwrap().id;
    let port = echo().await;
    let token = token(&client, &id, port, None).await;
    drop(open(&daemon, &host(port, &id), &token).await);
    let addr = daemon.addr.strip_prefix("http://").unwrap().to_owned();
    for place in [host(port, &id), host(1, &id), "localhost".to_owned()] {
        let head = format!("GET /?emberd_token={token} HTTP/1.1\r\nHost: {place}\r\n");
        let head = format!("{head}Connection: close\r\n\r\n");
        raw::send(&addr, head.into_bytes()).await;
    }
    let dir = client.get(&id).await.unwrap().dir;
    let journal = fs::read_to_string(format!("{dir}/sandbox.jsonl")).unwrap();
    let entry: serde_json::Value = serde_json::from_str(journal.lines().last().unwrap()).unwrap();
    let url_secret = entry["url_secret"].as_str().unwrap().to_owned();
    let mut shown = serde_json::to_string(&client.list().await.unwrap()).unwrap();
    shown += &client.daemon_metrics().await.unwrap();
    let read = ReadAudit::default();
    let mut principals = Vec::new();
    wait::until(async || {
        let records = client.audit(&read).await.unwrap().records;
        principals = records.iter().filter_map(|record| record.principal.clone()).collect();
        let records = records.into_iter().map(|record| AuditEvent::Record(Box::new(record)));
        shown += &serde_json::to_string(&records.collect::<Vec<_>>()).unwrap();
        principals.contains(&"url".to_owned())
    })
    .await;
    shown += &daemon.stop(Signal::TERM).await;
    let signature = token.rsplit_once('.').unwrap().1;
    assert!(!shown.contains(signature) && !shown.contains(&url_secret));
    assert!(shown.contains("create_url") && shown.contains("use_port"));
    room.close().await;
}
