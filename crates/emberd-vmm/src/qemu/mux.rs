//! Many streams over QEMU's one channel: yamux, with the guest agent as server.
//!
//! ```text
//! idle ── first stream ─▶ session ── renew ─▶ ended, guest has begun another ─▶ idle
//! ```
//! One task owns the channel. The guest is hostile: the limits here bound what it sends, and a
//! violation of the mux's rules ends the channel, never the daemon.

use std::fmt;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures::io::{AsyncRead as FuturesAsyncRead, AsyncWrite as FuturesAsyncWrite};
use futures::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::task::AbortHandle;
use tokio::time::timeout;
use tokio_util::compat::TokioAsyncReadCompatExt as _;
use yamux::{Config, Connection, ConnectionError, Mode};

use crate::ConnectError;

mod merge;

use merge::{Inbox, Merging, malformed};

/// Most streams of one microVM at once; further ones wait.
const STREAMS_MAX: usize = 384;

/// Most streams the mux itself counts: one too many would end the channel, and a dropped
/// stream is counted until its end has been sent.
const MUX_STREAMS_MAX: usize = 2 * STREAMS_MAX;

/// Most bytes the guest can make the host hold unread, over all streams (192 MiB), in whatever
/// pieces it sends them ([`merge`]). Exactly the windows all streams start with, so that none
/// ever grows.
const UNREAD_BYTES_MAX: usize = MUX_STREAMS_MAX * yamux::DEFAULT_CREDIT as usize;

/// Longest wait for the guest to begin a new session: one task switch there, some
/// milliseconds unless the host is overloaded many times.
const RENEWAL_WAIT_MAX: Duration = Duration::from_secs(30);

/// Bytes of a frame's header (yamux specification): version, kind, flags in two bytes,
/// stream in four, length in four.
const HEADER_BYTES: usize = 12;

/// The first ping of a session, of either side: yamux counts its pings from 0.
const FIRST_PING: [u8; HEADER_BYTES] = *b"\0\x02\0\x01\0\0\0\0\0\0\0\0";

/// A ping that yamux itself will not send, and its answer.
const PING: [u8; HEADER_BYTES] = *b"\0\x02\0\x01\0\0\0\0embr";
const PONG: [u8; HEADER_BYTES] = *b"\0\x02\0\x02\0\0\0\0embr";

/// Where the guest stands when the host connects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stand {
    /// The guest begins its session as the host connects.
    Beginning,
    /// The guest has begun its session with a host before, which left it as [`Mux::renew`] does.
    Begun,
}

impl Stand {
    /// The guest's ping that an earlier host has received and not answered.
    fn ping(self) -> Option<[u8; HEADER_BYTES]> {
        (self == Self::Begun).then_some(FIRST_PING)
    }
}

/// Request of the owner of a [`Mux`] to its task.
enum Request {
    Open(oneshot::Sender<Opened>),
    Renew(oneshot::Sender<()>),
}

/// A stream, until it is dropped.
struct Opened {
    stream: yamux::Stream,
    inbox: Inbox,
}

impl Drop for Opened {
    fn drop(&mut self) {
        self.inbox.forget(self.stream.id().val());
    }
}

/// The host's end of the mux. Dropping it closes the channel and every stream.
pub(super) struct Mux {
    requests: mpsc::Sender<Request>,
    permits: Arc<Semaphore>,
    failure: Arc<OnceLock<String>>,
    task: AbortHandle,
}

impl Mux {
    /// Starts the mux over a connected channel.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub(super) fn over(
        channel: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
        guest: Stand,
    ) -> Self {
        let (requests, receiver) = mpsc::channel(1);
        let permits = Arc::new(Semaphore::new(STREAMS_MAX));
        let failure = Arc::new(OnceLock::new());
        let task = tokio::spawn({
            let (permits, failure) = (Arc::clone(&permits), Arc::clone(&failure));
            async move {
                if let Err(error) = drive(channel.compat(), guest, receiver).await {
                    tracing::debug!(%error, "guest channel failed");
                    // The only writer.
                    failure.get_or_init(|| error.to_string());
                }
                permits.close();
            }
        });
        Self { requests, permits, failure, task: task.abort_handle() }
    }

    /// Opens a stream. It can be written to before the guest runs.
    pub(super) async fn open(&self) -> Result<MuxStream, ConnectError> {
        let permits = Arc::clone(&self.permits);
        let permit = permits.acquire_owned().await.map_err(|_| self.why_closed())?;
        let (reply, stream) = oneshot::channel();
        self.requests.send(Request::Open(reply)).await.map_err(|_| self.why_closed())?;
        let opened = stream.await.map_err(|_| self.why_closed())?;
        Ok(MuxStream { opened, _permit: permit })
    }

    /// Ends the session and every stream, and waits until the guest has begun a new one: it
    /// then stands where any host that connects later can begin, too.
    pub(super) async fn renew(&self) -> Result<(), ConnectError> {
        let (reply, renewed) = oneshot::channel();
        self.requests.send(Request::Renew(reply)).await.map_err(|_| self.why_closed())?;
        renewed.await.map_err(|_| self.why_closed())
    }

    fn why_closed(&self) -> ConnectError {
        match self.failure.get() {
            Some(failure) => ConnectError::Channel(io::Error::other(failure.clone())),
            None => ConnectError::Closed,
        }
    }
}

impl Drop for Mux {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl fmt::Debug for Mux {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mux").field("failure", &self.failure).finish_non_exhaustive()
    }
}

fn config() -> Config {
    let mut config = Config::default();
    config.set_max_num_streams(MUX_STREAMS_MAX);
    config.set_max_connection_receive_window(Some(UNREAD_BYTES_MAX));
    config
}

/// Why the mux ended, other than by its channel being closed.
#[derive(Debug, thiserror::Error)]
enum MuxError {
    #[error("the guest opened a stream")]
    GuestOpened,
    #[error("the guest did not start a new session: {0}")]
    NotRenewed(io::Error),
    #[error("{0}")]
    Connection(ConnectionError),
}

/// Serves one session after the other until the channel closes.
async fn drive(
    channel: impl FuturesAsyncRead + FuturesAsyncWrite + Unpin,
    mut guest: Stand,
    mut requests: mpsc::Receiver<Request>,
) -> Result<(), MuxError> {
    let mut channel = Merging::over(channel);
    // A session begins with the first stream: nothing is sent to the guest before.
    while let Some(first) = requests.recv().await {
        let inbox = channel.begin(guest.ping());
        let mut connection = Connection::new(&mut channel, config(), Mode::Client);
        let session = serve(&mut connection, &inbox, first, &mut requests).await;
        let Some(renewed) = session? else { return Ok(()) };
        poll_fn(|context| connection.poll_close(context)).await.map_err(MuxError::Connection)?;
        drop(connection);
        let wait = timeout(RENEWAL_WAIT_MAX, see_renewal(&mut channel)).await;
        wait.unwrap_or(Err(io::ErrorKind::TimedOut.into())).map_err(MuxError::NotRenewed)?;
        guest = Stand::Begun;
        // The caller may have dropped its future.
        renewed.send(()).ok();
    }
    Ok(())
}

/// Opens the streams asked for and moves bytes until the channel closes (`None`), or a new
/// session is asked for.
async fn serve(
    connection: &mut Connection<impl FuturesAsyncRead + FuturesAsyncWrite + Unpin>,
    inbox: &Inbox,
    first: Request,
    requests: &mut mpsc::Receiver<Request>,
) -> Result<Option<oneshot::Sender<()>>, MuxError> {
    let mut asked = Some(first);
    let outcome = poll_fn(|context| {
        while let Poll::Ready(request) = poll_asked(&mut asked, requests, context) {
            let reply = match request {
                Request::Open(reply) => reply,
                Request::Renew(reply) => return Poll::Ready(Ok(Some(reply))),
            };
            match connection.poll_new_outbound(context) {
                // The caller may have dropped its future: the stream is dropped, and so closed.
                Poll::Ready(Ok(stream)) => {
                    inbox.register(stream.id().val());
                    drop(reply.send(Opened { stream, inbox: inbox.clone() }));
                }
                Poll::Ready(Err(error)) => return Poll::Ready(Err(MuxError::Connection(error))),
                Poll::Pending => {
                    asked = Some(Request::Open(reply));
                    break;
                }
            }
        }
        connection.poll_next_inbound(context).map(|next| match next {
            None => Ok(None),
            Some(Ok(_)) => Err(MuxError::GuestOpened),
            Some(Err(error)) => Err(MuxError::Connection(error)),
        })
    });
    match outcome.await {
        Err(MuxError::Connection(ConnectionError::Closed)) => Ok(None),
        outcome => outcome,
    }
}

/// The request put back last time, or the next one.
fn poll_asked(
    asked: &mut Option<Request>,
    requests: &mut mpsc::Receiver<Request>,
    context: &mut Context<'_>,
) -> Poll<Request> {
    match asked.take() {
        Some(request) => Poll::Ready(request),
        None => match requests.poll_recv(context) {
            Poll::Ready(Some(request)) => Poll::Ready(request),
            // No sender is left: the owner is dropping the mux and aborts this task.
            Poll::Ready(None) | Poll::Pending => Poll::Pending,
        },
    }
}

/// Waits until the guest answers in a new session, after the end of the last one was sent. The
/// first ping of the new session has been received then, and is the next host's to answer.
async fn see_renewal(
    channel: &mut Merging<impl FuturesAsyncRead + FuturesAsyncWrite + Unpin>,
) -> io::Result<()> {
    channel.write_all(&PING).await?;
    channel.flush().await?;
    let (channel, mut header, mut have) = channel.unmerged().await?;
    let mut pinged = false;
    loop {
        channel.read_exact(&mut header[have..]).await?;
        have = 0;
        let [version, kind, .., a, b, c, d] = header;
        match (version, kind) {
            _ if header == PONG && pinged => return Ok(()),
            _ if header == PONG => return Err(malformed("an answer before the first ping")),
            // Data of the session that is over.
            (0, 0) => {
                let length = u32::from_be_bytes([a, b, c, d]).into();
                let data = (&mut *channel).take(length);
                futures::io::copy(data, &mut futures::io::sink()).await?;
            }
            // Other frames of the old session, and the first ping of the new one.
            (0, 1..=3) => pinged |= header == FIRST_PING,
            _ => return Err(malformed("not a frame of the mux")),
        }
    }
}

/// A byte stream to the guest agent.
pub struct MuxStream {
    opened: Opened,
    _permit: OwnedSemaphorePermit,
}

impl fmt::Debug for MuxStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("MuxStream").field(&self.opened.stream.id()).finish()
    }
}

impl AsyncRead for MuxStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let Opened { stream, inbox } = &mut self.opened;
        let bytes = buffer.initialize_unfilled();
        let bytes = ready!(Pin::new(&mut *stream).poll_read(context, bytes))?;
        buffer.advance(bytes);
        inbox.took(stream.id().val(), bytes);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for MuxStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.opened.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.opened.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.opened.stream).poll_close(context)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};
    use tokio_util::compat::FuturesAsyncReadCompatExt as _;

    use super::*;

    /// Capacity of the channel, in bytes.
    const CHANNEL_BYTES: usize = 64 << 10;

    /// An agent that sends back whatever a stream brings, in one session after the other.
    async fn echo(channel: DuplexStream) {
        let mut channel = channel.compat();
        loop {
            let mut session = Connection::new(&mut channel, Config::default(), Mode::Server);
            let mut streams = 0;
            while let Some(Ok(stream)) = poll_fn(|context| session.poll_next_inbound(context)).await
            {
                streams += 1;
                tokio::spawn(async move {
                    let (mut reader, mut writer) = tokio::io::split(stream.compat());
                    tokio::io::copy(&mut reader, &mut writer).await.ok();
                });
            }
            if streams == 0 {
                return;
            }
        }
    }

    fn mux_and_guest() -> (Mux, DuplexStream) {
        let (host, guest) = duplex(CHANNEL_BYTES);
        (Mux::over(host, Stand::Beginning), guest)
    }

    async fn check_echo(stream: &mut MuxStream, bytes: &[u8]) {
        stream.write_all(bytes).await.unwrap();
        stream.flush().await.unwrap();
        let mut answer = vec![0; bytes.len()];
        stream.read_exact(&mut answer).await.unwrap();
        assert_eq!(answer, bytes);
    }

    #[tokio::test]
    async fn streams_do_not_mix() {
        let (mux, guest) = mux_and_guest();
        tokio::spawn(echo(guest));
        let mut streams = Vec::new();
        for _ in 0..50 {
            streams.push(mux.open().await.unwrap());
        }
        for (n, stream) in streams.iter_mut().enumerate() {
            stream.write_all(n.to_string().as_bytes()).await.unwrap();
        }
        for (n, stream) in streams.iter_mut().enumerate() {
            let mut answer = vec![0; n.to_string().len()];
            stream.read_exact(&mut answer).await.unwrap();
            assert_eq!(answer, n.to_string().as_bytes());
        }
    }

    #[tokio::test]
    async fn stream_carries_more_than_its_window() {
        let (mux, guest) = mux_and_guest();
        tokio::spawn(echo(guest));
        let (mut reader, mut writer) = tokio::io::split(mux.open().await.unwrap());
        let sent: Vec<u8> = (0..3_000_000_u32).map(|n| n.to_le_bytes()[n as usize % 3]).collect();
        let mut received = vec![0; sent.len()];
        let write = async {
            writer.write_all(&sent).await.unwrap();
            writer.flush().await.unwrap();
        };
        let ((), read) = tokio::join!(write, reader.read_exact(&mut received));
        read.unwrap();
        assert!(received == sent);
    }

    #[tokio::test]
    async fn what_is_written_before_the_guest_runs_arrives_when_it_does() {
        let (mux, guest) = mux_and_guest();
        let mut stream = mux.open().await.unwrap();
        stream.write_all(b"hello").await.unwrap();
        tokio::spawn(echo(guest));
        let mut answer = [0; 5];
        stream.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b"hello");
    }

    #[tokio::test]
    async fn streams_beyond_the_limit_wait_for_one_to_end() {
        let (mux, guest) = mux_and_guest();
        tokio::spawn(echo(guest));
        let mut streams = Vec::new();
        for _ in 0..STREAMS_MAX {
            let mut stream = mux.open().await.unwrap();
            check_echo(&mut stream, b"x").await;
            streams.push(stream);
        }
        let mut further = Box::pin(mux.open());
        assert!(futures::poll!(&mut further).is_pending());
        streams.pop();
        check_echo(&mut further.await.unwrap(), b"further").await;
    }

    #[tokio::test]
    async fn a_thousand_streams_one_after_the_other_leave_room() {
        let (mux, guest) = mux_and_guest();
        tokio::spawn(echo(guest));
        for _ in 0..1000 {
            check_echo(&mut mux.open().await.unwrap(), b"x").await;
        }
    }

    #[tokio::test]
    async fn closed_channel_ends_streams_and_refuses_new_ones() {
        let (mux, guest) = mux_and_guest();
        let mut stream = mux.open().await.unwrap();
        drop(guest);
        assert_eq!(stream.read(&mut [0; 8]).await.unwrap_or(0), 0);
        assert!(mux.open().await.is_err());
        stream.write_all(b"into the void").await.unwrap_err();
    }

    #[tokio::test]
    async fn guest_that_opens_a_stream_loses_its_channel() {
        let (mux, mut guest) = mux_and_guest();
        let mut stream = mux.open().await.unwrap();
        // Window update with SYN for stream 2.
        guest.write_all(b"\0\x01\0\x01\0\0\0\x02\0\0\0\0").await.unwrap();
        assert_eq!(stream.read(&mut [0; 8]).await.unwrap_or(0), 0);
        let error = mux.open().await.unwrap_err();
        let ConnectError::Channel(reason) = error else { panic!("{error}") };
        assert!(reason.to_string().ends_with("the guest opened a stream"), "{reason}");
    }

    #[tokio::test]
    async fn hostile_bytes_end_the_channel_and_nothing_else() {
        let hostile: [&[u8]; 8] = [
            b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff",
            b"GET / HTTP/1.1\r\n\r\n",
            // Data of 4 GiB.
            b"\0\0\0\0\0\0\0\x01\xff\xff\xff\xff",
            // Data for a stream that is not there, cut off.
            b"\0\0\0\0\0\0\0\x63\0\0\0\x10abc",
            // Stream 1, ours, opened by the guest.
            b"\0\x01\0\x01\0\0\0\x01\0\0\0\0",
            // Credit that overflows.
            b"\0\x01\0\0\0\0\0\x01\xff\xff\xff\xff\0\x01\0\0\0\0\0\x01\xff\xff\xff\xff",
            // A pong to no ping.
            b"\0\x02\0\x02\0\0\0\0\x12\x34\x56\x78",
            // Going away with an unknown reason.
            b"\0\x03\0\0\0\0\0\0\xff\xff\xff\xff",
        ];
        for bytes in hostile {
            let (mux, mut guest) = mux_and_guest();
            let mut stream = mux.open().await.unwrap();
            stream.write_all(b"hello").await.unwrap();
            guest.write_all(bytes).await.unwrap();
            guest.shutdown().await.unwrap();
            assert_eq!(stream.read(&mut [0; 8]).await.unwrap_or(0), 0, "{bytes:?}");
            drop(stream);
            assert!(mux.open().await.is_err(), "{bytes:?}");
        }
    }

    #[tokio::test]
    async fn renewal_ends_streams_and_leaves_a_channel_as_if_unused() {
        let (mux, guest) = mux_and_guest();
        tokio::spawn(echo(guest));
        for round in 0..3 {
            let mut stream = mux.open().await.unwrap();
            check_echo(&mut stream, b"before").await;
            // Left half-way: its answer may arrive in the next session's time.
            stream.write_all(&vec![round; 100 << 10]).await.unwrap();
            mux.renew().await.unwrap();
            stream.write_all(b"x").await.unwrap_err();
            check_echo(&mut mux.open().await.unwrap(), b"after").await;
        }
    }

    /// An agent whose windows may grow by 1 MiB, and that reads [`READ_BYTES`] of each stream.
    async fn grant(channel: DuplexStream) {
        let mut channel = channel.compat();
        loop {
            let mut config = Config::default();
            config.set_max_num_streams(1);
            config.set_max_connection_receive_window(Some(WINDOW_BYTES + (1 << 20)));
            let mut session = Connection::new(&mut channel, config, Mode::Server);
            while let Some(Ok(stream)) = poll_fn(|context| session.poll_next_inbound(context)).await
            {
                tokio::spawn(async move {
                    let mut stream = stream.compat();
                    stream.read_exact(&mut vec![0; READ_BYTES]).await.unwrap();
                    std::future::pending::<()>().await;
                });
            }
        }
    }

    const READ_BYTES: usize = 2 << 20;
    const WINDOW_BYTES: usize = yamux::DEFAULT_CREDIT as usize;

    #[tokio::test]
    async fn windows_of_the_guest_grow_in_each_session() {
        let (mux, guest) = mux_and_guest();
        let guest = tokio::spawn(grant(guest));
        for _ in 0..3 {
            let mut stream = mux.open().await.unwrap();
            // A channel that was idle: its round trips are short, beside a window's use.
            stream.write_all(b"x").await.unwrap();
            stream.flush().await.unwrap();
            tokio::time::sleep(Duration::from_millis(50)).await;
            let write = async {
                // Twice a window stays unread.
                let bytes = vec![0; READ_BYTES - 1 + 2 * WINDOW_BYTES];
                stream.write_all(&bytes).await.unwrap();
            };
            timeout(RENEWAL_WAIT_MAX, write).await.expect("the window did not grow");
            drop(stream);
            mux.renew().await.unwrap();
        }
        guest.abort();
    }

    /// Runs a renewal whose guest answers with `answer`.
    async fn renewal(answer: &[u8]) -> Result<(), ConnectError> {
        let (mux, mut guest) = mux_and_guest();
        let (renewed, sent) = tokio::join!(mux.renew(), guest.write_all(answer));
        sent.unwrap();
        renewed
    }

    #[tokio::test(start_paused = true)]
    async fn renewal_is_what_the_guest_answers_in_its_new_session() {
        // Data of five bytes, credit, an end of stream, a ping: what the old session left.
        let rest = b"\0\0\0\0\0\0\0\x01\0\0\0\x05hello\0\x01\0\0\0\0\0\x01\0\0\0\x01\
                     \0\x01\0\x04\0\0\0\x01\0\0\0\0\0\x02\0\x01\0\0\0\0\0\0\0\0";
        renewal(&[&rest[..], &PONG].concat()).await.unwrap();
        let early = renewal(&PONG).await.unwrap_err();
        let ConnectError::Channel(reason) = early else { panic!("{early}") };
        assert!(reason.to_string().ends_with("an answer before the first ping"), "{reason}");
        let silent = renewal(rest).await.unwrap_err();
        let ConnectError::Channel(reason) = silent else { panic!("{silent}") };
        assert_eq!(reason.to_string(), "the guest did not start a new session: timed out");
        let hostile = renewal(b"\x05ABCDEFGHIJKLMNOP").await.unwrap_err();
        let ConnectError::Channel(reason) = hostile else { panic!("{hostile}") };
        assert!(reason.to_string().ends_with("not a frame of the mux"), "{reason}");
    }

    #[tokio::test]
    async fn bytes_one_by_one_arrive_whether_asked_for_early_or_late() {
        let (mux, guest) = mux_and_guest();
        let said: Vec<u8> = (0..200_000_u32).map(|byte| byte.to_le_bytes()[0]).collect();
        let mut stream = mux.open().await.unwrap();
        let mut sent = Vec::new();
        for byte in &said {
            sent.extend_from_slice(b"\0\0\0\0\0\0\0\x01\0\0\0\x01");
            sent.push(*byte);
        }
        let (mut from_host, mut to_host) = tokio::io::split(guest);
        let speak = tokio::spawn(async move { to_host.write_all(&sent).await.unwrap() });
        tokio::spawn(async move { tokio::io::copy(&mut from_host, &mut tokio::io::sink()).await });
        let mut early = vec![0; 1000];
        stream.read_exact(&mut early).await.unwrap();
        // Nobody reads the rest until all of it is there.
        speak.await.unwrap();
        let mut late = vec![0; said.len() - early.len()];
        stream.read_exact(&mut late).await.unwrap();
        assert!([early, late].concat() == said);
    }

    #[tokio::test]
    async fn guest_that_never_reads_blocks_its_streams_only() {
        let (mux, _guest) = mux_and_guest();
        let mut stream = mux.open().await.unwrap();
        let flood = vec![0; 8 << 20];
        let mut write = Box::pin(stream.write_all(&flood));
        for _ in 0..100 {
            assert!(futures::poll!(&mut write).is_pending());
            tokio::task::yield_now().await;
        }
    }
}
