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
