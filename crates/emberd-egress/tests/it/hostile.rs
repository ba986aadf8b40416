//! Guests that speak the mux themselves and keep to no rule of the agent.

use std::time::Duration;

use emberd_proto::EgressReason;
use emberd_proto::egress::{EgressAnswer, EgressRequest, decode_frame, encode_frame};
use futures::io::{AsyncReadExt as _, AsyncWriteExt as _};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::timeout;

use crate::guest::Guest;
use crate::world::{ONE, WAIT_MAX, World, compile, read_exact, records, until};

#[tokio::test]
async fn claims_are_only_claims() {
    let world = World::new();
    world.name("a.example", &[ONE]);
    let (sandbox, guest) = world.guest(json!({"allow": ["a.example"]}));
    // More names than a request may claim; the allowed one is behind them.
    let many: Vec<_> = (0..20).map(|number| format!("x{number}.example")).collect();
    let mut claims: Vec<_> = many.iter().map(String::as_str).collect();
    claims.push("a.example");
    let mut stream = guest.open(ONE, 8080, &claims).await;
    let refused = EgressAnswer::Refused { reason: EgressReason::NoRule };
    assert_eq!(stream.answer().await, refused);
    let no_names = ["\0", "a.example\0", "*.example", "*", "127.0.0.1", ""];
    let mut stream = guest.open(ONE, 8080, &no_names).await;
    assert_eq!(stream.answer().await, refused);
    assert!(world.names.dialled.lock().is_empty() && world.names.looked_up.lock().is_empty());
    until(|| sandbox.totals().denied == 2).await;
}

#[tokio::test]
async fn requests_that_are_none_are_reset() {
    let world = World::new();
    let (sandbox, guest) = world.guest(json!({}));
    for bytes in [
        &b"\xff\xff"[..],
        b"\x00\x00",
        b"\x00\x05hello",
        b"\x00\x02{}",
        &[&[0x10, 0][..], &[b' '; 4096]].concat(),
    ] {
        let mut stream = guest.stream().await;
        stream.write_all(bytes).await.unwrap();
        let mut rest = Vec::new();
        timeout(WAIT_MAX, stream.read_to_end(&mut rest)).await.unwrap().unwrap();
        assert!(rest.is_empty() && stream.is_closed(), "{bytes:?}");
    }
    let mut newer = guest.stream().await;
    newer.write_all(b"\x00\x0f{\"op\":\"dance\"}").await.unwrap();
    newer.close().await.unwrap();
    assert_eq!(sandbox.log(0, None, 10).records, []);
}

#[tokio::test]
async fn ten_thousand_connections_in_sequence_leave_nothing() {
    let world = World::new();
    world.name("a.example", &[ONE]);
    world.server(ONE, 7000).await.echo();
    let policy = json!({"allow": ["a.example:7000"], "limits": {"opens_per_s": 10_000}});
    let (sandbox, guest) = world.guest(policy);
    let mut made = 0;
    for _ in 0..10_000 {
        let mut stream = guest.open(ONE, 7000, &["a.example"]).await;
        if stream.answer().await == EgressAnswer::Opened {
            stream.send(b"x").await;
            stream.finish().await;
            made += 1;
        }
    }
    assert_eq!(made, 10_000);
    until(|| sandbox.connections() == 0).await;
    assert_eq!(sandbox.totals().opened, 10_000);
}

#[tokio::test]
async fn a_flood_of_opens_is_refused_and_does_not_delay_other_sandboxes() {
    let world = World::new();
    world.name("a.example", &[ONE]);
    world.server(ONE, 7000).await.echo();
    let (flooding, guest) = world.guest(json!({"allow": ["a.example:7000"]}));
    let flood = tokio::spawn(async move {
        let mut held = Vec::new();
        for _ in 0..1000 {
            held.push(guest.open(ONE, 7000, &["a.example"]).await);
        }
        held
    });
    let (_calm, guest) = world.guest(json!({"allow": ["a.example:7000"]}));
    let mut stream = guest.open(ONE, 7000, &["a.example"]).await;
    stream.opened().await;
    for _ in 0..100 {
        stream.send(b"x").await;
        assert_eq!(stream.read_exact(1).await, b"x");
    }
    let held = flood.await.unwrap();
    assert!(flooding.connections() <= 256);
    let totals = flooding.totals();
    assert!(totals.denied > 0 && totals.opened < 1000, "{totals:?}");
    drop(held);
}

/// A frame of yamux that begins a stream with a request.
fn first_frame(id: u32, request: &EgressRequest) -> Vec<u8> {
    let request = encode_frame(request).unwrap();
    let length = u32::try_from(request.len()).unwrap();
    // Version 0, data, the flag of a new stream.
    [&[0, 0, 0, 1], &id.to_be_bytes()[..], &length.to_be_bytes(), &request].concat()
}

#[tokio::test]
async fn ten_thousand_streams_at_once_are_answered_or_reset() {
    const STREAMS: u32 = 10_000;
    /// Flags of the host's frames, in yamux' header.
    const FIN_OR_RST: u16 = 4 | 8;
    let world = World::new();
    world.name("a.example", &[ONE]);
    world.server(ONE, 7000).await.echo();
    let policy = json!({"allow": ["a.example:7000"], "limits": {"connections": 16}});
    let sandbox = world.sandbox(policy.clone());
    let (near, far) = tokio::io::duplex(64 << 10);
    let serving = tokio::spawn({
        let sandbox = sandbox.clone();
        async move { sandbox.serve(near).await }
    });
    let (mut reader, mut writer) = tokio::io::split(far);
    let names = vec!["a.example".to_owned()];
    let request = EgressRequest::Open { address: ONE, port: 7000, names };
    let writing = tokio::spawn(async move {
        for number in 0..STREAMS {
            writer.write_all(&first_frame(2 * number + 1, &request)).await.unwrap();
        }
        writer
    });
    // Each ends, but those that are open.
    let mut ended = std::collections::HashSet::new();
    let mut opened = 0;
    while ended.len() + opened < STREAMS as usize {
        let mut header = [0; 12];
        timeout(WAIT_MAX, reader.read_exact(&mut header)).await.unwrap().unwrap();
        let [_, kind, f0, f1, i0, i1, i2, i3, l0, l1, l2, l3] = header;
        if u16::from_be_bytes([f0, f1]) & FIN_OR_RST != 0 {
            // An end in order may be followed by a reset.
            ended.insert([i0, i1, i2, i3]);
        }
        if kind == 0 {
            let mut answer = vec![0; u32::from_be_bytes([l0, l1, l2, l3]) as usize];
            reader.read_exact(&mut answer).await.unwrap();
            opened += usize::from(decode_frame(&answer[2..]).ok() == Some(EgressAnswer::Opened));
        }
    }
    // Those who are many are refused for either limit, and have at most what they may.
    assert_eq!((opened, sandbox.connections()), (16, 16));
    let records = records(&sandbox, 2).await;
    let refused = |reason| records.iter().any(|record| record.reason == Some(reason));
    assert!(refused(EgressReason::ConnectionLimit) && refused(EgressReason::RateLimit));
    // Another sandbox is served as if nothing was.
    let (_calm, guest) = world.guest(policy);
    let mut stream = guest.open(ONE, 7000, &["a.example"]).await;
    stream.opened().await;
    drop((reader, writing.await.unwrap()));
    serving.await.unwrap().ok();
    until(|| sandbox.connections() == 0).await;
}

#[tokio::test]
async fn a_guest_that_reads_nothing_stops_its_own_connection() {
    let world = World::new();
    world.name("a.example", &[ONE]);
    let mut server = world.server(ONE, 7000).await;
    let (sandbox, guest) = world.guest(json!({"allow": ["a.example:7000"]}));
    let mut stream = guest.open(ONE, 7000, &["a.example"]).await;
    stream.opened().await;
    let mut upstream = server.accept().await;
    let written = async {
        let piece = vec![0; 64 << 10];
        let mut written = 0_u64;
        // Until the window, the host's buffers and the socket's are full.
        while let Ok(result) = timeout(Duration::from_millis(500), upstream.write(&piece)).await {
            written += result.unwrap() as u64;
        }
        written
    };
    let written = written.await;
    assert!(written < 64 << 20, "{written}");
    // Another connection of the same session goes on.
    let mut other = guest.open(ONE, 7000, &["a.example"]).await;
    other.opened().await;
    let mut second = server.accept().await;
    other.send(b"x").await;
    assert_eq!(read_exact(&mut second, 1).await, b"x");
    assert!(sandbox.totals().received_bytes <= written);
}

#[tokio::test]
async fn resets_in_the_middle_of_everything_leave_nothing() {
    let world = World::new();
    world.name("a.example", &[ONE]);
    world.server(ONE, 7000).await.echo();
    let policy = json!({"allow": ["a.example:7000"], "limits": {"opens_per_s": 10_000}});
    let (sandbox, guest) = world.guest(policy);
    for number in 0..500_usize {
        let mut stream = guest.open(ONE, 7000, &["a.example"]).await;
        if number % 3 > 0 {
            stream.opened().await;
        }
        if number % 3 > 1 {
            stream.send(&vec![0; number * 100]).await;
        }
    }
    until(|| sandbox.connections() == 0).await;
}

#[tokio::test]
async fn policies_changed_amid_transfers_leave_no_connection_that_none_allows() {
    let world = World::new();
    world.name("a.example", &[ONE]);
    world.server(ONE, 7000).await.echo();
    let policy =
        || compile(json!({"allow": ["a.example:7000"], "limits": {"opens_per_s": 10_000}}));
    let sandbox = world.egress.sandbox(&policy());
    let guest = Guest::of(&sandbox);
    for _ in 0..20 {
        let mut streams = Vec::new();
        for _ in 0..5 {
            streams.push(guest.open(ONE, 7000, &["a.example"]).await);
        }
        sandbox.replace(compile(json!({})));
        for mut stream in streams {
            stream.rest().await;
        }
        until(|| sandbox.connections() == 0).await;
        sandbox.replace(policy());
    }
    records(&sandbox, 40).await;
}

#[tokio::test]
async fn many_connections_at_once_are_open_at_once() {
    // More than a client of yamux opens without an acknowledgement.
    const MANY: usize = 300;
    let world = World::new();
    world.name("a.example", &[ONE]);
    world.server(ONE, 7000).await.echo();
    let policy = json!({
        "allow": ["a.example:7000"],
        "limits": {"connections": MANY, "opens_per_s": 10_000},
    });
    let (sandbox, guest) = world.guest(policy);
    let mut held = Vec::new();
    for _ in 0..MANY {
        held.push(guest.open(ONE, 7000, &["a.example"]).await);
    }
    for stream in &mut held {
        stream.opened().await;
    }
    assert_eq!(sandbox.connections(), MANY);
    for (number, stream) in held.iter_mut().enumerate() {
        stream.send(number.to_string().as_bytes()).await;
    }
    for (number, stream) in held.iter_mut().enumerate() {
        let number = number.to_string();
        assert_eq!(stream.read_exact(number.len()).await, number.as_bytes());
    }
    let mut over = guest.open(ONE, 7000, &["a.example"]).await;
    let reason = EgressReason::ConnectionLimit;
    assert_eq!(over.answer().await, EgressAnswer::Refused { reason });
}

#[tokio::test]
async fn a_flood_to_the_port_of_http_is_not_explained() {
    let world = World::new();
    let (sandbox, guest) = world.guest(json!({"limits": {"connections": 2}}));
    let mut waiting = Vec::new();
    for _ in 0..2 {
        let mut stream = guest.open(ONE, 80, &[]).await;
        stream.opened().await;
        waiting.push(stream);
    }
    let mut over = guest.open(ONE, 80, &[]).await;
    let reason = EgressReason::ConnectionLimit;
    assert_eq!(over.answer().await, EgressAnswer::Refused { reason });
    drop(waiting);
    until(|| sandbox.connections() == 0).await;
}
