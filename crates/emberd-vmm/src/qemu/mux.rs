//! Many streams over QEMU's one channel: yamux, with the guest agent as server.
//!
//! One task owns the connection. The guest is hostile: what it sends is bounded by the
//! limits here, and whatever breaks the mux's rules ends the channel, never the daemon.

use std::fmt;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};

use futures::io::{AsyncRead as FuturesAsyncRead, AsyncWrite as FuturesAsyncWrite};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::task::AbortHandle;
use tokio_util::compat::{Compat, FuturesAsyncReadCompatExt as _, TokioAsyncReadCompatExt as _};
use yamux::{Config, Connection, ConnectionError, Mode};

use crate::ConnectError;

/// Most streams of one microVM at once; further ones wait.
const STREAMS_MAX: usize = 128;

/// Most streams the mux itself counts: one too many would end the channel, and a dropped
/// stream is counted until its end has been sent.
const MUX_STREAMS_MAX: usize = 2 * STREAMS_MAX;

/// Most bytes the guest can make the host hold unread, over all streams (64 MiB). Exactly
/// the windows all streams start with, so that none ever grows.
const UNREAD_BYTES_MAX: usize = MUX_STREAMS_MAX * yamux::DEFAULT_CREDIT as usize;

type Reply = oneshot::Sender<yamux::Stream>;

/// The host's end of the mux. Dropping it closes the channel and every stream.
pub(super) struct Mux {
    requests: mpsc::Sender<Reply>,
    permits: Arc<Semaphore>,
    failure: Arc<OnceLock<String>>,
    task: AbortHandle,
}

impl Mux {
    /// Starts the mux over a connected channel.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub(super) fn over(channel: impl AsyncRead + AsyncWrite + Send + Unpin + 'static) -> Self {
        let connection = Connection::new(channel.compat(), config(), Mode::Client);
        let (requests, receiver) = mpsc::channel(1);
        let permits = Arc::new(Semaphore::new(STREAMS_MAX));
        let failure = Arc::new(OnceLock::new());
        let task = tokio::spawn({
            let (permits, failure) = (Arc::clone(&permits), Arc::clone(&failure));
            async move {
                if let Err(error) = drive(connection, receiver).await {
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
        self.requests.send(reply).await.map_err(|_| self.why_closed())?;
        let stream = stream.await.map_err(|_| self.why_closed())?;
        Ok(MuxStream { stream: stream.compat(), _permit: permit })
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
    #[error("{0}")]
    Connection(ConnectionError),
}

/// Opens the streams asked for and moves bytes until the channel closes.
async fn drive(
    mut connection: Connection<impl FuturesAsyncRead + FuturesAsyncWrite + Unpin>,
    mut requests: mpsc::Receiver<Reply>,
) -> Result<(), MuxError> {
    let mut asked = None;
    let outcome = poll_fn(|context| {
        while let Poll::Ready(reply) = poll_asked(&mut asked, &mut requests, context) {
            match connection.poll_new_outbound(context) {
                // Whoever asked may have gone: the stream is dropped, and so closed.
                Poll::Ready(Ok(stream)) => drop(reply.send(stream)),
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => {
                    asked = Some(reply);
                    break;
                }
            }
        }
        connection.poll_next_inbound(context).map(|next| next.transpose().map(|s| s.is_some()))
    });
    match outcome.await {
        Ok(true) => Err(MuxError::GuestOpened),
        Ok(false) | Err(ConnectionError::Closed) => Ok(()),
        Err(error) => Err(MuxError::Connection(error)),
    }
}

/// The request put back last time, or the next one.
fn poll_asked(
    asked: &mut Option<Reply>,
    requests: &mut mpsc::Receiver<Reply>,
    context: &mut Context<'_>,
) -> Poll<Reply> {
    match asked.take() {
        Some(reply) => Poll::Ready(reply),
        None => match requests.poll_recv(context) {
            Poll::Ready(Some(reply)) => Poll::Ready(reply),
            // No sender is left: the owner is dropping the mux and aborts this task.
            Poll::Ready(None) | Poll::Pending => Poll::Pending,
        },
    }
}

/// A byte stream to the guest agent.
#[derive(Debug)]
pub struct MuxStream {
    stream: Compat<yamux::Stream>,
    _permit: OwnedSemaphorePermit,
}

impl AsyncRead for MuxStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for MuxStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};

    use super::*;

    /// What the channel holds while nobody reads it, in bytes.
    const CHANNEL_BYTES: usize = 64 << 10;

    /// An agent that sends back whatever a stream brings.
    async fn echo(channel: DuplexStream) {
        let mut session = Connection::new(channel.compat(), Config::default(), Mode::Server);
        while let Some(Ok(stream)) = poll_fn(|context| session.poll_next_inbound(context)).await {
            tokio::spawn(async move {
                let (mut reader, mut writer) = tokio::io::split(stream.compat());
                tokio::io::copy(&mut reader, &mut writer).await.ok();
            });
        }
    }

    fn mux_and_guest() -> (Mux, DuplexStream) {
        let (host, guest) = duplex(CHANNEL_BYTES);
        (Mux::over(host), guest)
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
        assert_eq!(reason.to_string(), "the guest opened a stream");
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
            // Going away for no reason there is.
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
