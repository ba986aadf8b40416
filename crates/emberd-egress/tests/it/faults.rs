//! Destinations and lookups that fail: the guest is told, others go on, and nothing is left.

use std::net::IpAddr;
use std::time::Duration;

use emberd_proto::EgressReason;
use emberd_proto::egress::{EgressAnswer, EgressFamily};
use futures::io::AsyncWriteExt as _;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::guest::{Guest, Stream};
use crate::world::{
    ONE, TWO, WAIT_MAX, World, compile, pass, read_exact, read_to_end, records, until,
};

/// How often each fault comes.
const TIMES: usize = 20;

/// More than all buffers on the way hold.
const MUCH: usize = 16 << 20;

fn policy() -> serde_json::Value {
    let limits = json!({"connections": 1024, "opens_per_s": 10_000});
    json!({"allow": ["*.example:*"], "limits": limits})
}

/// An end of a server's connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    Reset,
    End,
    EndOfWriting,
    Stall,
}

/// A guest that sends without end.
fn pour(stream: Stream) -> tokio::task::JoinHandle<()> {
    let (mut reader, mut writer) = futures::io::AsyncReadExt::split(stream.0);
    tokio::spawn(async move {
        let piece = vec![7; 64 << 10];
        while writer.write_all(&piece).await.is_ok() {}
        let mut rest = Vec::new();
        futures::io::AsyncReadExt::read_to_end(&mut reader, &mut rest).await.ok();
    })
}

/// Has a server fail in mid-transfer, and checks that the guest's end of the connection ends.
async fn inflict(fault: Fault, stream: Stream, mut upstream: TcpStream) {
    let pouring = pour(stream);
    read_exact(&mut upstream, 1 << 20).await;
    match fault {
        Fault::Reset => {
            upstream.set_zero_linger().unwrap();
            drop(upstream);
        }
        // With bytes unread.
        Fault::End => drop(upstream),
        Fault::EndOfWriting => {
            upstream.shutdown().await.unwrap();
            // The guest goes on sending.
            read_exact(&mut upstream, 1 << 20).await;
            drop(upstream);
        }
        Fault::Stall => {
            // Nothing is read until the guest cannot send any more.
            pouring.abort();
            pouring.await.ok();
            let mut rest = Vec::new();
            let read = timeout(WAIT_MAX, upstream.read_to_end(&mut rest)).await.unwrap();
            assert_eq!(read.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
            return;
        }
    }
    timeout(WAIT_MAX, pouring).await.unwrap().unwrap();
}

#[tokio::test]
async fn servers_that_fail_amid_transfers_end_their_connection_alone() {
    let world = World::new();
    world.name("a.example", &[ONE]);
    world.name("b.example", &[TWO]);
    let mut server = world.server(ONE, 7000).await;
    world.server(TWO, 7000).await.echo();
    let (sandbox, guest) = world.guest(policy());
    let mut kept = guest.open(TWO, 7000, &["b.example"]).await;
    kept.opened().await;
    for fault in [Fault::Reset, Fault::End, Fault::EndOfWriting, Fault::Stall] {
        for _ in 0..TIMES {
            let mut stream = guest.open(ONE, 7000, &["a.example"]).await;
            stream.opened().await;
            inflict(fault, stream, server.accept().await).await;
            kept.send(b"x").await;
            assert_eq!(kept.read_exact(1).await, b"x");
        }
        until(|| sandbox.connections() == 1).await;
    }
    assert_eq!(sandbox.totals().opened, 1 + 4 * TIMES as u64);
    drop(kept);
    until(|| sandbox.connections() == 0).await;
}

#[tokio::test]
async fn a_server_that_reads_nothing_stops_its_own_connection() {
    let world = World::new();
    world.name("a.example", &[ONE]);
    let mut server = world.server(ONE, 7000).await;
    let (sandbox, guest) = world.guest(policy());
    let mut stream = guest.open(ONE, 7000, &["a.example"]).await;
    stream.opened().await;
    let mut stalled = server.accept().await;
    let writing = tokio::spawn(async move {
        stream.0.write_all(&vec![7; MUCH]).await.unwrap();
        stream.finish().await;
        stream
    });
    // Others go on, in both directions, while it waits.
    let mut other = guest.open(ONE, 7000, &["a.example"]).await;
    other.opened().await;
    let mut second = server.accept().await;
    for _ in 0..TIMES {
        other.send(b"x").await;
        assert_eq!(read_exact(&mut second, 1).await, b"x");
        second.write_all(b"y").await.unwrap();
        assert_eq!(other.read_exact(1).await, b"y");
    }
    assert!(!writing.is_finished());
    // When it reads, it gets everything.
    assert_eq!(read_to_end(&mut stalled).await.unwrap().len(), MUCH);
    drop(stalled);
    assert_eq!(writing.await.unwrap().rest().await, b"");
    drop(other);
    until(|| sandbox.connections() == 0).await;
}

#[tokio::test]
async fn what_was_sent_before_an_end_in_order_arrives_after_it() {
    const BYTES: usize = 200_000;
    let world = World::new();
    world.name("a.example", &[ONE]);
    let mut server = world.server(ONE, 7000).await;
    let (sandbox, guest) = world.guest(policy());
    for _ in 0..TIMES {
        let mut stream = guest.open(ONE, 7000, &["a.example"]).await;
        stream.opened().await;
        let mut upstream = server.accept().await;
        // The server has ended its direction, and reads only when the connection has ended here.
        upstream.shutdown().await.unwrap();
        assert_eq!(stream.rest().await, b"");
        stream.0.write_all(&vec![7; BYTES]).await.unwrap();
        stream.finish().await;
        until(|| sandbox.connections() == 0).await;
        assert_eq!(read_to_end(&mut upstream).await.unwrap().len(), BYTES);
    }
}

#[tokio::test]
async fn the_end_of_the_threads_resets_what_they_carried() {
    let world = World::new();
    world.name("a.example", &[ONE]);
    let mut server = world.server(ONE, 7000).await;
    let (_sandbox, guest) = world.guest(policy());
    let mut stream = guest.open(ONE, 7000, &["a.example"]).await;
    stream.send(b"part").await;
    stream.opened().await;
    let mut upstream = server.accept().await;
    assert_eq!(read_exact(&mut upstream, 4).await, b"part");
    // As when the daemon is killed: no code runs that could end the connection.
    drop(world);
    let error = read_to_end(&mut upstream).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn name_servers_that_are_silent_hold_up_one_sandbox_and_only_for_some_seconds() {
    const MANY: usize = 40;
    let world = World::here();
    world.name("good.example", &[ONE]);
    world.server(ONE, 7000).await.echo();
    let names = std::sync::Arc::clone(&world.names);
    world.stick(true);
    let (sandbox, guest) = world.guest(policy());
    let (_other, others) = world.guest(policy());
    let mut waiting = Vec::new();
    for number in 0..MANY {
        let name = format!("stuck{number}.example");
        waiting.push(guest.open(TWO, 7000, &[&name]).await);
    }
    // Its part of the host's resolver, and no more.
    until(|| names.looked_up.lock().len() == 8).await;
    until(|| sandbox.connections() == MANY).await;
    let mut stream = others.open(ONE, 7000, &["good.example"]).await;
    stream.opened().await;
    // What another has looked up needs no place.
    let known = guest.resolve("good.example", EgressFamily::V4).await;
    assert!(matches!(known, EgressAnswer::Resolved { .. }), "{known:?}");
    pass(Duration::from_secs(6)).await;
    let reason = EgressReason::LookupFailed;
    for mut stream in waiting {
        assert_eq!(stream.answer().await, EgressAnswer::Refused { reason });
    }
    assert_eq!((names.looked_up.lock().len(), sandbox.connections()), (9, 0));
    // Threads that do not return are held as long as they do not.
    let mut more = guest.open(TWO, 7000, &["stuck.example"]).await;
    until(|| sandbox.connections() == 1).await;
    assert_eq!(names.looked_up.lock().len(), 9);
    world.stick(false);
    let reason = EgressReason::NoSuchName;
    assert_eq!(more.answer().await, EgressAnswer::Refused { reason });
    assert_eq!(sandbox.totals().failed, MANY as u64 + 1);
}

#[tokio::test]
async fn an_answer_of_thousands_of_addresses_is_cut() {
    let world = World::new();
    let many: Vec<IpAddr> =
        (0..4096_u16).map(|n| IpAddr::from([0x2606, 0x4700, 0, 0, 0, 0, 0, n])).collect();
    world.name("many.example", &many);
    let (_sandbox, guest) = world.guest(policy());
    let answer = guest.resolve("many.example", EgressFamily::V6).await;
    let EgressAnswer::Resolved { addresses, .. } = answer else { panic!("{answer:?}") };
    assert_eq!(addresses, many[..16]);
}

#[tokio::test]
async fn policies_narrowed_amid_a_transfer_hold_for_the_next_request() {
    let world = World::new();
    world.name("a.example", &[ONE]);
    let mut server = world.server(ONE, 80).await;
    let entry = |methods: &[&str]| json!({"allow": [{"host": "a.example", "ports": "80", "methods": methods}]});
    let sandbox = world.egress.sandbox(&compile(entry(&["GET", "POST"])));
    let guest = Guest::of(&sandbox);
    let mut stream = guest.open(ONE, 80, &["a.example"]).await;
    stream.opened().await;
    let request = |method: &str| format!("{method} / HTTP/1.1\r\nHost: a.example\r\n\r\n");
    stream.send(request("POST").as_bytes()).await;
    let mut upstream = server.accept().await;
    read_exact(&mut upstream, request("POST").len()).await;
    // The connection is allowed still.
    assert_eq!(sandbox.replace(compile(entry(&["GET"]))), 0);
    stream.send(request("GET").as_bytes()).await;
    read_exact(&mut upstream, request("GET").len()).await;
    stream.send(request("POST").as_bytes()).await;
    stream.reset().await;
    assert!(read_to_end(&mut upstream).await.is_err());
    let all = records(&sandbox, 5).await;
    assert!(all.iter().any(|record| record.reason == Some(EgressReason::MethodNotAllowed)));
}

#[tokio::test]
async fn a_policy_that_changes_before_the_dial_is_the_one_that_holds() {
    let world = World::new();
    world.name("a.example", &[ONE]);
    let mut server = world.server(ONE, 443).await;
    let sandbox = world.egress.sandbox(&compile(json!({"allow": ["a.example"]})));
    let guest = Guest::of(&sandbox);
    let hello = crate::content::naming("a.example");
    let mut stream = guest.open(ONE, 443, &["a.example"]).await;
    stream.opened().await;
    stream.send(&hello[..10]).await;
    sandbox.replace(compile(json!({"deny": ["a.example"]})));
    stream.send(&hello[10..]).await;
    stream.reset().await;
    assert!(server.is_untouched() && world.names.looked_up.lock().is_empty());
    let all = records(&sandbox, 2).await;
    assert!(all.iter().any(|record| record.reason == Some(EgressReason::DeniedByRule)));
}
