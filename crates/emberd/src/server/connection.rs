//! What the server needs of a connection, whatever carries its bytes.
//!
//! ```text
//! accept ─▶ Socket (TCP, Unix) ─▶ [TLS over it] ─▶ Abortable ─▶ HTTP ─▶ upgrade: tunnel, WebSocket
//!           └────── each is a Connection ─────┘     └── obeys a ConnectionHandle to its end ──┘
//! ```

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::unix::UCred;
use tokio_util::sync::{CancellationToken, DropGuard, WaitForCancellationFutureOwned};

/// A stream of bytes to a client. Dropping it closes it.
///
/// A stream over another one, such as TLS, passes [`peer`](Self::peer) and
/// [`abort`](Self::abort) on to it.
pub(crate) trait Connection: AsyncRead + AsyncWrite + Send + Unpin + 'static {
    /// The other end, as far as the transport knows it.
    fn peer(&self) -> Peer;

    /// Makes closing it look like a failure to the peer, where the transport can say so. A peer
    /// that sees an orderly end believes that it has received everything. The stream itself ends
    /// when it is dropped.
    fn abort(&self);
}

/// The other end of a connection, as the kernel knows it.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Peer {
    /// The address a TCP connection comes from.
    Address(SocketAddr),
    /// The process that connected to a Unix socket (`SO_PEERCRED`, unix(7)).
    Credentials(UCred),
    /// The transport does not say, or the peer left before it was asked.
    Unknown,
}

impl Peer {
    /// The IP address it connected from; none over a Unix socket.
    pub fn ip(&self) -> Option<IpAddr> {
        match self {
            Self::Address(address) => Some(address.ip().to_canonical()),
            Self::Credentials(_) | Self::Unknown => None,
        }
    }
}

/// Aborts a connection from elsewhere, and waits for its end. Clones are of the same connection.
#[derive(Debug, Clone, Default)]
pub(crate) struct ConnectionHandle {
    aborted: CancellationToken,
    closed: CancellationToken,
}

impl ConnectionHandle {
    /// Aborts the connection: reads and writes fail from now on, those under way included.
    pub fn abort(&self) {
        self.aborted.cancel();
    }

    /// Waits until it is aborted.
    pub async fn aborted(&self) {
        self.aborted.cancelled().await;
    }

    /// Whether it was aborted.
    #[cfg(test)]
    pub fn is_aborted(&self) -> bool {
        self.aborted.is_cancelled()
    }

    /// Waits until the connection is closed.
    pub async fn closed(&self) {
        self.closed.cancelled().await;
    }
}

/// A connection that its [`ConnectionHandle`] can abort, whatever is spoken on it.
#[derive(Debug)]
pub(crate) struct Abortable<C: Connection> {
    connection: C,
    aborted: CancellationToken,
    aborted_reading: Pin<Box<WaitForCancellationFutureOwned>>,
    aborted_writing: Pin<Box<WaitForCancellationFutureOwned>>,
    _closed: DropGuard,
}

impl<C: Connection> Abortable<C> {
    /// Hands `connection` to `handle`.
    pub fn new(connection: C, handle: &ConnectionHandle) -> Self {
        let ConnectionHandle { aborted, closed } = handle.clone();
        let waiting = || Box::pin(aborted.clone().cancelled_owned());
        let (aborted_reading, aborted_writing) = (waiting(), waiting());
        let closed = closed.drop_guard();
        Self { connection, aborted, aborted_reading, aborted_writing, _closed: closed }
    }

    /// Polls the connection to write, unless it is aborted before or while that waits.
    fn write<T>(
        &mut self,
        context: &mut Context<'_>,
        poll: impl FnOnce(Pin<&mut C>, &mut Context<'_>) -> Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        let Self { connection, aborted, aborted_writing, .. } = self;
        unless_aborted(connection, aborted, aborted_writing, context, poll)
    }
}

/// Polls `connection`, unless it is aborted before or while that waits; `waiting` wakes the task
/// on an abort.
fn unless_aborted<C: Connection, T>(
    connection: &mut C,
    aborted: &CancellationToken,
    waiting: &mut Pin<Box<WaitForCancellationFutureOwned>>,
    context: &mut Context<'_>,
    poll: impl FnOnce(Pin<&mut C>, &mut Context<'_>) -> Poll<io::Result<T>>,
) -> Poll<io::Result<T>> {
    if !aborted.is_cancelled() {
        let polled = poll(Pin::new(connection), context);
        if polled.is_ready() || waiting.as_mut().poll(context).is_pending() {
            return polled;
        }
    }
    let error = "the connection was aborted";
    Poll::Ready(Err(io::Error::new(io::ErrorKind::ConnectionAborted, error)))
}

impl<C: Connection> Drop for Abortable<C> {
    fn drop(&mut self) {
        if self.aborted.is_cancelled() {
            self.connection.abort();
        }
    }
}

impl<C: Connection> AsyncRead for Abortable<C> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let Self { connection, aborted, aborted_reading, .. } = &mut *self;
        unless_aborted(connection, aborted, aborted_reading, context, |connection, context| {
            connection.poll_read(context, buffer)
        })
    }
}

impl<C: Connection> AsyncWrite for Abortable<C> {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(context, &[io::IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.write(context, |connection, context| connection.poll_write_vectored(context, pieces))
    }

    fn is_write_vectored(&self) -> bool {
        self.connection.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.write(context, AsyncWrite::poll_flush)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.write(context, AsyncWrite::poll_shutdown)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};
    use tokio::time::sleep;

    use super::super::memory::Memory;
    use super::*;

    fn pair() -> (Abortable<Memory>, ConnectionHandle, DuplexStream) {
        let (ours, theirs) = duplex(64);
        let handle = ConnectionHandle::default();
        (Abortable::new(Memory::new(ours), &handle), handle, theirs)
    }

    #[tokio::test(start_paused = true)]
    async fn an_abort_wakes_readers_and_writers() {
        let (connection, handle, _theirs) = pair();
        let (mut reading, mut writing) = tokio::io::split(connection);
        let read = tokio::spawn(async move { reading.read(&mut [0; 8]).await.unwrap_err().kind() });
        let written =
            tokio::spawn(async move { writing.write_all(&[0; 999]).await.unwrap_err().kind() });
        tokio::task::yield_now().await;
        handle.abort();
        assert_eq!(read.await.unwrap(), io::ErrorKind::ConnectionAborted);
        assert_eq!(written.await.unwrap(), io::ErrorKind::ConnectionAborted);
        handle.closed().await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_reader_may_wait_without_limit() {
        let (mut connection, handle, _theirs) = pair();
        let abort = async {
            sleep(Duration::from_secs(100_000)).await;
            handle.abort();
        };
        let (read, ()) = tokio::join!(connection.read_u8(), abort);
        assert_eq!(read.unwrap_err().kind(), io::ErrorKind::ConnectionAborted);
    }

    #[tokio::test]
    async fn only_an_aborted_connection_looks_broken_to_its_peer() {
        for aborts in [false, true] {
            let (connection, handle, _theirs) = pair();
            let seen = connection.connection.aborted();
            if aborts {
                handle.abort();
            }
            drop(connection);
            assert_eq!(seen.is_cancelled(), aborts);
            handle.closed().await;
        }
    }
}
