//! The mux against the library's server, and against frames that a host sends.

use emberd_proto::mux::{ACK, WINDOW_BYTES};
use futures::FutureExt as _;
use futures::future::join_all;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio_util::compat::{FuturesAsyncReadCompatExt as _, TokioAsyncReadCompatExt as _};
use yamux::{Config, Connection, Mode};

use std::sync::Arc;

use super::super::stream::{FromHost, ToHost, open};
use super::*;

/// A session, and the host's end of its bytes.
fn session() -> (Arc<Shared>, UnixStream) {
    let (guest, host) = UnixStream::pair().unwrap();
    let shared = Arc::new(Shared::default());
    let session = Arc::clone(&shared);
    tokio::spawn(async move {
        run(Box::new(guest), &session).await;
        session.end();
    });
    (shared, host)
}

/// A host that sends back what each stream brings, and its end.
fn echo(host: UnixStream) {
    tokio::spawn(async move {
        let mut session = Connection::new(host.compat(), Config::default(), Mode::Server);
        while let Some(Ok(stream)) = poll_fn(|context| session.poll_next_inbound(context)).await {
            tokio::spawn(async move {
                let (mut reader, mut writer) = tokio::io::split(stream.compat());
                tokio::io::copy(&mut reader, &mut writer).await.unwrap();
                writer.shutdown().await.unwrap();
            });
        }
    });
}

async fn send(to_host: &mut ToHost, bytes: &[u8]) {
    to_host.send_all(bytes).await.unwrap();
    to_host.finish().await.unwrap();
}

async fn all(from_host: &mut FromHost) -> io::Result<Vec<u8>> {
    let mut all = Vec::new();
    from_host.read_to_end(&mut all).await?;
    Ok(all)
}

fn header(kind: u8, flags: u16, id: u32, length: usize) -> [u8; HEADER_BYTES] {
    Header { kind, flags, id, length: length.try_into().unwrap() }.encode()
}

fn data(flags: u16, id: u32, body: &[u8]) -> Vec<u8> {
    [&header(DATA, flags, id, body.len())[..], body].concat()
}

/// Reads the next frame of the guest.
async fn next(host: &mut UnixStream) -> (Header, Vec<u8>) {
    let mut bytes = [0; HEADER_BYTES];
    host.read_exact(&mut bytes).await.unwrap();
    let header = Header::decode(bytes).unwrap();
    let mut body = vec![0; header.body_bytes()];
    host.read_exact(&mut body).await.unwrap();
    (header, body)
}

#[tokio::test]
async fn many_streams_carry_more_than_their_windows() {
    let (shared, host) = session();
    echo(host);
    join_all((0..8_u32).map(async |n| {
        let (mut from_host, mut to_host) = open(&shared).unwrap();
        let count = if n == 0 { 5 } else { 200_000 };
        let bytes: Vec<u8> = (n..n + count).flat_map(u32::to_le_bytes).collect();
        let ((), echoed) = tokio::join!(send(&mut to_host, &bytes), all(&mut from_host));
        assert!(echoed.unwrap() == bytes);
    }))
    .await;
    assert!(shared.lock().streams.is_empty());
}

#[tokio::test]
async fn chunk_size_never_changes_what_comes() {
    // The data look like a reset of the stream.
    let body = header(DATA, RST, 1, 0);
    let frames = [
        header(WINDOW_UPDATE, ACK, 1, 0).to_vec(),
        data(0, 1, &body),
        header(PING, SYN, 0, 7).to_vec(),
        data(0, 9, b"of a stream that is not there"),
        data(FIN, 1, b"end"),
    ]
    .concat();
    for chunk_bytes in 1..=frames.len() {
        let (shared, mut host) = session();
        let (mut from_host, mut to_host) = open(&shared).unwrap();
        to_host.send_all(b"x").await.unwrap();
        for chunk in frames.chunks(chunk_bytes) {
            host.write_all(chunk).await.unwrap();
            tokio::task::yield_now().await;
        }
        let came = all(&mut from_host).await.unwrap();
        assert_eq!(came, [&body[..], b"end"].concat(), "{chunk_bytes}");
        assert_eq!(next(&mut host).await.0, Header { kind: DATA, flags: SYN, id: 1, length: 1 });
        assert_eq!(next(&mut host).await.0, Header { kind: PING, flags: ACK, id: 0, length: 7 });
    }
}

#[tokio::test]
async fn reset_is_not_an_end_of_data() {
    let (shared, mut host) = session();
    let (mut from_host, mut to_host) = open(&shared).unwrap();
    to_host.send_all(b"x").await.unwrap();
    host.write_all(&data(0, 1, b"part")).await.unwrap();
    host.write_all(&header(WINDOW_UPDATE, RST, 1, 0)).await.unwrap();
    let failed = all(&mut from_host).await.unwrap_err();
    assert_eq!(failed.kind(), io::ErrorKind::ConnectionReset);
    let failed = to_host.send_all(b"x").await.unwrap_err();
    assert_eq!(failed.kind(), io::ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn host_that_is_done_early_is_heard_to_the_end() {
    let (shared, mut host) = session();
    let (mut from_host, mut to_host) = open(&shared).unwrap();
    to_host.send_all(b"x").await.unwrap();
    host.write_all(&data(FIN, 1, b"all")).await.unwrap();
    host.write_all(&header(WINDOW_UPDATE, RST, 1, 0)).await.unwrap();
    while !shared.lock().streams[&1].is_reset {
        tokio::task::yield_now().await;
    }
    assert!(to_host.finish().await.is_err());
    assert_eq!(all(&mut from_host).await.unwrap(), b"all");
}

#[tokio::test]
async fn session_s_end_is_a_reset_of_every_stream() {
    for last in [&header(GO_AWAY, 0, 0, 0)[..], b"", b"no frame of a mux"] {
        let (shared, mut host) = session();
        let (mut from_host, mut to_host) = open(&shared).unwrap();
        to_host.send_all(b"x").await.unwrap();
        host.write_all(&data(0, 1, b"part")).await.unwrap();
        host.write_all(last).await.unwrap();
        host.shutdown().await.unwrap();
        let failed = all(&mut from_host).await.unwrap_err();
        assert_eq!(failed.kind(), io::ErrorKind::ConnectionReset);
        assert!(to_host.send_all(b"x").await.is_err());
        assert!(open(&shared).is_none());
    }
}

#[tokio::test]
async fn stream_is_reset_unless_both_directions_have_ended() {
    let (shared, mut host) = session();
    for (id, (ends, host_ends)) in [(1, (true, true)), (3, (true, false)), (5, (false, true))] {
        let (mut from_host, mut to_host) = open(&shared).unwrap();
        to_host.send_all(b"x").await.unwrap();
        if ends {
            to_host.finish().await.unwrap();
        }
        if host_ends {
            host.write_all(&data(FIN, id, b"")).await.unwrap();
            assert!(!from_host.ready().await.unwrap());
        }
    }
    // A stream that the host does not know.
    drop(open(&shared));
    shared.lock().pong = Some(7);
    drop(open(&shared).unwrap().1.send_all(b"x").await);
    let mut seen = Vec::new();
    while seen.last() != Some(&(9, SYN)) {
        let (header, _) = next(&mut host).await;
        seen.push((header.id, header.flags));
    }
    let expect = [(1, SYN), (1, FIN), (3, SYN), (3, FIN), (3, RST), (5, SYN), (0, ACK), (5, RST)];
    assert_eq!(seen, [&expect[..], &[(9, SYN)]].concat());
}

#[tokio::test]
async fn host_is_allowed_little_ahead_of_a_reader() {
    is_allowed_ahead(0, WINDOW_BYTES / 2).await;
    is_allowed_ahead(1, WINDOW_BYTES / 4).await;
    is_allowed_ahead(9, WINDOW_BYTES / 4).await;
}

async fn is_allowed_ahead(others: usize, most: usize) {
    let (shared, mut host) = session();
    let (mut from_host, mut to_host) = open(&shared).unwrap();
    to_host.send_all(b"x").await.unwrap();
    next(&mut host).await;
    let _others: Vec<_> = (0..others).map(|_| open(&shared)).collect();
    let (mut allowed, mut consumed, mut sent) = (WINDOW_BYTES, 0, 0);
    while sent < 8 * WINDOW_BYTES {
        let bytes = allowed.min(10_000);
        host.write_all(&data(0, 1, &vec![0; bytes])).await.unwrap();
        (sent, allowed) = (sent + bytes, allowed - bytes);
        while consumed < sent {
            assert!(from_host.ready().await.unwrap());
            let bytes = from_host.slices().iter().map(|slice| slice.len()).sum();
            from_host.consume(bytes);
            consumed += bytes;
        }
        tokio::task::yield_now().await;
        while let Some((header, _)) = next(&mut host).now_or_never() {
            assert_eq!((header.kind, header.flags, header.id), (WINDOW_UPDATE, 0, 1));
            allowed += header.length as usize;
            assert!(allowed <= most, "{allowed}");
        }
        assert!(allowed > 0);
    }
}

#[tokio::test]
async fn single_bytes_that_nobody_reads_are_held_together() {
    let (shared, mut host) = session();
    let (mut from_host, mut to_host) = open(&shared).unwrap();
    to_host.send_all(b"x").await.unwrap();
    for byte in 0..=99 {
        host.write_all(&data(0, 1, &[byte])).await.unwrap();
        tokio::task::yield_now().await;
    }
    host.write_all(&data(FIN, 1, &vec![100; 5000])).await.unwrap();
    while shared.lock().streams[&1].inbound_end == End::Open {
        tokio::task::yield_now().await;
    }
    assert!(from_host.ready().await.unwrap());
    let lengths = from_host.slices().map(|slice| slice.len());
    assert_eq!(lengths[..2], [5100, 0]);
    let expect: Vec<u8> = (0..=99).chain([100; 5000]).collect();
    assert_eq!(all(&mut from_host).await.unwrap(), expect);
}

#[tokio::test]
async fn streams_take_turns() {
    let (shared, mut host) = session();
    let bulk: Vec<_> = (0..3).map(|_| open(&shared).unwrap()).collect();
    let mut writing: Vec<_> = bulk
        .into_iter()
        .map(|(_from_host, mut to_host)| {
            Box::pin(async move {
                for _ in 0..4 {
                    to_host.send(vec![0; 70_000], 60_000).await.unwrap();
                }
            })
        })
        .collect();
    // Each has its first frame waiting.
    assert!(writing.iter_mut().all(|stream| stream.now_or_never().is_none()));
    let writing = tokio::spawn(join_all(writing));
    let mut order = Vec::new();
    while order.len() < 12 {
        let (header, _) = next(&mut host).await;
        if header.kind == DATA {
            order.push(header.id);
        }
    }
    assert_eq!(order, [1, 3, 5].repeat(4));
    writing.await.unwrap();
}
