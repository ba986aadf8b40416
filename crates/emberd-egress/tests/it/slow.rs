//! Guests and destinations that take their time, and the limits that end it. The clock is the
//! test's: hours pass at once.

use std::time::Duration;

use emberd_egress::{Decision, SandboxEgress};
use emberd_proto::EgressReason;
use emberd_proto::egress::{EgressAnswer, EgressFamily};
use futures::io::AsyncWriteExt as _;
use serde_json::json;
use tokio::io::AsyncWriteExt as _;
use tokio::time::{Instant, sleep};

use crate::content::naming;
use crate::guest::{Guest, Stream};
use crate::world::{ONE, TWO, World, pass, read_exact, read_to_end, records};

const SECOND: Duration = Duration::from_secs(1);

/// Connections of each kind in the test of many; 200 in all.
const OF_EACH: usize = 50;

fn policy() -> serde_json::Value {
    json!({
        "allow": ["a.example:*", "silent.example:*"],
        "limits": {"connections": 1024, "opens_per_s": 10_000},
    })
}

/// Sends a byte a second until the host resets the stream; returns how long that took.
async fn drip(mut stream: Stream, bytes: &[u8]) -> Duration {
    let begun = Instant::now();
    for byte in bytes {
        let sent = async {
            stream.0.write_all(&[*byte]).await?;
            stream.0.flush().await
        };
        if sent.await.is_err() {
            break;
        }
        sleep(SECOND).await;
    }
    stream.reset().await;
    begun.elapsed()
}

/// A limit is reached in its second: bytes that come meanwhile do not move it.
fn check_limit(took: Duration, limit: u32) {
    let limit = SECOND * limit;
    assert!((limit..=limit + SECOND).contains(&took), "{took:?} of {limit:?}");
}

/// How many records have this reason, merged ones counted.
async fn with_reason(sandbox: &SandboxEgress, reason: EgressReason, count: u32) {
    let counted = || {
        let records = sandbox.log(0, None, usize::MAX).records;
        let with = records.iter().filter(|record| record.reason == Some(reason));
        with.map(|record| record.count).sum::<u32>()
    };
    crate::world::until(|| counted() >= count).await;
    assert_eq!(counted(), count, "{reason}");
}

/// The first bytes of a request, one at a time.
async fn slow_request(guest: &Guest) -> Duration {
    let stream = Stream(guest.stream().await);
    let mut frame = vec![0x0f, 0];
    frame.resize(100, b' ');
    drip(stream, &frame).await
}

async fn slow_hello(guest: &Guest) -> Duration {
    let mut stream = guest.open(ONE, 443, &["a.example"]).await;
    stream.opened().await;
    drip(stream, &naming("a.example")).await
}

async fn slow_head(guest: &Guest) -> Duration {
    let mut stream = guest.open(ONE, 80, &["a.example"]).await;
    stream.opened().await;
    let head = format!("GET / HTTP/1.1\r\nHost: a.example\r\nX: {}", "x".repeat(100));
    drip(stream, head.as_bytes()).await
}

/// A connection to servers that do not answer.
async fn slow_dial(guest: &Guest) -> Duration {
    let begun = Instant::now();
    let mut stream = guest.open(TWO, 7000, &["silent.example"]).await;
    let reason = EgressReason::ConnectFailed;
    assert_eq!(stream.answer().await, EgressAnswer::Refused { reason });
    begun.elapsed()
}

#[tokio::test(start_paused = true)]
async fn two_hundred_slow_connections_end_in_time_and_delay_nobody() {
    let world = World::here();
    world.name("a.example", &[ONE]);
    world.name("silent.example", &[TWO]);
    world.silence(TWO, 7000);
    let (sandbox, guest) = world.guest(policy());
    let guest = std::sync::Arc::new(guest);
    let mut slow = tokio::task::JoinSet::new();
    for _ in 0..OF_EACH {
        for kind in 0..4 {
            let guest = std::sync::Arc::clone(&guest);
            slow.spawn(async move {
                match kind {
                    0 => (slow_request(&guest).await, 10),
                    1 => (slow_hello(&guest).await, 10),
                    2 => (slow_head(&guest).await, 30),
                    _ => (slow_dial(&guest).await, 10),
                }
            });
        }
    }
    crate::world::until(|| sandbox.connections() == 3 * OF_EACH).await;
    let begun = Instant::now();
    // Neither of the same guest nor of another is anything held up.
    let (other, others) = world.guest(policy());
    for guest in [&*guest, &others] {
        let answer = guest.resolve("a.example", EgressFamily::V4).await;
        assert!(matches!(answer, EgressAnswer::Resolved { .. }), "{answer:?}");
        let mut denied = guest.open(ONE, 22, &["b.example"]).await;
        let reason = EgressReason::NoRule;
        assert_eq!(denied.answer().await, EgressAnswer::Refused { reason });
    }
    assert!(begun.elapsed() < SECOND, "{:?}", begun.elapsed());
    while let Some(ended) = slow.join_next().await {
        let (took, limit) = ended.unwrap();
        check_limit(took, limit);
    }
    let count = u32::try_from(OF_EACH).unwrap();
    for reason in [EgressReason::NotTls, EgressReason::NotHttp, EgressReason::ConnectFailed] {
        with_reason(&sandbox, reason, count).await;
    }
    // Of a stream that asks for nothing there is nothing to tell.
    with_reason(&other, EgressReason::NoRule, 1).await;
    assert_eq!((sandbox.connections(), sandbox.totals().opened), (0, 0));
    assert_eq!(sandbox.totals().failed, OF_EACH as u64);
}

#[tokio::test(start_paused = true)]
async fn a_dial_tries_some_addresses_and_then_gives_up() {
    let world = World::here();
    let six = (1..=6).map(|n| [151, 101, 7, n].into()).collect::<Vec<_>>();
    world.name("silent.example", &six);
    for address in &six {
        world.silence(*address, 443);
    }
    let (sandbox, guest) = world.guest(policy());
    let mut stream = guest.open(six[0], 443, &["silent.example"]).await;
    stream.opened().await;
    let begun = Instant::now();
    stream.send(&naming("silent.example")).await;
    stream.reset().await;
    check_limit(begun.elapsed(), 10);
    let tried: Vec<_> = six[..4].iter().map(|address| (*address, 443).into()).collect();
    assert_eq!(*world.names.dialled.lock(), tried);
    let record = &records(&sandbox, 1).await[0];
    assert_eq!(record.reason, Some(EgressReason::ConnectFailed));
    assert_eq!(
        (record.decision, record.sni.as_deref()),
        (Decision::Failed, Some("silent.example"))
    );
}

#[tokio::test(start_paused = true)]
async fn a_guest_that_takes_no_answer_is_reset() {
    let world = World::here();
    let (sandbox, guest) = world.guest(policy());
    // An answer in words, to a guest that goes on sending.
    let mut stream = guest.open(ONE, 80, &["b.example"]).await;
    stream.opened().await;
    stream.send(b"POST / HTTP/1.1\r\nHost: b.example\r\nContent-Length: 9999\r\n\r\n").await;
    assert!(stream.rest().await.starts_with(b"HTTP/1.1 403 "));
    // Who is told of the refusal finds it in the log.
    assert_eq!(sandbox.totals().denied, 1);
    for (after, connections) in [(9, 1), (2, 0)] {
        sleep(SECOND * after).await;
        assert_eq!(sandbox.connections(), connections);
    }
    assert!(stream.0.is_closed());
    with_reason(&sandbox, EgressReason::NoRule, 1).await;
}

/// A connection over which a byte has gone either way, and its server's end.
async fn established() -> (World, SandboxEgress, Guest, Stream, tokio::net::TcpStream) {
    let world = World::here();
    world.name("a.example", &[ONE]);
    let mut server = world.server(ONE, 7000).await;
    let (sandbox, guest) = world.guest(policy());
    let mut stream = guest.open(ONE, 7000, &["a.example"]).await;
    stream.opened().await;
    stream.send(b"x").await;
    let mut upstream = server.accept().await;
    assert_eq!(read_exact(&mut upstream, 1).await, b"x");
    upstream.write_all(b"y").await.unwrap();
    assert_eq!(stream.read_exact(1).await, b"y");
    (world, sandbox, guest, stream, upstream)
}

async fn check_reset(mut stream: Stream, mut upstream: tokio::net::TcpStream, of: &SandboxEgress) {
    stream.reset().await;
    let error = read_to_end(&mut upstream).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    // What was carried was allowed.
    let record = &records(of, 1).await[0];
    assert_eq!((record.decision, record.reason), (Decision::Allowed, None));
    assert_eq!(of.connections(), 0);
}

#[tokio::test]
async fn an_idle_connection_is_reset_after_an_hour() {
    const ALMOST_AN_HOUR: Duration = Duration::from_secs(3599);
    let (_world, sandbox, _guest, mut stream, mut upstream) = established().await;
    // A byte in time keeps it.
    for byte in [b"1", b"2"] {
        pass(ALMOST_AN_HOUR).await;
        stream.send(byte).await;
        assert_eq!(read_exact(&mut upstream, 1).await, byte);
    }
    pass(ALMOST_AN_HOUR).await;
    assert_eq!(sandbox.connections(), 1);
    pass(2 * SECOND).await;
    check_reset(stream, upstream, &sandbox).await;
}

#[tokio::test]
async fn one_direction_is_idle_for_ten_minutes_after_the_others_end() {
    const ALMOST_TEN_MINUTES: Duration = Duration::from_secs(599);
    for guest_ends in [true, false] {
        let (_world, sandbox, _guest, mut stream, mut upstream) = established().await;
        if guest_ends {
            stream.finish().await;
            assert_eq!(read_to_end(&mut upstream).await.unwrap(), b"");
        } else {
            upstream.shutdown().await.unwrap();
            assert_eq!(stream.rest().await, b"");
        }
        // The other direction goes on.
        for byte in [b"1", b"2"] {
            pass(ALMOST_TEN_MINUTES).await;
            if guest_ends {
                upstream.write_all(byte).await.unwrap();
                assert_eq!(stream.read_exact(1).await, byte);
            } else {
                stream.send(byte).await;
                assert_eq!(read_exact(&mut upstream, 1).await, byte);
            }
        }
        pass(ALMOST_TEN_MINUTES).await;
        assert_eq!(sandbox.connections(), 1);
        pass(2 * SECOND).await;
        crate::world::until(|| sandbox.connections() == 0).await;
        // A server that has seen the guest's end reads that for good, but cannot write any more.
        let error = if guest_ends {
            loop {
                if let Err(error) = upstream.write_all(b"x").await {
                    break error;
                }
            }
        } else {
            read_to_end(&mut upstream).await.unwrap_err()
        };
        let kinds = [std::io::ErrorKind::ConnectionReset, std::io::ErrorKind::BrokenPipe];
        assert!(kinds.contains(&error.kind()), "{error:?}");
        let record = &records(&sandbox, 1).await[0];
        assert_eq!((record.decision, record.reason), (Decision::Allowed, None));
    }
}
