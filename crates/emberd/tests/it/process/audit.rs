//! The audit journal of a real daemon: what is in it and what never is, restarts, and a full disk.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};

use emberd_api::{
    AuditEvent, AuditRecord, ContextSpec, CreateSandbox, ErrorCode, ExecBody, ProcessSpec,
    ReadAudit, UpdateSandbox,
};
use emberd_audit::verify;
use emberd_client::{Client, FileOptions, Upload};
use emberd_keys::{KeysFile, NewKey, Role, create};
use emberd_proto::ExecSpec;
use emberd_testing::{run, with_mounts};
use rustix::process::Signal;

use super::{Daemon, Room};
use crate::api::refusal;
use crate::{raw, wait};

/// In everything that must not be in the journal.
const SECRET: &str = "marked-secret-5b1f";

/// No user, and no mode.
const OPTIONS: FileOptions = FileOptions { user: None, mode: None };

fn dir(room: &Room) -> PathBuf {
    room.path("data/audit")
}

/// Every record of the daemon, once it has those that it is asked for.
async fn records(client: &Client, read: &ReadAudit) -> Vec<AuditRecord> {
    let mut read = read.clone();
    let mut records = Vec::new();
    loop {
        let page = client.audit(&read).await.unwrap();
        records.extend(page.records);
        read.after = page.next;
        if page.is_end {
            return records;
        }
    }
}

/// Waits until the journal has `count` records that are asked for.
async fn counted(client: &Client, read: &ReadAudit, count: usize) -> Vec<AuditRecord> {
    wait::until(async || records(client, read).await.len() >= count).await;
    records(client, read).await
}

fn of(action: &str) -> ReadAudit {
    ReadAudit { action: Some(action.to_owned()), ..ReadAudit::default() }
}

fn of_sandbox(id: &str) -> ReadAudit {
    ReadAudit { sandbox: Some(id.to_owned()), ..ReadAudit::default() }
}

fn body(code: &str) -> ExecBody {
    ExecBody { spec: ExecSpec::new(code), stdin: None, stdin_base64: None }
}

/// Everything in the directory of the journal, as text.
fn text(dir: &Path) -> String {
    let files = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    files.map(|path| fs::read_to_string(path).unwrap()).collect()
}

/// A request for `/info` of a host.
fn get(host: &str) -> Vec<u8> {
    format!("GET /info HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n").into_bytes()
}

/// Does something with a secret in every place that has room for one.
async fn use_secrets(client: &Client) -> String {
    let env = || BTreeMap::from([("SECRET".to_owned(), SECRET.to_owned())]);
    let wanted = CreateSandbox {
        language_pack: Some("shell".to_owned()),
        metadata: BTreeMap::from([(SECRET.to_owned(), SECRET.to_owned())]),
        env: env(),
        ..CreateSandbox::default()
    };
    let id = client.create_with(&wanted).await.unwrap().answer.id;
    let spec = ExecSpec { args: vec![SECRET.to_owned()], env: env(), ..ExecSpec::new(SECRET) };
    let exec = ExecBody { spec, stdin: Some(SECRET.to_owned()), stdin_base64: None };
    client.exec(&id, &exec).await.unwrap();
    let path = format!("/tmp/{SECRET}");
    let path = Path::new(&path);
    client.file_write(&id, path, Upload::bytes(SECRET), &OPTIONS).await.unwrap();
    client.file_stat(&id, path, &OPTIONS).await.unwrap();
    client.file_remove(&id, path, &OPTIONS).await.unwrap();
    let argv = ["cat", SECRET].map(str::to_owned).to_vec();
    let process = ProcessSpec { argv, env: env(), ..ProcessSpec::default() };
    let pid = client.start_process(&id, &process).await.unwrap().pid;
    client.write_stdin(&id, pid, SECRET, true).await.ok();
    let context = ContextSpec { language: Some(SECRET.to_owned()), ..ContextSpec::default() };
    client.open_context(&id, &context).await.unwrap_err();
    let metadata = BTreeMap::from([(SECRET.to_owned(), None)]);
    let change = UpdateSandbox { metadata, ..UpdateSandbox::default() };
    client.update(&id, &change).await.unwrap();
    id
}

#[tokio::test]
async fn what_callers_did_is_recorded_and_what_they_said_is_not() {
    let room = Room::new();
    let daemon = room.start();
    let client = &daemon.client;
    let id = use_secrets(client).await;
    // Plain reads.
    client.list().await.unwrap();
    client.get(&id).await.unwrap();
    client.info().await.unwrap();
    client.healthz().await.unwrap();
    let authority = daemon.addr.strip_prefix("http://").unwrap();
    let list = format!("/sandboxes?metadata=a%3D{SECRET}");
    assert_eq!(raw::request(authority, "GET", &list, "").await.status, 200);
    client.delete(&id).await.unwrap();
    refusal(client.delete(&id).await);
    let expect = [
        ("create_sandbox", Some(201)),
        ("exec_code", Some(200)),
        ("write_file", Some(200)),
        ("stat_file", Some(200)),
        ("delete_file", Some(204)),
        ("start_process", Some(201)),
        ("write_stdin", None),
        ("create_context", Some(404)),
        ("change_sandbox", Some(200)),
        ("delete_sandbox", Some(204)),
        ("delete_sandbox", Some(404)),
    ];
    let records = counted(client, &of_sandbox(&id), expect.len()).await;
    assert_eq!(records.len(), expect.len(), "{records:#?}");
    for (record, (action, status)) in records.iter().zip(expect) {
        assert_eq!(record.action, action);
        assert!(status.is_none() || record.status == status, "{record:?}");
        assert_eq!(record.principal.as_deref(), Some("ip:127.0.0.1"), "{record:?}");
        assert!(record.peer.as_ref().unwrap().starts_with("127.0.0.1:"), "{record:?}");
        assert_eq!(record.request.as_ref().unwrap().len(), 16, "{record:?}");
    }
    assert_eq!(records.last().unwrap().code.as_deref(), Some("unknown_sandbox"));
    daemon.stop(Signal::TERM).await;
    let text = text(&dir(&room));
    assert!(!text.contains(SECRET), "{text}");
    for plain in ["list_sandboxes", "get_sandbox", "get_info", "check_health"] {
        assert!(!text.contains(plain), "{text}");
    }
    let verified = verify(&dir(&room)).unwrap();
    assert!(verified.has_head && verified.lines > 12, "{verified:?}");
    room.close().await;
}

#[tokio::test]
async fn a_chain_goes_on_over_restarts_kills_and_torn_lines() {
    let room = Room::new();
    let mut daemon = room.start();
    let (id, _) = daemon.create().await;
    counted(&daemon.client, &of_sandbox(&id), 1).await;
    daemon.signal(Signal::KILL);
    assert_eq!(daemon.exit_code().await, None);
    let files = fs::read_dir(dir(&room)).unwrap().map(|entry| entry.unwrap().path());
    let mut files = files.filter(|path| path.extension().is_some_and(|end| end == "jsonl"));
    let file = files.next().unwrap();
    OpenOptions::new().append(true).open(&file).unwrap().write_all(b"{\"seq\":9,\"pr").unwrap();
    let daemon = room.start();
    daemon.client.delete(&id).await.unwrap();
    let log = daemon.stop(Signal::TERM).await;
    assert!(log.contains("cut off a torn line of the journal"), "{log}");
    let text = text(&dir(&room));
    let actions: Vec<_> = text
        .lines()
        .filter_map(|line| serde_json::from_str::<AuditRecord>(line).ok())
        // An adopted sandbox has its policy put in force again.
        .filter(|record| !["read_audit", "egress"].contains(&record.action.as_str()))
        .map(|record| record.action)
        .collect();
    let expect = [
        "start_daemon",
        "create_sandbox",
        "mend_journal",
        "start_daemon",
        "delete_sandbox",
        "stop_daemon",
    ];
    assert_eq!(actions, expect);
    verify(&dir(&room)).unwrap();
    room.close().await;
}

#[tokio::test]
async fn a_journal_is_followed_while_it_is_rotated() {
    let room = Room::new();
    let mut command = room.command();
    command.args(["--audit-file-mib", "1"]);
    let daemon = Daemon::spawn(command);
    let client = &daemon.client;
    let mut events = client.follow_audit(&ReadAudit::default()).await.unwrap();
    let sandbox = "sb_000000000000";
    let mut expect = 1;
    let mut seen = 0;
    // More than one file: a line has some 250 bytes.
    while seen < 5000 {
        let asked = (0..50).map(|_| client.delete(sandbox));
        futures::future::join_all(asked).await;
        while seen < expect * 50 {
            let Some(AuditEvent::Record(record)) = events.next().await.unwrap() else {
                panic!("a record");
            };
            seen += usize::from(record.action == "delete_sandbox");
        }
        expect += 1;
    }
    let of_journal = |path: PathBuf| path.extension().is_some_and(|end| end == "jsonl");
    let files = fs::read_dir(dir(&room)).unwrap();
    let files = files.filter(|entry| of_journal(entry.as_ref().unwrap().path())).count();
    assert!(files > 1, "{files}");
    daemon.stop(Signal::TERM).await;
    assert_eq!(events.next().await.unwrap(), None, "the journal ends with the daemon");
    verify(&dir(&room)).unwrap();
    room.close().await;
}

#[tokio::test]
async fn a_caller_that_hangs_up_is_recorded_with_its_key() {
    let room = Room::new();
    let new = NewKey::of_role("ci".parse().unwrap(), Role::Admin);
    let (key, secret) = create(&KeysFile::new(&room.path("data")), new).unwrap();
    let daemon = room.start();
    let client = &daemon.client.clone().with_key(secret.expose()).unwrap();
    let id = client.create(Some("shell")).await.unwrap().id;
    let marker = room.path("started");
    let program = body(&format!("touch {}; sleep 1000", marker.display()));
    {
        let running = client.exec(&id, &program);
        tokio::select! {
            ended = running => panic!("{ended:?}"),
            () = wait::until(async || marker.exists()) => {}
        }
    }
    let records = counted(client, &of("exec_code"), 1).await;
    assert_eq!((records[0].status, records[0].sandbox.as_deref()), (None, Some(id.as_str())));
    assert_eq!(records[0].principal, Some(format!("key:{}", key.id)));
    client.delete(&id).await.unwrap();
    daemon.stop(Signal::TERM).await;
    room.close().await;
}

#[tokio::test]
async fn a_limit_that_was_hit_is_named() {
    let room = Room::new();
    let mut command = room.command();
    command.args(["--max-sandboxes", "1"]);
    let daemon = Daemon::spawn(command);
    let client = &daemon.client;
    let (id, _) = daemon.create().await;
    assert_eq!(refusal(client.create(Some("shell")).await).0, 429);
    let spec = ExecSpec { timeout_ms: 1, ..ExecSpec::new("sleep 1000") };
    let exec = ExecBody { spec, stdin: None, stdin_base64: None };
    assert!(client.exec(&id, &exec).await.unwrap().exit.timed_out);
    let created = counted(client, &of("create_sandbox"), 2).await;
    assert_eq!(created[1].limits, ["max_sandboxes"]);
    assert_eq!(created[1].code.as_deref(), Some("too_many_sandboxes"));
    let executed = counted(client, &of("exec_code"), 1).await;
    assert_eq!(executed[0].limits, ["timeout_ms"]);
    client.delete(&id).await.unwrap();
    daemon.stop(Signal::TERM).await;
    room.close().await;
}

#[tokio::test]
async fn a_flood_of_web_pages_does_not_flood_the_journal() {
    let room = Room::new();
    let daemon = room.start();
    let authority = daemon.addr.strip_prefix("http://").unwrap();
    let mut sent = 0;
    let mut refuse = async || {
        assert_eq!(raw::send(authority, get("x\r\nOrigin: http://page.example")).await.status, 403);
        sent += 1;
        sent
    };
    while refuse().await < 1000 {}
    // What is left out is told with the next that is not, of which there are ten a second.
    let told = |records: &[AuditRecord]| -> u64 {
        records.len() as u64 + records.iter().filter_map(|record| record.left_out).sum::<u64>()
    };
    loop {
        let sent = refuse().await;
        // Written soon, as the queue is short.
        let read = counted(&daemon.client, &of("get_info"), 200).await;
        if told(&read) == sent {
            assert!(read.len() < 900, "{}", read.len());
            assert!(read.iter().all(|record| record.code.as_deref() == Some("foreign_origin")));
            break;
        }
    }
    daemon.stop(Signal::TERM).await;
    room.close().await;
}

#[tokio::test]
async fn a_daemon_without_a_journal_says_so_and_two_do_not_share_one() {
    let room = Room::new();
    let mut command = room.command();
    command.args(["--audit", "off"]);
    let daemon = Daemon::spawn(command);
    let (status, body) = refusal(daemon.client.audit(&ReadAudit::default()).await);
    assert_eq!((status, body.code), (409, ErrorCode::AuditOff));
    assert!(!dir(&room).exists());
    daemon.stop(Signal::TERM).await;
    let daemon = room.start();
    for wrong in ["since=yesterday", "limit=0", "sandbox=x", "action=%ff"] {
        let authority = daemon.addr.strip_prefix("http://").unwrap();
        let answer = raw::request(authority, "GET", &format!("/audit?{wrong}"), "").await;
        assert_eq!(answer.error().code, ErrorCode::InvalidRequest, "{wrong}");
    }
    let errors = Room::refused(room.command());
    assert!(errors.contains("another emberd writes the audit journal in "), "{errors}");
    assert!(errors.contains("hint: stop the other emberd, or choose another"), "{errors}");
    daemon.stop(Signal::TERM).await;
    room.close().await;
}

/// Runs `story` on a thread with mounts of its own. Nothing happens, which is a skip, where that
/// cannot be.
fn tell<F: Future<Output = ()>>(story: impl FnOnce(Room) -> F + Send + 'static) {
    with_mounts(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.unwrap().block_on(async { story(Room::new()).await });
    });
}

/// A daemon whose journal is on a full file system, at `disk`.
fn on_full_disk(room: &Room, disk: &Path, choice: &str) -> Daemon {
    fs::create_dir(disk).unwrap();
    run(&format!("mount -t tmpfs -o size=256k none {}", disk.display()));
    let filled = fs::write(disk.join("rest"), vec![0; 512 << 10]).unwrap_err();
    assert_eq!(filled.kind(), std::io::ErrorKind::StorageFull);
    let mut command = room.command();
    command.args(["--audit", choice]).arg("--audit-dir").arg(disk.join("audit"));
    Daemon::spawn(command)
}

/// The value of a metric.
async fn metric(client: &Client, name: &str) -> u64 {
    let text = client.daemon_metrics().await.unwrap();
    let line = text.lines().find(|line| line.starts_with(&format!("{name} "))).unwrap();
    line.rsplit_once(' ').unwrap().1.parse().unwrap()
}

#[test]
fn requests_go_on_beside_a_full_disk_and_are_recorded_later() {
    tell(async |room| {
        let disk = room.path("disk");
        let daemon = on_full_disk(&room, &disk, "on");
        let client = &daemon.client;
        let (id, _) = daemon.create().await;
        assert_eq!(client.exec(&id, &body("exit 7")).await.unwrap().exit.exit_code, 7);
        wait::until(async || metric(client, "emberd_audit_failing").await == 1).await;
        assert!(metric(client, "emberd_audit_write_failures_total").await > 0);
        assert_eq!(metric(client, "emberd_audit_lines_total").await, 0);
        fs::remove_file(disk.join("rest")).unwrap();
        let records = counted(client, &of_sandbox(&id), 2).await;
        assert_eq!(records[1].action, "exec_code");
        wait::until(async || metric(client, "emberd_audit_failing").await == 0).await;
        assert_eq!(metric(client, "emberd_audit_lost_total").await, 0);
        client.delete(&id).await.unwrap();
        let log = daemon.stop(Signal::TERM).await;
        assert_eq!(log.matches("cannot write the audit journal").count(), 1, "{log}");
        assert_eq!(log.matches("writing the audit journal again").count(), 1, "{log}");
        verify(&disk.join("audit")).unwrap();
        run(&format!("umount {}", disk.display()));
        room.close().await;
    });
}

#[test]
fn a_required_journal_that_takes_nothing_keeps_everything_from_changing() {
    tell(async |room| {
        let disk = room.path("disk");
        let daemon = on_full_disk(&room, &disk, "required");
        let client = &daemon.client;
        // The start of the daemon is the first that it does not take.
        wait::until(async || metric(client, "emberd_audit_failing").await == 1).await;
        let (status, refused) = refusal(client.create(Some("shell")).await);
        assert_eq!((status, refused.code), (503, ErrorCode::AuditFailing));
        assert!(refused.hint.unwrap().contains("free space"));
        let id = "sb_000000000000";
        assert_eq!(refusal(client.exec(id, &body(":")).await).1.code, ErrorCode::AuditFailing);
        assert_eq!(refusal(client.drain().await).1.code, ErrorCode::AuditFailing);
        let authority = daemon.addr.strip_prefix("http://").unwrap();
        let host = format!("80-{}.localhost", id.replace('_', "-"));
        let port = raw::send(authority, get(&host)).await;
        assert_eq!(port.error().code, ErrorCode::AuditFailing);
        // Plain reads, and the journal itself.
        client.healthz().await.unwrap();
        assert_eq!(client.list().await.unwrap().sandboxes, []);
        assert!(client.audit(&ReadAudit::default()).await.unwrap().is_end);
        fs::remove_file(disk.join("rest")).unwrap();
        wait::until(async || metric(client, "emberd_audit_failing").await == 0).await;
        let (id, _) = daemon.create().await;
        client.delete(&id).await.unwrap();
        let refused = ReadAudit::default();
        let records = counted(client, &refused, 1).await;
        let code = |record: &AuditRecord| record.code.as_deref() == Some("audit_failing");
        assert_eq!(records.iter().filter(|record| code(record)).count(), 4, "{records:#?}");
        daemon.stop(Signal::TERM).await;
        verify(&disk.join("audit")).unwrap();
        run(&format!("umount {}", disk.display()));
        room.close().await;
    });
}
