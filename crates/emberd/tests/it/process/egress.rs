//! Network access under faults: agents and daemons that are killed in mid-transfer, floods, a full
//! disk under the operator's log, no descriptors.
//!
//! Guests are agents in network namespaces of their own; so is the machine of the daemon, whose
//! server is this test.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use emberd_api::{
    AuditEgress, CreateSandbox, EgressReason, EgressState, ErrorCode, ExecBody, PolicySpec,
    ReadAudit,
};
use emberd_client::Client;
use emberd_proto::ExecSpec;
use emberd_testing::{run, with_network};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;
use tokio::net::TcpListener;

use super::{Daemon, Room};
use crate::api::refusal;
use crate::lives::Holdings;
use crate::transfers::{self, Running, Server, TRANSFER, counted};
use crate::wait;

/// Address of the server: the machine's own, which its operator permits.
const SERVER: &str = "45.45.9.9";
const PORT: u16 = 7000;

/// How often each fault comes.
const TIMES: usize = 20;

/// Connections of a flood at once.
const FLOOD: usize = 10_000;

/// Time limit of programs, in milliseconds; none is to reach it.
const TIMEOUT_MS: u64 = 300_000;

/// Runs `story` on a thread with a machine of its own. Nothing happens, which is a skip, where
/// that cannot be.
fn tell<F: Future<Output = ()>>(story: impl FnOnce(Bed) -> F + Send + 'static) {
    with_network(move || {
        run("ip link set lo up");
        run(&format!("ip addr add {SERVER}/32 dev lo"));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.unwrap().block_on(async { story(Bed::make().await).await });
    });
}

/// A room for daemons whose guests reach a server.
struct Bed {
    room: Room,
    server: Arc<Server>,
}

impl Bed {
    async fn make() -> Self {
        let room = Room::new();
        room.double.capture();
        let listener = TcpListener::bind((SERVER, PORT)).await.unwrap();
        Self { room, server: Server::start(listener) }
    }

    /// The daemon's command line, under an operator who says `operator` besides.
    fn command(&self, operator: &str) -> Command {
        let file = self.room.path("egress.toml");
        fs::write(&file, format!("private = [\"{SERVER}/32\"]\n{operator}")).unwrap();
        let mut command = self.room.command();
        command.arg("--egress-policy").arg(file);
        command
    }

    fn start(&self) -> Daemon {
        Daemon::spawn(self.command(""))
    }

    /// Stops a daemon in order, and looks for anything left behind.
    async fn close(self, daemon: Daemon) -> String {
        let log = daemon.stop(Signal::TERM).await;
        self.room.close().await;
        log
    }
}

/// Creates a sandbox that may reach the server, with these limits, and waits for its session.
async fn create(client: &Client, limits: serde_json::Value) -> String {
    let allow = [format!("{SERVER}:{PORT}")];
    create_under(client, json!({"allow": allow, "limits": limits})).await
}

/// Creates a sandbox with a policy, and waits for its session.
async fn create_under(client: &Client, policy: serde_json::Value) -> String {
    let egress: PolicySpec = serde_json::from_value(policy).unwrap();
    let language_pack = Some("python".to_owned());
    let wanted = CreateSandbox { language_pack, egress: Some(egress), ..CreateSandbox::default() };
    let id = client.create_with(&wanted).await.unwrap().answer.id;
    let ready = async || client.egress(&id).await.unwrap().state == EgressState::Ready;
    wait::until(ready).await;
    id
}

fn python(program: &str) -> ExecBody {
    let code = format!(
        "import errno, os, select, socket, sys, threading\nTO = ({SERVER:?}, {PORT})\n{program}"
    );
    let spec = ExecSpec { timeout_ms: TIMEOUT_MS, ..ExecSpec::new(code) };
    ExecBody { spec, stdin: None, stdin_base64: None }
}

/// Runs a program, and returns what it prints.
async fn output(client: &Client, id: &str, program: &str) -> String {
    let outcome = client.exec(id, &python(program)).await.unwrap();
    assert_eq!((outcome.exit.exit_code, outcome.stderr.as_str()), (0, ""), "{program}");
    outcome.stdout
}

/// Starts a program and does not wait for it.
fn begin(client: &Client, id: &str, program: &str) -> Running {
    transfers::begin(client, id, python(program))
}

/// A connection from its beginning to its end.
const ONCE: &str = r"
s = socket.create_connection(TO)
s.sendall(b'hello')
s.shutdown(socket.SHUT_WR)
print(s.makefile().read())";

#[test]
fn agents_killed_amid_transfers_leave_nothing() {
    tell(async |bed| {
        let daemon = bed.start();
        let client = &daemon.client;
        daemon.comes_to_rest().await;
        let mut before = None;
        for round in 1..=TIMES {
            let id = create(client, json!({})).await;
            let agent = output(client, &id, "print(os.getppid())").await;
            let agent: i32 = agent.trim().parse().unwrap();
            let transfer = begin(client, &id, TRANSFER);
            counted(&bed.server.under_way, round).await;
            kill_process(Pid::from_raw(agent).unwrap(), Signal::KILL).unwrap();
            // The end of the agent may be seen before that of the whole machine.
            let code = refusal(transfer.await.unwrap()).1.code;
            assert!(matches!(code, ErrorCode::SandboxGone | ErrorCode::GuestFailed), "{code:?}");
            // A reset, not an end: the server does not take a part for the whole.
            counted(&bed.server.reset, round).await;
            client.delete(&id).await.unwrap();
            daemon.comes_to_rest().await;
            wait::until(async || wait::left_in(&bed.room.run_dir()).is_empty()).await;
            // What is opened once is open after the first.
            let holdings = || Holdings::of_process(daemon.process_id(), &bed.room.run_dir());
            let first = before.get_or_insert_with(holdings);
            wait::until(async || holdings().are_within(first)).await;
        }
        assert_eq!(bed.server.ended.load(Ordering::Relaxed), 0);
        let id = create(client, json!({})).await;
        assert_eq!(output(client, &id, ONCE).await, "hello\n");
        bed.close(daemon).await;
    });
}

#[test]
fn daemons_killed_amid_transfers_leave_sandboxes_that_their_successors_connect_again() {
    tell(async |bed| {
        let mut daemon = bed.start();
        let id = create(&daemon.client, json!({})).await;
        for round in 1..=TIMES {
            let transfer = begin(&daemon.client, &id, TRANSFER);
            counted(&bed.server.under_way, round).await;
            daemon.signal(Signal::KILL);
            assert_eq!(daemon.exit_code().await, None);
            transfer.await.unwrap().unwrap_err();
            counted(&bed.server.reset, round).await;
            daemon = bed.start();
            // A program that connects before there is a session waits for it.
            let client = &daemon.client;
            assert_eq!(output(client, &id, ONCE).await, "hello\n");
            assert_eq!(client.egress(&id).await.unwrap().policy.allow.len(), 1);
        }
        // Every transfer was reset, and every other connection came to its end.
        counted(&bed.server.ended, TIMES).await;
        assert_eq!(daemon.client.list().await.unwrap().sandboxes.len(), 1);
        daemon.client.delete(&id).await.unwrap();
        bed.close(daemon).await;
    });
}

/// Opens so many connections at once, and another for each that is reset until the file is there;
/// then prints how many it has opened. In parts, as one process may not have so many.
const FLOODING: &str = r"
def flood(count):
    opened, polled, sockets = 0, select.epoll(), {}
    while opened < count or not os.path.exists(STOP):
        while len(sockets) < count:
            s = socket.socket()
            s.setblocking(False)
            s.connect_ex(TO)
            sockets[s.fileno()] = s
            polled.register(s, select.EPOLLIN)
            opened += 1
        for fd, _ in polled.poll(1):
            polled.unregister(fd)
            sockets.pop(fd).close()
    return opened
parts = []
for _ in range(PARTS):
    r, w = os.pipe()
    if not os.fork():
        os.write(w, str(flood(COUNT // PARTS)).encode())
        os._exit(0)
    os.close(w)
    parts.append(r)
print(sum(int(os.read(r, 100)) for r in parts))";

#[test]
fn ten_thousand_connections_at_once_do_not_keep_the_daemon_from_answering() {
    tell(async |bed| {
        let daemon = bed.start();
        let client = &daemon.client;
        client.healthz().await.unwrap();
        let mut refusals = BTreeSet::new();
        // One that is held by its rate, and one that is held by its connections.
        for limits in [json!({}), json!({"connections": 10, "opens_per_s": 10_000})] {
            let id = create(client, limits).await;
            let stop = bed.room.path(&format!("stop-{id}"));
            let program = format!("COUNT, PARTS, STOP = {FLOOD}, 10, {stop:?}{FLOODING}");
            let mut flood = begin(client, &id, &program);
            let denied = async || client.egress(&id).await.unwrap().totals.denied > 100;
            tokio::select! {
                ended = &mut flood => panic!("{ended:?}"),
                () = wait::until(denied) => {}
            }
            // While it is under way, and it ends only after that.
            for _ in 0..100 {
                client.healthz().await.unwrap();
            }
            let other = create(client, json!({})).await;
            assert_eq!(output(client, &other, ONCE).await, "hello\n");
            assert!(!flood.is_finished(), "{:?}", flood.await);
            fs::write(&stop, "").unwrap();
            let outcome = flood.await.unwrap().unwrap();
            let opened: usize = outcome.stdout.trim().parse().unwrap_or_else(|_| {
                panic!("{outcome:?}");
            });
            assert!(opened >= FLOOD, "{opened}");
            let log = client.egress_log(&id, 0, None, None).await.unwrap();
            refusals.extend(log.records.into_iter().filter_map(|record| record.reason));
            wait::until(async || client.egress(&id).await.unwrap().connections == 0).await;
            client.delete(&id).await.unwrap();
            client.delete(&other).await.unwrap();
        }
        for reason in [EgressReason::RateLimit, EgressReason::ConnectionLimit] {
            assert!(refusals.contains(&reason), "{refusals:?}");
        }
        bed.close(daemon).await;
    });
}

#[test]
fn what_sandboxes_reach_is_in_the_journal_and_the_metrics_whatever_they_list() {
    tell(async |bed| {
        let daemon = bed.start();
        let client = &daemon.client;
        let allow = [format!("{SERVER}:{PORT}")];
        let id = create_under(client, json!({"allow": allow, "log": "off"})).await;
        assert_eq!(output(client, &id, ONCE).await, "hello\n");
        let other = format!("try: socket.create_connection(({SERVER:?}, {}))", PORT + 1);
        output(client, &id, &format!("{other}\nexcept OSError: pass")).await;
        assert_eq!(client.egress_log(&id, 0, None, None).await.unwrap().records, []);
        let read = ReadAudit {
            action: Some("egress".to_owned()),
            sandbox: Some(id.clone()),
            ..ReadAudit::default()
        };
        let recorded = async || -> Vec<AuditEgress> {
            let records = client.audit(&read).await.unwrap().records;
            records.into_iter().filter_map(|record| record.egress).collect()
        };
        wait::until(async || recorded().await.len() >= 2).await;
        let [allowed, denied] = &recorded().await[..] else { panic!("two of them") };
        assert_eq!((allowed.decision.as_str(), allowed.port), ("allowed", Some(PORT)));
        assert_eq!((allowed.sent_bytes, allowed.received_bytes), (5, 5));
        assert_eq!((denied.decision.as_str(), denied.port), ("denied", Some(PORT + 1)));
        assert!(denied.reason.is_some(), "{denied:?}");
        client.delete(&id).await.unwrap();
        // Sandboxes that have ended count on.
        let scraped = client.daemon_metrics().await.unwrap();
        for expect in [
            "allowed_total 1",
            "denied_total{reason=\"port_not_allowed\"} 1",
            "denied_total{reason=\"no_rule\"} 0",
            "failed_total{reason=\"connect_failed\"} 0",
            "sent_bytes_total 5",
            "received_bytes_total 5",
            "connections 0",
            "connections_max 4096",
        ] {
            let expect = format!("\nemberd_egress_{expect}\n");
            assert!(scraped.contains(&expect), "{expect} in {scraped}");
        }
        bed.close(daemon).await;
    });
}

/// A file system at `path`, full.
fn full_disk(path: &Path) {
    fs::create_dir(path).unwrap();
    run(&format!("mount -t tmpfs -o size=256k none {}", path.display()));
    let filled = fs::write(path.join("rest"), vec![0; 512 << 10]).unwrap_err();
    assert_eq!(filled.kind(), std::io::ErrorKind::StorageFull);
}

#[test]
fn a_full_disk_under_the_operators_log_costs_records_and_no_connection() {
    tell(async |bed| {
        let disk = bed.room.path("disk");
        full_disk(&disk);
        let log = disk.join("egress.jsonl");
        let daemon = Daemon::spawn(bed.command(&format!("log = {log:?}")));
        let client = &daemon.client;
        let id = create(client, json!({"opens_per_s": 10_000})).await;
        for _ in 0..TIMES {
            assert_eq!(output(client, &id, ONCE).await, "hello\n");
        }
        let recorded = async |count| {
            let page = client.egress_log(&id, 0, None, None).await.unwrap();
            page.records.len() >= count
        };
        wait::until(async || recorded(TIMES).await).await;
        assert_eq!(fs::metadata(&log).unwrap().len(), 0);
        fs::remove_file(disk.join("rest")).unwrap();
        let written = async || fs::metadata(&log).unwrap().len() > 0;
        // A record that was lost meanwhile is one of those that the gap counts.
        while !written().await {
            assert_eq!(output(client, &id, ONCE).await, "hello\n");
        }
        client.delete(&id).await.unwrap();
        let text = fs::read_to_string(&log).unwrap();
        let mut lines = text.lines().map(|line| serde_json::from_str(line).unwrap());
        let gap: serde_json::Value = lines.next().unwrap();
        let lost = gap["gap"].as_u64().unwrap();
        let kept: Vec<serde_json::Value> = lines.collect();
        // The last ones may have been written when there was room again.
        assert!(lost > 0 && lost + kept.len() as u64 >= TIMES as u64, "{text}");
        assert!(kept.iter().all(|line| line["kind"] == "connection"), "{text}");
        let said = daemon.stop(Signal::TERM).await;
        run(&format!("umount {}", disk.display()));
        assert_eq!(said.matches("losing records").count(), 1, "{said}");
        assert_eq!(said.matches("writing to the egress log again").count(), 1, "{said}");
        bed.room.close().await;
    });
}

#[test]
fn guests_do_not_take_all_descriptors_of_the_daemon() {
    const DESCRIPTORS: u32 = 400;
    tell(async |bed| {
        let command = bed.command("");
        let daemon = Daemon::spawn(super::hostile::with_descriptors(DESCRIPTORS, &command));
        let client = &daemon.client;
        let id = create(client, json!({"connections": 1024, "opens_per_s": 10_000})).await;
        let stop = bed.room.path("stop");
        let held = begin(
            client,
            &id,
            &format!(
                r"
import time
held, refused = [], 0
for _ in range({DESCRIPTORS}):
    s = socket.create_connection(TO)
    try:
        s.sendall(b'x')
        s.recv(1)
        held.append(s)
    except OSError:
        refused += 1
print(len(held), refused, flush=True)
while not os.path.exists({stop:?}):
    time.sleep(0.01)"
            ),
        );
        let full = async || client.egress(&id).await.unwrap().totals.denied > 0;
        wait::until(full).await;
        wait::until(async || {
            let egress = client.egress(&id).await.unwrap();
            egress.totals.opened + egress.totals.denied == u64::from(DESCRIPTORS)
        })
        .await;
        // New connections, sandboxes and guests find descriptors.
        for _ in 0..TIMES {
            Client::new(&daemon.addr).unwrap().healthz().await.unwrap();
        }
        let other = client.create(Some("python")).await.unwrap().id;
        assert_eq!(output(client, &other, "print(1)").await, "1\n");
        fs::write(&stop, "").unwrap();
        let outcome = held.await.unwrap().unwrap();
        let quarter = DESCRIPTORS / 4;
        assert_eq!(outcome.stdout.trim(), format!("{quarter} {}", DESCRIPTORS - quarter));
        let log = client.egress_log(&id, 0, None, None).await.unwrap().records;
        assert!(log.iter().any(|record| record.reason == Some(EgressReason::ConnectionLimit)));
        wait::until(async || client.egress(&id).await.unwrap().connections == 0).await;
        assert_eq!(output(client, &id, ONCE).await, "hello\n");
        let said = bed.close(daemon).await;
        assert!(said.contains("100 connections of sandboxes at once, instead of 4096"), "{said}");
    });
}
