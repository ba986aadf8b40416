//! The mux against yamux's own client, and against a guest that keeps to no rule.

use std::future::poll_fn;

use futures::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::io::{DuplexStream, duplex};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::compat::TokioAsyncReadCompatExt as _;
use yamux::{Config, Connection, Mode};

use super::state::{ACK, UNREAD_BYTES_MAX, put_header};
use super::*;

/// Capacity of the channel, in bytes.
const CHANNEL_BYTES: usize = 64 << 10;

/// A host whose streams arrive at the receiver.
fn host(
    io: DuplexStream,
) -> (mpsc::UnboundedReceiver<MuxStream>, JoinHandle<Result<(), MuxError>>) {
    let (accepted, streams) = mpsc::unbounded_channel();
    let session = tokio::spawn(run(io, move |stream| drop(accepted.send(stream))));
    (streams, session)
}

/// A guest with yamux's own client, which opens streams on request.
struct Guest {
    requests: mpsc::Sender<tokio::sync::oneshot::Sender<yamux::Stream>>,
}

impl Guest {
    fn over(io: DuplexStream) -> Self {
        let (requests, mut asked) = mpsc::channel::<tokio::sync::oneshot::Sender<_>>(1);
        tokio::spawn(async move {
            let mut connection = Connection::new(io.compat(), Config::default(), Mode::Client);
            let mut waiting = None;
            poll_fn(|context| {
                loop {
                    if waiting.is_none()
                        && let std::task::Poll::Ready(request) = asked.poll_recv(context)
                    {
                        let Some(request) = request else { return std::task::Poll::Ready(()) };
                        waiting = Some(request);
                    }
                    if let Some(request) = waiting.take() {
                        match connection.poll_new_outbound(context) {
                            std::task::Poll::Ready(Ok(stream)) => {
                                request.send(stream).ok();
                                continue;
                            }
                            std::task::Poll::Ready(Err(_)) => return std::task::Poll::Ready(()),
                            std::task::Poll::Pending => waiting = Some(request),
                        }
                    }
                    return match connection.poll_next_inbound(context) {
                        std::task::Poll::Ready(_) => std::task::Poll::Ready(()),
                        std::task::Poll::Pending => std::task::Poll::Pending,
                    };
                }
            })
            .await;
        });
        Self { requests }
    }

    async fn open(&self) -> yamux::Stream {
        let (reply, stream) = tokio::sync::oneshot::channel();
        self.requests.send(reply).await.unwrap();
        stream.await.unwrap()
    }
}

async fn read_all(stream: &MuxStream) -> io::Result<Vec<u8>> {
    let mut all = Vec::new();
    while let Some(chunk) = stream.chunk().await? {
        all.extend_from_slice(&chunk);
        stream.took(chunk.len());
    }
    Ok(all)
}

#[tokio::test]
async fn streams_carry_more_than_their_windows_both_ways() {
    let (near, far) = duplex(CHANNEL_BYTES);
    let (mut streams, _session) = host(near);
    let guest = Guest::over(far);
    let data: Vec<u8> = (0..1_000_000_u32).map(|n| n.to_le_bytes()[n as usize % 3]).collect();
    let mut ends = Vec::new();
    for _ in 0..8 {
        let (data, mut stream) = (data.clone(), guest.open().await);
        ends.push(tokio::spawn(async move {
            stream.write_all(&data).await.unwrap();
            stream.close().await.unwrap();
            let mut back = Vec::new();
            stream.read_to_end(&mut back).await.unwrap();
            assert!(back == data);
        }));
        tokio::spawn({
            let stream = streams.recv().await.unwrap();
            async move {
                let all = read_all(&stream).await.unwrap();
                stream.write_all(&all).await.unwrap();
                stream.finish().await.unwrap();
            }
        });
    }
    for end in ends {
        end.await.unwrap();
    }
}

#[tokio::test]
async fn a_reset_is_not_an_end_of_data() {
    let (near, far) = duplex(CHANNEL_BYTES);
    let (mut streams, _session) = host(near);
    let guest = Guest::over(far);
    let mut stream = guest.open().await;
    stream.write_all(b"part").await.unwrap();
    let accepted = streams.recv().await.unwrap();
    accepted.chunk().await.unwrap().unwrap();
    drop(stream);
    let error = accepted.chunk().await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    accepted.broken().await;
}

#[tokio::test]
async fn a_stream_that_is_dropped_is_reset_for_the_guest() {
    let (near, mut far) = duplex(CHANNEL_BYTES);
    let (mut streams, _session) = host(near);
    send(&mut far, DATA, SYN | FIN, 1, b"all").await;
    let stream = streams.recv().await.unwrap();
    assert_eq!(read_all(&stream).await.unwrap(), b"all");
    // The guest has ended its direction: a plain end would look like a complete answer.
    drop(stream);
    assert_eq!(next_of(&mut far, 1).await, (WINDOW_UPDATE, RST));
}

#[tokio::test]
async fn the_end_of_the_session_fails_every_stream() {
    let (near, far) = duplex(CHANNEL_BYTES);
    let (mut streams, session) = host(near);
    let guest = Guest::over(far);
    let _stream = guest.open().await;
    let mut opened = guest.open().await;
    opened.write_all(b"x").await.unwrap();
    let stream = streams.recv().await.unwrap();
    drop(guest);
    session.await.unwrap().unwrap();
    assert!(stream.chunk().await.is_err());
    assert!(stream.write_all(b"x").await.is_err());
}

async fn send(guest: &mut DuplexStream, kind: u8, flags: u16, id: u32, data: &[u8]) {
    let mut frame = BytesMut::new();
    put_header(&mut frame, kind, flags, id, length(data.len()));
    frame.extend_from_slice(data);
    tokio::io::AsyncWriteExt::write_all(guest, &frame).await.unwrap();
}

/// The next frame that the host sends: kind, flags, stream and length; data are skipped.
async fn next(guest: &mut DuplexStream) -> (u8, u16, u32, u32) {
    let mut header = [0; HEADER_BYTES];
    tokio::io::AsyncReadExt::read_exact(guest, &mut header).await.unwrap();
    let [_, kind, f0, f1, i0, i1, i2, i3, l0, l1, l2, l3] = header;
    let length = u32::from_be_bytes([l0, l1, l2, l3]);
    if kind == DATA {
        let mut data = vec![0; length as usize];
        tokio::io::AsyncReadExt::read_exact(guest, &mut data).await.unwrap();
    }
    (kind, u16::from_be_bytes([f0, f1]), u32::from_be_bytes([i0, i1, i2, i3]), length)
}

/// The next frame of a stream after its acknowledgement.
async fn next_of(guest: &mut DuplexStream, wanted: u32) -> (u8, u16) {
    loop {
        let (kind, flags, id, _) = next(guest).await;
        if id == wanted && flags != ACK {
            return (kind, flags);
        }
    }
}

#[tokio::test]
async fn a_guest_that_breaks_the_protocol_ends_its_session() {
    for (what, frames) in [
        ("a version", vec![(1 << 8, 0_u16, 0_u32, 0_u32)]),
        ("a kind", vec![(4, 0, 0, 0)]),
        ("an even number", vec![(0, SYN, 2, 0)]),
        ("a number twice", vec![(0, SYN, 1, 0), (0, SYN, 1, 0)]),
        ("more than the window", vec![(0, SYN, 1, length(WINDOW_BYTES + 1))]),
        ("a window over 32 bits", vec![(1, SYN, 1, 0), (1, 0, 1, u32::MAX)]),
        ("a first window over 32 bits", vec![(1, SYN, 1, u32::MAX)]),
    ] {
        let (near, mut far) = duplex(CHANNEL_BYTES);
        let (_streams, session) = host(near);
        for (kind, flags, id, length) in frames {
            let mut header = BytesMut::new();
            put_header(&mut header, 0, flags, id, length);
            header[..2].copy_from_slice(&u16::to_be_bytes(kind));
            tokio::io::AsyncWriteExt::write_all(&mut far, &header).await.unwrap();
        }
        let ended = session.await.unwrap();
        assert!(matches!(ended, Err(MuxError::Protocol(_))), "{what}: {ended:?}");
    }
}

#[tokio::test]
async fn streams_over_the_limit_are_reset_and_the_session_goes_on() {
    let (near, mut far) = duplex(1 << 20);
    let (mut streams, _session) = host(near);
    let mut held = Vec::new();
    for number in 0..length(STREAMS_MAX) {
        send(&mut far, WINDOW_UPDATE, SYN, 2 * number + 1, b"").await;
        held.push(streams.recv().await.unwrap());
    }
    let over = 2 * length(STREAMS_MAX) + 1;
    send(&mut far, DATA, SYN, over, b"hello").await;
    assert_eq!(next_of(&mut far, over).await, (WINDOW_UPDATE, RST));
    drop(held.pop());
    send(&mut far, WINDOW_UPDATE, SYN, over + 2, b"").await;
    assert!(streams.recv().await.is_some());
}

#[tokio::test]
async fn unread_data_of_a_session_are_bounded() {
    let (near, mut far) = duplex(1 << 20);
    let (mut streams, _session) = host(near);
    let full = vec![0; WINDOW_BYTES];
    let mut held = Vec::new();
    for number in 0..length(UNREAD_BYTES_MAX / WINDOW_BYTES) {
        send(&mut far, DATA, SYN, 2 * number + 1, &full).await;
        held.push(streams.recv().await.unwrap());
    }
    send(&mut far, DATA, SYN, 9999, &full).await;
    let stream = streams.recv().await.unwrap();
    assert!(stream.chunk().await.is_err());
    assert_eq!(next_of(&mut far, 9999).await, (WINDOW_UPDATE, RST));
    // The others keep what they have.
    assert_eq!(held[0].chunk().await.unwrap().unwrap().len(), WINDOW_BYTES);
    let shared = &held[0].shared();
    assert!(shared.lock().unread <= UNREAD_BYTES_MAX);
}

#[tokio::test]
async fn a_guest_that_takes_nothing_makes_the_host_hold_little() {
    let (near, mut far) = duplex(64);
    let (mut streams, _session) = host(near);
    // It opens and abandons streams, pings, and never reads.
    let flood = tokio::spawn(async move {
        for number in 0..20_000 {
            send(&mut far, DATA, SYN, 2 * number + 1, b"x").await;
            send(&mut far, PING, SYN, 0, b"").await;
        }
    });
    let mut last = None;
    while let Ok(Some(stream)) =
        tokio::time::timeout(std::time::Duration::from_millis(200), streams.recv()).await
    {
        last = Some(stream);
    }
    let shared = last.unwrap().shared();
    assert!(shared.lock().resets.len() <= RESETS_MAX + *READ_BYTES.end() / HEADER_BYTES);
    assert!(!flood.is_finished());
    flood.abort();
}

#[tokio::test]
async fn pings_are_answered() {
    let (near, mut far) = duplex(CHANNEL_BYTES);
    let (_streams, _session) = host(near);
    let mut ping = BytesMut::new();
    put_header(&mut ping, PING, SYN, 0, 77);
    tokio::io::AsyncWriteExt::write_all(&mut far, &ping).await.unwrap();
    assert_eq!(next(&mut far).await, (PING, ACK, 0, 77));
}

#[tokio::test]
async fn data_in_tiny_frames_take_no_more_memory_than_their_bytes() {
    let (near, mut far) = duplex(1 << 20);
    let (mut streams, _session) = host(near);
    send(&mut far, DATA, SYN, 1, b"").await;
    let stream = streams.recv().await.unwrap();
    for _ in 0..WINDOW_BYTES {
        send(&mut far, DATA, 0, 1, b"x").await;
    }
    send(&mut far, DATA, FIN, 1, b"").await;
    while stream.shared().lock().streams[&1].inbound_end != End::Finished {
        tokio::task::yield_now().await;
    }
    let capacity = stream.shared().lock().streams[&1].inbound.capacity();
    assert!(capacity <= 2 * WINDOW_BYTES, "{capacity}");
}
