//! Transfers of real microVMs in which something else happens: the VMM is killed, others are
//! restored, the policy changes. Programs connect by number: the world's name server may be late on
//! a busy machine.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use emberd_api::{EgressLists, EgressPatch, EgressReason, EgressState, EntrySpec, ErrorCode};
use rustix::process::{Pid, Signal, kill_process};
use tokio::net::TcpListener;

use super::world::World;
use super::{allow, create, python};
use crate::e2e::daemon::{is_running, refusal};
use crate::e2e::{Daemon, code, pool};
use crate::transfers::{self, Running, Server, TRANSFER, counted};
use crate::wait;

/// How often a VMM is killed.
const TIMES: usize = 20;

fn serve(world: &World, port: u16) -> Arc<Server> {
    let listener = world.listen(port);
    listener.set_nonblocking(true).unwrap();
    Server::start(TcpListener::from_std(listener).unwrap())
}

/// Creates a sandbox that may reach what `entries` allow, and waits for its session.
async fn create_ready(daemon: &Daemon, entries: &[&str]) -> String {
    let id = create(daemon, "python", allow(entries)).await;
    let state = async || daemon.client.egress(&id).await.unwrap().state;
    wait::until(async || state().await == EgressState::Ready).await;
    id
}

/// Starts a program and does not wait for it.
fn begin(daemon: &Daemon, id: &str, program: &str) -> Running {
    transfers::begin(&daemon.client, id, code(program))
}

#[test]
fn vmms_killed_amid_transfers_leave_nothing() {
    World::tell(async |world| {
        let Some(daemon) = Daemon::instant(&["--pool-size", "off"]) else { return };
        daemon.client.build_template("python").await.unwrap();
        let server = serve(&world, 7778);
        let mut descriptors = None;
        for round in 1..=TIMES {
            let id = create_ready(&daemon, &["45.45.0.1:7778"]).await;
            let program = format!("TO = ('45.45.0.1', 7778)\n{TRANSFER}");
            let mut transfer = begin(&daemon, &id, &program);
            tokio::select! {
                ended = &mut transfer => panic!("{ended:?}"),
                () = counted(&server.under_way, round) => {}
            }
            let sandbox = daemon.client.get(&id).await.unwrap();
            let pid = sandbox.vmm_pid.unwrap();
            kill_process(Pid::from_raw(pid.cast_signed()).unwrap(), Signal::KILL).unwrap();
            assert_eq!(refusal(transfer.await.unwrap()).1.code, ErrorCode::SandboxGone);
            // A reset, not an end: the server does not take a part for the whole.
            counted(&server.reset, round).await;
            daemon.client.delete(&id).await.unwrap();
            wait::until(async || !Path::new(&sandbox.dir).exists() && !is_running(pid)).await;
            if descriptors.is_none() {
                // What is opened once is open after the first.
                pool::at_rest(&daemon).await;
                descriptors = Some(daemon.descriptors());
            }
        }
        pool::at_rest(&daemon).await;
        wait::until(async || daemon.descriptors() <= descriptors.unwrap()).await;
        assert_eq!(server.ended.load(Ordering::Relaxed), 0);
        let id = create_ready(&daemon, &["45.45.0.1:7777"]).await;
        assert_eq!(python(&daemon, &id, "print(echo('45.45.0.1', 7777))").await, "hello\n");
        daemon.stop();
    });
}

/// Two transfers of numbered pieces: one that starts again whenever it is reset, and one of which
/// every piece must come back.
const NUMBERED: &str = r"
import os, socket, threading, time
PIECE = 16384
def stopped():
    return os.path.exists('/tmp/stop')
def carry(port):
    '''Whether all that was sent until the file was there came back.'''
    sent = []
    with socket.create_connection(('45.45.0.1', port)) as s:
        def up():
            number = 0
            try:
                while not stopped():
                    s.sendall(number.to_bytes(PIECE, 'big'))
                    number += 1
                s.shutdown(socket.SHUT_WR)
            except OSError:
                pass
            sent.append(number)
        sending = threading.Thread(target=up)
        sending.start()
        came = 0
        try:
            with s.makefile('rb') as f:
                while piece := f.read(PIECE):
                    if piece != came.to_bytes(PIECE, 'big'):
                        # A reset is an error of only one thread, and an end for the other.
                        raise ConnectionResetError(came)
                    came += 1
        finally:
            sending.join()
        return sent == [came]
def again():
    while not stopped():
        try:
            carry(7778)
        except OSError:
            time.sleep(0.05)
other = threading.Thread(target=again)
other.start()
print(carry(7779))
other.join()";

#[test]
fn policies_that_change_amid_transfers_cut_what_they_do_not_allow() {
    World::tell(async |world| {
        let Some(daemon) = Daemon::instant(&["--pool-size", "off"]) else { return };
        daemon.client.build_template("python").await.unwrap();
        let (cut, kept) = (serve(&world, 7778), serve(&world, 7779));
        let id = create_ready(&daemon, &["45.45.0.1:7778", "45.45.0.1:7779"]).await;
        let mut transfers = begin(&daemon, &id, NUMBERED);
        for server in [&cut, &kept] {
            tokio::select! {
                ended = &mut transfers => panic!("{ended:?}"),
                () = counted(&server.under_way, 1) => {}
            }
        }

        // Restores beside them, of guests with connections of their own.
        for _ in 0..2 {
            let other = create_ready(&daemon, &["45.45.0.1:7777"]).await;
            let told = python(&daemon, &other, "print(echo('45.45.0.1', 7777))").await;
            assert_eq!(told, "hello\n");
            daemon.client.delete(&other).await.unwrap();
        }
        let reset = || cut.reset.load(Ordering::Relaxed) + kept.reset.load(Ordering::Relaxed);
        assert_eq!(reset(), 0);

        let put = daemon.client.set_egress(&id, &allow(&["45.45.0.1:7779"])).await.unwrap();
        assert_eq!(put.reset, Some(1));
        counted(&cut.reset, 1).await;
        let of = |entry: &str| EgressLists {
            allow: vec![EntrySpec::from(entry)],
            ..EgressLists::default()
        };
        let patch = EgressPatch { add: of("45.45.0.1:7778"), ..EgressPatch::default() };
        assert_eq!(daemon.client.patch_egress(&id, &patch).await.unwrap().reset, Some(0));
        counted(&cut.under_way, 2).await;
        let patch = EgressPatch { remove: of("45.45.0.1:7778"), ..EgressPatch::default() };
        assert_eq!(daemon.client.patch_egress(&id, &patch).await.unwrap().reset, Some(1));
        counted(&cut.reset, 2).await;

        let changed = async || {
            let log = daemon.client.egress_log(&id, 0, None, None).await.unwrap().records;
            let changed = log.into_iter().filter(|r| r.reason == Some(EgressReason::PolicyChanged));
            changed.map(|record| (record.host.unwrap(), record.port)).collect::<Vec<_>>()
        };
        // Recorded after it is reset.
        wait::until(async || changed().await.len() == 2).await;
        let expect = ("45.45.0.1".to_owned(), Some(7778));
        assert!(changed().await.iter().all(|cut| *cut == expect));
        // The other has gone on meanwhile, and is whole.
        assert_eq!(daemon.output(&id, "open('/tmp/stop', 'w')").await, "");
        assert_eq!(transfers.await.unwrap().unwrap().stdout, "True\n");
        assert_eq!((reset(), kept.ended.load(Ordering::Relaxed)), (2, 1));
        daemon.stop();
    });
}
