//! TLS of a real daemon: what is spoken in it, who is refused, and certificates that are replaced.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use emberd_api::{ErrorCode, ExecBody, ProcessEventKind, ProcessSpec};
use emberd_client::{Client, ClientError, FileOptions, FileSpan, TlsFault, TlsFiles, Upload};
use emberd_proto::ExecSpec;
use rcgen::{
    BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    date_time_ymd,
};
use rustix::process::{Resource, Rlimit, Signal, getrlimit, setrlimit};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use super::{Daemon, Room};
use crate::api::refusal;
use crate::{raw, wait};

/// No user, and no mode.
const OPTIONS: FileOptions = FileOptions { user: None, mode: None };

/// First bytes of a handshake that does not go on.
const HALF: [u8; 3] = [22, 3, 1];

/// An issuer of certificates, whose own is in a file.
pub struct Ca {
    issuer: Issuer<'static, KeyPair>,
    pub cert: PathBuf,
}

impl Ca {
    pub fn new(room: &Room, name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let cert = room.path(name);
        fs::write(&cert, params.self_signed(&key).unwrap().pem()).unwrap();
        Self { issuer: Issuer::new(params, key), cert }
    }

    /// Writes a certificate and its key to the files `cert` and `key`.
    pub fn issue(&self, names: &[&str], edit: impl FnOnce(&mut CertificateParams), to: &Pair) {
        let names: Vec<_> = names.iter().copied().map(str::to_owned).collect();
        let mut params = CertificateParams::new(names).unwrap();
        edit(&mut params);
        let key = KeyPair::generate().unwrap();
        let cert = params.signed_by(&key, &self.issuer).unwrap();
        fs::write(&to.cert, cert.pem()).unwrap();
        fs::write(&to.key, key.serialize_pem()).unwrap();
    }

    /// Files of a client that trusts it.
    pub fn trusted(&self) -> TlsFiles {
        TlsFiles { ca_cert: Some(self.cert.clone()), identity: None }
    }
}

/// Files of a certificate and its key.
pub struct Pair {
    pub cert: PathBuf,
    pub key: PathBuf,
}

impl Pair {
    pub fn at(room: &Room, name: &str) -> Self {
        let path = |end: &str| room.path(&format!("{name}.{end}"));
        Self { cert: path("cert"), key: path("key") }
    }

    fn command(&self, room: &Room) -> Command {
        let mut command = room.command();
        command.arg("--tls-cert").arg(&self.cert).arg("--tls-key").arg(&self.key);
        command
    }
}

/// A daemon with a certificate of a new issuer, for the address that it has.
pub fn secured(room: &Room) -> (Daemon, Ca, Pair) {
    let (ca, pair) = (Ca::new(room, "ca"), Pair::at(room, "daemon"));
    ca.issue(&["127.0.0.1", "localhost"], |_| {}, &pair);
    (Daemon::spawn(pair.command(room)), ca, pair)
}

pub fn client(daemon: &Daemon, files: &TlsFiles) -> Client {
    Client::new(&daemon.addr).unwrap().with_tls(files).unwrap()
}

pub fn authority(daemon: &Daemon) -> &str {
    daemon.addr.strip_prefix("https://").unwrap()
}

#[track_caller]
fn fault<T: std::fmt::Debug>(answer: Result<T, ClientError>) -> TlsFault {
    let error = answer.unwrap_err();
    TlsFault::of(&error).unwrap_or_else(|| panic!("{error:?}"))
}

#[tokio::test]
async fn everything_goes_through_tls() {
    let room = Room::new();
    let (daemon, ca, _) = secured(&room);
    let client = client(&daemon, &ca.trusted());
    let id = client.create(Some("shell")).await.unwrap().id;
    let exec = ExecBody { spec: ExecSpec::new("echo 42"), stdin: None, stdin_base64: None };
    assert_eq!(client.exec(&id, &exec).await.unwrap().stdout, "42\n");
    // A file of some MiB, both ways.
    let dir = client.get(&id).await.unwrap().dir;
    let path = Path::new(&dir).join("file");
    let content: Vec<u8> = (0..3_000_000_u32).flat_map(u32::to_le_bytes).collect();
    client.file_write(&id, &path, Upload::bytes(content.clone()), &OPTIONS).await.unwrap();
    let mut read = Vec::new();
    let mut file = client.file_read(&id, &path, FileSpan::default(), &OPTIONS).await.unwrap();
    while let Some(piece) = file.next().await.unwrap() {
        read.extend_from_slice(&piece);
    }
    assert!(read == content, "{} bytes", read.len());
    // A WebSocket.
    let argv = ["cat"].map(str::to_owned).to_vec();
    let process = ProcessSpec { argv, ..ProcessSpec::default() };
    let pid = client.start_process(&id, &process).await.unwrap().pid;
    let mut attached = client.attach(&id, pid, 0).await.unwrap();
    attached.write(b"hello").await.unwrap();
    attached.end_input().await.unwrap();
    let mut ended = false;
    while let Some(event) = attached.event().await.unwrap() {
        ended |= matches!(event.kind, ProcessEventKind::Exit(_));
    }
    assert!(ended);
    client.delete(&id).await.unwrap();
    daemon.stop(Signal::TERM).await;
    room.close().await;
}

#[tokio::test]
async fn a_tunnel_ends_and_breaks_through_tls_both_ways() {
    let room = Room::new();
    let (daemon, ca, _) = secured(&room);
    let client = client(&daemon, &ca.trusted());
    let id = client.create(Some("shell")).await.unwrap().id;
    // The double's loopback is the host's.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let open = async || {
        let (tunnel, accepted) = tokio::join!(client.connect_port(&id, port), listener.accept());
        (tunnel.unwrap(), accepted.unwrap().0)
    };
    // Half-closed, then closed.
    let (mut tunnel, mut server) = open().await;
    tunnel.write_all(b"ping").await.unwrap();
    tunnel.shutdown().await.unwrap();
    let mut received = String::new();
    server.read_to_string(&mut received).await.unwrap();
    server.write_all(b"pong").await.unwrap();
    drop(server);
    let mut answered = String::new();
    tunnel.read_to_string(&mut answered).await.unwrap();
    assert_eq!((received.as_str(), answered.as_str()), ("ping", "pong"));
    // A server that breaks off does not seem to have ended.
    let (mut tunnel, mut server) = open().await;
    server.write_all(b"half").await.unwrap();
    let mut half = [0; 4];
    tunnel.read_exact(&mut half).await.unwrap();
    server.set_zero_linger().unwrap();
    drop(server);
    tunnel.read_to_end(&mut Vec::new()).await.unwrap_err();
    // A client that breaks off ends the server's connection too. The double's vsock has no resets.
    let (mut tunnel, mut server) = open().await;
    tunnel.write_all(b"half").await.unwrap();
    tunnel.flush().await.unwrap();
    server.read_exact(&mut half).await.unwrap();
    drop(tunnel);
    server.read_to_end(&mut Vec::new()).await.ok();
    client.delete(&id).await.unwrap();
    daemon.stop(Signal::TERM).await;
    room.close().await;
}

#[tokio::test]
async fn a_daemon_that_cannot_prove_itself_is_not_trusted() {
    let room = Room::new();
    let (ca, other) = (Ca::new(&room, "ca"), Ca::new(&room, "other"));
    let pair = Pair::at(&room, "daemon");
    let expire = |params: &mut CertificateParams| {
        params.not_before = date_time_ymd(2020, 1, 1);
        params.not_after = date_time_ymd(2021, 1, 1);
    };
    ca.issue(&["127.0.0.1"], expire, &pair);
    let daemon = Daemon::spawn(pair.command(&room));
    let ask = async |files: &TlsFiles| client(&daemon, files).healthz().await;
    assert_eq!(fault(ask(&ca.trusted()).await), TlsFault::Time);
    // The certificate is replaced under the daemon.
    ca.issue(&["other.example"], |_| {}, &pair);
    wait::until(async || fault(ask(&ca.trusted()).await) == TlsFault::Name).await;
    ca.issue(&["127.0.0.1"], |_| {}, &pair);
    wait::until(async || ask(&ca.trusted()).await.is_ok()).await;
    assert_eq!(fault(ask(&other.trusted()).await), TlsFault::Issuer);
    let of_issuer = |params: &mut CertificateParams| {
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    };
    ca.issue(&["127.0.0.1"], of_issuer, &pair);
    wait::until(async || {
        let answer = ask(&ca.trusted()).await;
        answer.is_err() && fault(answer) == TlsFault::OfIssuer
    })
    .await;
    // What this host trusts does not include it; or there is nothing.
    Client::new(&daemon.addr).unwrap().healthz().await.unwrap_err();
    daemon.stop(Signal::TERM).await;
    room.close().await;
}

#[tokio::test]
async fn clients_prove_themselves_where_they_are_asked_to() {
    let room = Room::new();
    let (ca, other) = (Ca::new(&room, "ca"), Ca::new(&room, "other"));
    let [pair, good, bad] = ["daemon", "good", "bad"].map(|name| Pair::at(&room, name));
    let of_client = |params: &mut CertificateParams| {
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    };
    ca.issue(&["127.0.0.1"], |_| {}, &pair);
    ca.issue(&["client"], of_client, &good);
    other.issue(&["client"], of_client, &bad);
    let mut command = pair.command(&room);
    command.arg("--tls-client-ca").arg(&ca.cert);
    let daemon = Daemon::spawn(command);
    let with = |pair: Option<&Pair>| {
        let identity = pair.map(|pair| (pair.cert.clone(), pair.key.clone()));
        client(&daemon, &TlsFiles { identity, ..ca.trusted() })
    };
    assert_eq!(fault(with(None).healthz().await), TlsFault::Client);
    assert_eq!(fault(with(Some(&bad)).healthz().await), TlsFault::Client);
    let welcome = with(Some(&good));
    let id = welcome.create(Some("shell")).await.unwrap().id;
    welcome.delete(&id).await.unwrap();
    daemon.stop(Signal::TERM).await;
    room.close().await;
}

#[tokio::test]
async fn plain_http_and_tls_tell_each_other_apart() {
    let room = Room::new();
    let (daemon, ca, _) = secured(&room);
    let plain = Client::new(authority(&daemon)).unwrap();
    let (status, body) = refusal(plain.healthz().await);
    assert_eq!((status, body.code), (400, ErrorCode::InvalidRequest));
    assert!(body.error.contains("takes TLS only") && body.hint.unwrap().contains("https://"));
    let answer = raw::request(authority(&daemon), "POST", "/sandboxes", "{}").await;
    assert_eq!(answer.status, 400);
    assert_eq!(daemon.stop(Signal::TERM).await.matches("answered").count(), 0);
    // The other way round.
    let other = Room::new();
    let daemon = other.start();
    let addr = daemon.addr.replace("http://", "https://");
    let client = Client::new(&addr).unwrap().with_tls(&ca.trusted()).unwrap();
    assert_eq!(fault(client.healthz().await), TlsFault::Plain);
    daemon.stop(Signal::TERM).await;
    other.close().await;
    room.close().await;
}

#[tokio::test]
async fn slow_handshakes_lock_nobody_out_and_are_few_at_once() {
    const SLOW: usize = 1000;
    let room = Room::new();
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).unwrap();
    let (daemon, ca, _) = secured(&room);
    let open = Arc::new(AtomicUsize::new(0));
    let mut held = Vec::new();
    for number in 0..SLOW {
        let mut stream = TcpStream::connect(authority(&daemon)).await.unwrap();
        stream.write_all(&HALF).await.unwrap();
        let open = Arc::clone(&open);
        open.fetch_add(1, Ordering::Relaxed);
        held.push(tokio::spawn(async move {
            // An end or a reset.
            stream.read_to_end(&mut Vec::new()).await.ok();
            open.fetch_sub(1, Ordering::Relaxed);
        }));
        if number % 100 == 0 {
            client(&daemon, &ca.trusted()).healthz().await.unwrap();
        }
    }
    client(&daemon, &ca.trusted()).healthz().await.unwrap();
    wait::until(async || open.load(Ordering::Relaxed) <= 128).await;
    for held in held {
        held.abort();
    }
    daemon.stop(Signal::TERM).await;
    room.close().await;
}

#[tokio::test]
async fn a_certificate_is_replaced_under_load_and_a_bad_one_is_not_used() {
    let room = Room::new();
    let (daemon, ca, pair) = secured(&room);
    let stopping = Arc::new(AtomicBool::new(false));
    let answered = Arc::new(AtomicUsize::new(0));
    // Each keeps one connection, which has begun with the first certificate.
    let load: Vec<_> = (0..4)
        .map(|_| {
            let client = client(&daemon, &ca.trusted());
            let (stopping, answered) = (Arc::clone(&stopping), Arc::clone(&answered));
            tokio::spawn(async move {
                while !stopping.load(Ordering::Relaxed) {
                    client.healthz().await.unwrap();
                    answered.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    let goes_on = async || {
        let before = answered.load(Ordering::Relaxed);
        wait::until(async || answered.load(Ordering::Relaxed) > before + 20).await;
    };
    goes_on().await;
    let mut old = ca;
    for round in 0..3 {
        let new = Ca::new(&room, &format!("ca-{round}"));
        new.issue(&["127.0.0.1"], |_| {}, &pair);
        daemon.signal(Signal::HUP);
        let asks = async || client(&daemon, &new.trusted()).healthz().await.is_ok();
        wait::until(asks).await;
        assert_eq!(fault(client(&daemon, &old.trusted()).healthz().await), TlsFault::Issuer);
        goes_on().await;
        old = new;
    }
    // A pair that does not fit, then none at all.
    let key = fs::read(&pair.key).unwrap();
    fs::write(&pair.key, KeyPair::generate().unwrap().serialize_pem()).unwrap();
    daemon.signal(Signal::HUP);
    goes_on().await;
    client(&daemon, &old.trusted()).healthz().await.unwrap();
    fs::remove_file(&pair.cert).unwrap();
    daemon.signal(Signal::HUP);
    goes_on().await;
    client(&daemon, &old.trusted()).healthz().await.unwrap();
    fs::write(&pair.key, key).unwrap();
    stopping.store(true, Ordering::Relaxed);
    for client in load {
        client.await.unwrap();
    }
    let log = daemon.stop(Signal::TERM).await;
    assert!(log.contains("read the TLS certificate again"), "{log}");
    assert!(log.contains("kept the old TLS certificate, because the new is invalid"), "{log}");
    assert!(log.contains(pair.cert.to_str().unwrap()), "{log}");
    room.close().await;
}

#[test]
fn files_that_cannot_be_used_are_named_at_the_start() {
    let room = Room::new();
    let ca = Ca::new(&room, "ca");
    let [pair, other] = ["daemon", "other"].map(|name| Pair::at(&room, name));
    ca.issue(&["127.0.0.1"], |_| {}, &pair);
    ca.issue(&["127.0.0.1"], |_| {}, &other);
    let refused = |cert: &Path, key: &Path, more: &[&str]| {
        let mut command = room.command();
        command.arg("--tls-cert").arg(cert).arg("--tls-key").arg(key).args(more);
        Room::refused(command)
    };
    let missing = room.path("missing");
    let errors = refused(&pair.cert, &missing, &[]);
    assert!(errors.contains(&format!("cannot read {}", missing.display())), "{errors}");
    assert!(errors.contains("hint: the daemon's user must be able to read"), "{errors}");
    let errors = refused(&pair.key, &pair.key, &[]);
    assert!(errors.contains(&format!("{} has no certificate", pair.key.display())), "{errors}");
    let errors = refused(&pair.cert, &pair.cert, &[]);
    assert!(errors.contains(&format!("{} has no private key", pair.cert.display())), "{errors}");
    let errors = refused(&pair.cert, &other.key, &[]);
    assert!(errors.contains("cannot use the certificate") && errors.contains("hint: "), "{errors}");
    let errors = refused(&pair.cert, &pair.key, &["--tls-client-ca", "/nonexistent/ca"]);
    assert!(errors.contains("cannot read /nonexistent/ca"), "{errors}");
    let mut command = room.command();
    command.arg("--tls-cert").arg(&pair.cert);
    assert!(Room::refused(command).contains("hint: give both --tls-cert and --tls-key"));
    let errors = Room::refused({
        let mut command = room.command_on("unix:/tmp/emberd-test.sock");
        command.arg("--tls-cert").arg(&pair.cert).arg("--tls-key").arg(&pair.key);
        command
    });
    assert!(errors.contains("a Unix socket takes no TLS"), "{errors}");
}
