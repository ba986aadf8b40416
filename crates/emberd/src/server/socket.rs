//! An accepted connection's bytes: it breaks when its client takes nothing for too long, and when
//! somebody cuts it, whatever is spoken on it.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use rustix::net::sockopt::set_socket_send_buffer_size;
use rustix::net::{SendFlags, send};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::{Sleep, sleep};
use tokio_util::either::Either;
use tokio_util::sync::{CancellationToken, DropGuard, WaitForCancellationFutureOwned};

/// The two kinds of them.
pub(crate) type Stream = Either<TcpStream, UnixStream>;

/// How long a client may take nothing of what is sent to it.
pub(crate) const STALL_MAX: Duration = Duration::from_secs(30);

/// What the kernel may hold of what a client has not taken, in bytes (256 KiB, which it doubles):
/// left to itself it takes megabytes of TCP.
const TCP_BUFFER_BYTES: usize = 256 << 10;

/// A connection as the rest of the daemon knows it. Clones are the same.
#[derive(Debug, Clone, Default)]
pub(crate) struct Connection {
    cut: CancellationToken,
    closed: CancellationToken,
}

impl Connection {
    /// Breaks it off, whoever waits for it.
    pub fn cut(&self) {
        self.cut.cancel();
    }

    /// Whether it was.
    #[cfg(test)]
    pub fn is_cut(&self) -> bool {
        self.cut.is_cancelled()
    }

    /// Waits until nobody speaks on it any more.
    pub async fn closed(&self) {
        self.closed.cancelled().await;
    }
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Socket {
    stream: Stream,
    cut: CancellationToken,
    cut_reading: Pin<Box<WaitForCancellationFutureOwned>>,
    cut_writing: Pin<Box<WaitForCancellationFutureOwned>>,
    /// Runs out when a write has waited for too long.
    stall: Option<Pin<Box<Sleep>>>,
    _closed: DropGuard,
}

impl Socket {
    /// `stream`, known to others as `connection`.
    pub fn new(stream: Stream, connection: &Connection) -> Self {
        if let Either::Left(tcp) = &stream {
            // The other end may have left by now. That is seen soon enough.
            tcp.set_nodelay(true).ok();
            set_socket_send_buffer_size(tcp, TCP_BUFFER_BYTES).ok();
        }
        let Connection { cut, closed } = connection.clone();
        let waiting = || Box::pin(cut.clone().cancelled_owned());
        let (cut_reading, cut_writing) = (waiting(), waiting());
        Self { stream, cut, cut_reading, cut_writing, stall: None, _closed: closed.drop_guard() }
    }

    /// Has the other end see no orderly end: it would believe that it had received everything.
    /// Unix sockets have no such word.
    pub fn reset(&self) {
        if let Either::Left(tcp) = &self.stream {
            // One that is closed already needs no other end.
            tcp.set_zero_linger().ok();
        }
    }

    /// What a write of `bytes` comes to that has to wait.
    fn wait(&mut self, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.cut_writing.as_mut().poll(context).is_ready() {
            return Poll::Ready(Err(self.broken()));
        }
        let stall = self.stall.get_or_insert_with(|| Box::pin(sleep(STALL_MAX)));
        ready!(stall.as_mut().poll(context));
        // The kernel says that there is room only when that is a good part of its buffer; of a
        // client that has taken a little it is told by asking.
        let sent = match &self.stream {
            Either::Left(tcp) => send(tcp, bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL),
            Either::Right(unix) => send(unix, bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL),
        };
        if let Ok(sent @ 1..) = sent {
            self.stall = None;
            return Poll::Ready(Ok(sent));
        }
        self.reset();
        let error = format!("the client took nothing for {STALL_MAX:?}");
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, error)))
    }

    fn broken(&self) -> io::Error {
        self.reset();
        io::Error::new(io::ErrorKind::ConnectionAborted, "the connection was cut")
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.cut.is_cancelled() {
            return Poll::Ready(Err(self.broken()));
        }
        let read = Pin::new(&mut self.stream).poll_read(context, buffer);
        if read.is_pending() && self.cut_reading.as_mut().poll(context).is_ready() {
            return Poll::Ready(Err(self.broken()));
        }
        read
    }
}

impl AsyncWrite for Socket {
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
        if self.cut.is_cancelled() {
            return Poll::Ready(Err(self.broken()));
        }
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, pieces);
        if written.is_pending() {
            let first = pieces.iter().find(|piece| !piece.is_empty());
            return self.wait(context, first.map_or(&[], |piece| piece));
        }
        self.stall = None;
        written
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
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
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::time::Instant;

    use super::*;

    fn pair() -> (Socket, Connection, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let connection = Connection::default();
        (Socket::new(Either::Right(ours), &connection), connection, theirs)
    }

    /// Writes until it fails, and says with what.
    async fn write_on(socket: &mut (impl AsyncWrite + Unpin)) -> io::ErrorKind {
        loop {
            if let Err(error) = socket.write_all(&[0; 4096]).await {
                return error.kind();
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_takes_nothing_is_cut() {
        let (mut socket, connection, _theirs) = pair();
        let start = Instant::now();
        assert_eq!(write_on(&mut socket).await, io::ErrorKind::TimedOut);
        assert!(start.elapsed() >= STALL_MAX);
        drop(socket);
        connection.closed().await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_takes_a_little_now_and_then_is_not() {
        let (mut socket, _, mut theirs) = pair();
        let reader = tokio::spawn(async move {
            for _ in 0..10 {
                sleep(STALL_MAX / 2).await;
                let mut taken = vec![0; 64 << 10];
                theirs.read_exact(&mut taken).await.unwrap();
            }
            theirs
        });
        let start = Instant::now();
        assert_eq!(write_on(&mut socket).await, io::ErrorKind::TimedOut);
        assert!(start.elapsed() >= STALL_MAX * 5);
        drop(reader.await.unwrap());
    }

    #[tokio::test(start_paused = true)]
    async fn a_cut_wakes_readers_and_writers() {
        let (socket, connection, _theirs) = pair();
        let (mut reading, mut writing) = tokio::io::split(socket);
        let read = tokio::spawn(async move { reading.read(&mut [0; 8]).await.unwrap_err().kind() });
        let written = tokio::spawn(async move { write_on(&mut writing).await });
        tokio::task::yield_now().await;
        connection.cut();
        assert_eq!(read.await.unwrap(), io::ErrorKind::ConnectionAborted);
        assert_eq!(written.await.unwrap(), io::ErrorKind::ConnectionAborted);
        connection.closed().await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_reader_may_wait_for_ever() {
        let (mut socket, connection, _theirs) = pair();
        let cut = async {
            sleep(STALL_MAX * 1000).await;
            connection.cut();
        };
        let (read, ()) = tokio::join!(socket.read_u8(), cut);
        assert_eq!(read.unwrap_err().kind(), io::ErrorKind::ConnectionAborted);
    }
}
