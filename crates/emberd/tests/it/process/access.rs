//! Access as only a process shows it: streams that end with their key, owners that outlive a
//! daemon, users of a Unix socket, addresses that need keys, secrets that are nowhere.

use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::pin::pin;
use std::time::Instant;

use emberd_api::{AccessOverTcp, ErrorCode, ExecBody, PORT_HEADER, ProcessSpec, SANDBOX_HEADER};
use emberd_client::{Client, FileOptions};
use emberd_keys::{KeyRecord, KeysFile, NewKey, Role, create, remove, rotate};
use emberd_proto::ExecSpec;
use emberd_testing::needs;
use futures::future::{BoxFuture, FutureExt as _, join_all};
use rustix::process::{Gid, Signal, Uid, geteuid};
use rustix::thread::{set_thread_gid, set_thread_uid};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use super::{Daemon, Room};
use crate::api::refusal;
use crate::{raw, wait};

impl Room {
    pub fn keys(&self) -> KeysFile {
        KeysFile::new(&self.path("data"))
    }

    /// A new key with `role`, and its secret.
    pub fn key(&self, name: &str, role: Role) -> (KeyRecord, String) {
        let new = NewKey::of_role(name.parse().unwrap(), role);
        let (record, secret) = create(&self.keys(), new).unwrap();
        (record, secret.expose().to_owned())
    }
}

impl Daemon {
    pub fn with(&self, secret: &str) -> Client {
        self.client.clone().with_key(secret).unwrap()
    }
}

fn exec(code: &str) -> ExecBody {
    ExecBody { spec: ExecSpec::new(code), stdin: None, stdin_base64: None }
}

/// A server that reads the head of a request, begins an answer, and sends no more.
async fn begun() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        let mut open = Vec::new();
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let begin = b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc";
            stream.write_all(begin).await.unwrap();
            open.push(stream);
        }
    });
    port
}

/// Begins everything that goes on for as long as its client wants: what is returned ends when each
/// of them has.
async fn streams(
    client: &Client,
    addr: &str,
    secret: &str,
    dir: &Path,
) -> Vec<BoxFuture<'static, ()>> {
    let id = client.create(Some("shell")).await.unwrap().id;
    let spec = ProcessSpec::of_argv(["sleep", "1000"]);
    let process = client.start_process(&id, &spec).await.unwrap();
    let mut attached = client.attach(&id, process.pid, 0).await.unwrap();
    attached.event().await.unwrap();
    let mut events = client.events(&[], None, true).await.unwrap();
    events.next().await.unwrap();
    let mut watch =
        client.file_watch(&id, Path::new("/tmp"), false, &FileOptions::default()).await.unwrap();
    let port = begun().await;
    let mut tunnel = client.connect_port(&id, port).await.unwrap();
    tunnel.read_exact(&mut [0; 20]).await.unwrap();
    let mut logs = client.logs(&id, None, true).await.unwrap();
    let mut proxied = tokio::net::TcpStream::connect(addr).await.unwrap();
    let head = format!(
        "GET / HTTP/1.1\r\nHost: x\r\n{SANDBOX_HEADER}: {id}\r\n{PORT_HEADER}: {port}\r\n\
         X-API-Key: {secret}\r\n\r\n"
    );
    proxied.write_all(head.as_bytes()).await.unwrap();
    proxied.read_exact(&mut [0; 15]).await.unwrap();
    let runs = dir.join(&id);
    let code = format!("echo > '{}'; sleep 1000", runs.display());
    let spec = ExecSpec { timeout_ms: 600_000, ..ExecSpec::new(&*code) };
    let running = ExecBody { spec, stdin: None, stdin_base64: None };
    let runner = client.clone();
    let running = tokio::spawn(async move { refusal(runner.exec(&id, &running).await) });
    wait::until(async || runs.exists()).await;
    vec![
        async move { while let Ok(Some(_)) = attached.event().await {} }.boxed(),
        async move { while let Ok(Some(_)) = events.next().await {} }.boxed(),
        async move { while let Ok(Some(_)) = watch.next().await {} }.boxed(),
        async move { drop(tunnel.read_to_end(&mut Vec::new()).await) }.boxed(),
        async move { while let Ok(Some(_)) = logs.next().await {} }.boxed(),
        async move { drop(proxied.read_to_end(&mut Vec::new()).await) }.boxed(),
        async move {
            let (status, body) = running.await.unwrap();
            assert_eq!((status, body.code), (401, ErrorCode::Unauthenticated));
        }
        .boxed(),
    ]
}

/// Ends a key.
type End<'a> = &'a dyn Fn(&KeyRecord);

#[tokio::test]
async fn everything_of_a_key_ends_with_it_and_nothing_of_another() {
    let room = Room::new();
    let (_, kept) = room.key("kept", Role::User);
    let daemon = room.start();
    let addr = daemon.addr.strip_prefix("http://").unwrap();
    let kept_client = daemon.with(&kept);
    let mut others = pin!(join_all(streams(&kept_client, addr, &kept, &room.path("")).await));
    let endings: [(&str, End<'_>); 3] = [
        ("removed", &|key| drop(remove(&room.keys(), &[key.id.to_string()]).unwrap())),
        ("rotated", &|key| drop(rotate(&room.keys(), key.id.as_str(), None).unwrap())),
        ("limited", &|key| {
            let text = fs::read_to_string(room.keys().path()).unwrap();
            let name = format!("\"name\": \"{}\"", key.name);
            let limited = text.replace(&name, &format!("{name},\n\"expires_at_ms\": 1"));
            fs::write(room.keys().path(), limited).unwrap();
        }),
    ];
    for (name, end) in endings {
        let (key, secret) = room.key(name, Role::User);
        let client = daemon.with(&secret);
        let all = join_all(streams(&client, addr, &secret, &room.path("")).await);
        let began = Instant::now();
        end(&key);
        let ended = async {
            tokio::time::timeout(wait::PATIENCE, all).await.expect("they end");
        };
        tokio::select! {
            () = ended => println!("{name}: {:?}", began.elapsed()),
            _ = &mut others => panic!("those of the other key go on"),
        }
        assert_eq!(refusal(client.list().await).0, 401, "{name}");
    }
    assert_eq!(kept_client.list().await.unwrap().sandboxes.len(), 1);
    daemon.stop(Signal::TERM).await;
    room.close().await;
}

#[tokio::test]
async fn owners_outlive_a_daemon() {
    let room = Room::new();
    let (key, mine) = room.key("mine", Role::User);
    let (_, other) = room.key("other", Role::Operator);
    let daemon = room.keeping();
    let id = daemon.with(&mine).create(Some("shell")).await.unwrap().id;
    daemon.crash().await;
    let next = room.keeping();
    let owner = next.with(&mine).get(&id).await.unwrap().owner;
    assert_eq!(owner, Some(format!("key:{}", key.id)));
    assert_eq!(refusal(next.with(&other).get(&id).await).1.code, ErrorCode::UnknownSandbox);
    assert_eq!(next.with(&other).list().await.unwrap().sandboxes, []);
    next.stop(Signal::TERM).await;
    let last = room.start();
    assert_eq!(refusal(last.with(&other).get(&id).await).0, 404);
    let ran = last.with(&mine).exec(&id, &exec("echo mine")).await.unwrap();
    assert_eq!(ran.stdout, "mine\n");
    last.stop(Signal::TERM).await;
    room.close().await;
}

#[tokio::test]
async fn an_address_for_other_hosts_needs_keys_or_a_word() {
    let room = Room::new();
    // Nothing is accepted on it.
    let errors = Room::refused(room.command_on("0.0.0.0:0"));
    assert!(errors.contains("can be reached from other hosts, and there are no keys"), "{errors}");
    assert!(errors.contains("hint: create a key (emberctl key create NAME)"), "{errors}");
    room.key("ci", Role::User);
    let mut command = room.command();
    command.arg("--insecure-no-auth");
    let daemon = Daemon::spawn(command);
    let access = daemon.client.info().await.unwrap().access;
    assert_eq!((access.tcp, access.keys), (AccessOverTcp::Insecure, 1));
    let log = daemon.stop(Signal::TERM).await;
    assert!(log.contains("--insecure-no-auth: everybody who can connect"), "{log}");
    room.close().await;
}

#[tokio::test]
async fn a_key_of_a_file_is_served_beside_the_others() {
    const SECRET: &str = "emb_static00_0123456789abcdefghijABCDEFGHIJ01";
    let room = Room::new();
    let file = room.path("key");
    let with_file = || {
        let mut command = room.command();
        command.env("EMBERD_KEY_FILE", &file);
        command
    };
    let errors = Room::refused(with_file());
    assert!(errors.contains(&format!("cannot read {}", file.display())), "{errors}");
    fs::write(&file, &SECRET[..44]).unwrap();
    let errors = Room::refused(with_file());
    assert!(errors.contains("does not hold a key") && errors.contains("hint: "), "{errors}");
    assert!(!errors.contains(&SECRET[13..44]), "{errors}");
    fs::write(&file, format!("{SECRET}\n")).unwrap();
    let daemon = Daemon::spawn(with_file());
    assert_eq!(refusal(daemon.client.info().await).0, 401);
    let client = daemon.with(SECRET);
    let access = client.info().await.unwrap().access;
    assert_eq!((access.tcp, access.keys, access.problem), (AccessOverTcp::Key, 1, None));
    let id = client.create(Some("shell")).await.unwrap().id;
    assert_eq!(client.get(&id).await.unwrap().owner.as_deref(), Some("key:static00"));
    // Keys of `emberctl key` come and go beside it.
    let (record, other) = room.key("other", Role::User);
    assert_eq!(refusal(daemon.with(&other).get(&id).await).1.code, ErrorCode::UnknownSandbox);
    remove(&room.keys(), &[record.id.to_string()]).unwrap();
    wait::until(async || daemon.with(&other).list().await.is_err()).await;
    fs::remove_file(room.keys().path()).unwrap();
    client.delete(&id).await.unwrap();
    let wrong = SECRET.replace("01", "02");
    assert_eq!(refusal(daemon.with(&wrong).info().await).0, 401);
    let log = daemon.stop(Signal::TERM).await;
    assert!(!log.contains(&SECRET[13..]), "{log}");
    room.close().await;
}

#[tokio::test]
async fn a_secret_is_nowhere_but_with_its_owner() {
    let room = Room::new();
    let (_, secret) = room.key("ci", Role::Admin);
    let random = &secret[13..];
    let wrong = secret.replace(random, "WrongWrongWrongWrongWrongWrong00");
    let mut command = room.command();
    command.env("RUST_LOG", "trace").env("EMBERD_API_KEY", &secret);
    let daemon = Daemon::spawn(command);
    let addr = daemon.addr.strip_prefix("http://").unwrap().to_owned();
    let id = daemon.with(&secret).create(Some("shell")).await.unwrap().id;
    let seen = daemon.with(&secret).exec(&id, &exec("env")).await.unwrap().stdout;
    assert!(!seen.contains(random), "{seen}");
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port().to_string();
    let mut told = String::new();
    for key in [&secret, &wrong] {
        for field in [format!("X-API-Key: {key}"), format!("Authorization: Bearer {key}")] {
            for path in ["/info", "/metrics", "/sandboxes", "/nothing", "/events?follow=false"] {
                let head = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n{field}\r\n");
                let head = format!("{head}Connection: close\r\n\r\n");
                let answer = raw::send(&addr, head.into_bytes()).await;
                told.extend([answer.head, answer.body]);
            }
            let head = format!("GET / HTTP/1.1\r\nHost: x\r\nX-Other: y\r\n{field}\r\n");
            let named = format!("{SANDBOX_HEADER}: {id}\r\n{PORT_HEADER}: {port}\r\n");
            let bytes = format!("{head}{named}Connection: close\r\n\r\n").into_bytes();
            let serve = async {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut head = vec![0; 4096];
                let length = stream.read(&mut head).await.unwrap();
                stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.unwrap();
                String::from_utf8(head[..length].to_vec()).unwrap()
            };
            let mut serve = pin!(serve);
            tokio::select! {
                answer = raw::send(&addr, bytes.clone()) => told.extend([answer.head, answer.body]),
                head = &mut serve => {
                    assert!(head.contains("x-other: y"), "{head}");
                    told += &head;
                }
            }
        }
    }
    let log = daemon.stop(Signal::TERM).await;
    assert!(log.contains("read the keys") && log.contains("the key is not valid"));
    let journal = room.path("data/audit").read_dir().unwrap();
    let journal = journal.map(|file| fs::read_to_string(file.unwrap().path()).unwrap());
    let journal: String = journal.collect();
    assert!(journal.contains(&format!("key:{}", &secret[4..12])), "{journal}");
    assert!(told.contains("emberd_requests_total"), "{told}");
    for text in [&told, &log, &journal] {
        assert!(!text.contains(random) && !text.contains("WrongWrong"), "{text}");
    }
    room.close().await;
}

/// The status and the body of the answer to a request of user `uid` in group `gid` over the socket
/// at `path`; none if the user cannot connect.
fn as_user(
    path: &Path,
    uid: u32,
    gid: u32,
    method: &str,
    target: &str,
    field: &str,
) -> Option<u16> {
    let head = format!("{method} {target} HTTP/1.1\r\nHost: x\r\n{field}Connection: close\r\n\r\n");
    let path = path.to_owned();
    // The kernel knows the user of a thread by itself.
    let asked = std::thread::spawn(move || {
        set_thread_gid(Gid::from_raw(gid)).unwrap();
        set_thread_uid(Uid::from_raw(uid)).unwrap();
        let mut stream = UnixStream::connect(path).ok()?;
        stream.write_all(head.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer.split(' ').nth(1).unwrap().parse().ok()
    });
    asked.join().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn users_of_a_unix_socket_have_the_role_that_the_operator_gives_them() {
    if !needs(geteuid().is_root(), "not root, who alone can be another user") {
        return;
    }
    let room = Room::new();
    fs::set_permissions(room.path(""), fs::Permissions::from_mode(0o711)).unwrap();
    let socket = room.path("s");
    let file = room.path("emberd.toml");
    let rules = "[[access]]\nuid = 12345\nrole = 'viewer'\n[[access]]\ngid = 777\nrole = 'user'\n";
    fs::write(&file, rules).unwrap();
    let mut command = room.command_on(&format!("unix:{}", socket.display()));
    command.arg("--config").arg(&file);
    let daemon = Daemon::spawn(command);
    let ask = |uid, gid, method, path| as_user(&socket, uid, gid, method, path, "");
    assert_eq!(ask(0, 0, "GET", "/info"), Some(200));
    assert_eq!(ask(0, 0, "POST", "/sandboxes?"), Some(201));
    assert_eq!(ask(12345, 1, "GET", "/sandboxes"), Some(200));
    assert_eq!(ask(12345, 777, "POST", "/sandboxes"), Some(403), "the first rule counts");
    assert_eq!(ask(12346, 777, "POST", "/sandboxes"), Some(201));
    assert_eq!(ask(12346, 777, "POST", "/drain"), Some(403));
    assert_eq!(ask(12347, 1, "GET", "/info"), Some(403));
    assert_eq!(ask(12347, 1, "GET", "/healthz"), Some(200));
    // Each has its own, and the daemon's user all.
    let all = daemon.client.list().await.unwrap().sandboxes;
    let owners: Vec<_> = all.iter().map(|sandbox| sandbox.owner.clone().unwrap()).collect();
    assert_eq!(owners, ["uid:0", "uid:12346"]);
    let path = format!("/sandboxes/{}", all[1].id);
    assert_eq!(ask(12346, 777, "GET", &path), Some(200));
    assert_eq!(ask(12348, 777, "GET", &path), Some(404));
    // A key counts for everybody who has it.
    let (_, secret) = room.key("ci", Role::Admin);
    let field = format!("X-API-Key: {secret}\r\n");
    let ask = |field: &str| as_user(&socket, 12347, 1, "GET", &path, field);
    let mut answer = ask(&field);
    while answer == Some(403) {
        // The daemon has not looked at the file yet.
        answer = ask(&field);
    }
    assert_eq!(answer, Some(200));
    assert_eq!(ask("X-API-Key: emb_x\r\n"), Some(401));
    daemon.stop(Signal::TERM).await;

    let daemon = Daemon::spawn(room.command_on(&format!("unix:{}", socket.display())));
    assert_eq!(as_user(&socket, 12345, 1, "GET", "/info", ""), None, "without rules nobody else");
    daemon.client.info().await.unwrap();
    daemon.stop(Signal::TERM).await;
    room.close().await;
}
