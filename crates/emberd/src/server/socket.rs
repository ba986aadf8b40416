//! The sockets that the kernel accepts, TCP and Unix. A write fails when the client takes nothing
//! for too long.

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

use super::connection::{Connection, Peer};

/// How long a client may take nothing of what is sent to it.
const STALL_MAX: Duration = Duration::from_secs(30);

/// Send buffer of a TCP connection, in bytes (256 KiB, which the kernel doubles). By default the
/// kernel keeps megabytes for a client that reads nothing.
const TCP_BUFFER_BYTES: usize = 256 << 10;

/// See the module.
#[derive(Debug)]
pub(crate) struct Socket {
    stream: Either<TcpStream, UnixStream>,
    /// Fires when a write has waited for too long; none while no write waits.
    stall: Option<Pin<Box<Sleep>>>,
}

impl From<TcpStream> for Socket {
    fn from(tcp: TcpStream) -> Self {
        // These fail if the peer has left already, which the next read reports.
        tcp.set_nodelay(true).ok();
        set_socket_send_buffer_size(&tcp, TCP_BUFFER_BYTES).ok();
        Self { stream: Either::Left(tcp), stall: None }
    }
}

impl From<UnixStream> for Socket {
    fn from(unix: UnixStream) -> Self {
        Self { stream: Either::Right(unix), stall: None }
    }
}

impl Connection for Socket {
    fn peer(&self) -> Peer {
        match &self.stream {
            Either::Left(tcp) => tcp.peer_addr().map_or(Peer::Unknown, Peer::Address),
            Either::Right(unix) => unix.peer_cred().map_or(Peer::Unknown, Peer::Credentials),
        }
    }

    /// TCP sends a reset. A Unix socket has nothing of the kind.
    fn abort(&self) {
        if let Either::Left(tcp) = &self.stream {
            // This fails if the socket is closed already.
            tcp.set_zero_linger().ok();
        }
    }
}

impl Socket {
    /// Waits for the first byte that the client sends, and leaves it there to be read; none if it
    /// sends none, or over a Unix socket.
    pub async fn first_byte(&self) -> io::Result<Option<u8>> {
        let Either::Left(tcp) = &self.stream else { return Ok(None) };
        let mut first = [0];
        Ok((tcp.peek(&mut first).await? > 0).then_some(first[0]))
    }

    /// Waits with a write of `bytes` for which the kernel has reported no room, and tries it once
    /// more when the wait is over. The kernel reports room only when much of its buffer is free,
    /// so a client that reads slowly can have taken something all the same.
    fn wait(&mut self, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let stall = self.stall.get_or_insert_with(|| Box::pin(sleep(STALL_MAX)));
        ready!(stall.as_mut().poll(context));
        let sent = match &self.stream {
            Either::Left(tcp) => send(tcp, bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL),
            Either::Right(unix) => send(unix, bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL),
        };
        if let Ok(sent @ 1..) = sent {
            self.stall = None;
            return Poll::Ready(Ok(sent));
        }
        self.abort();
        let error = format!("the client read nothing for {STALL_MAX:?}");
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, error)))
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
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
    use tokio::net::TcpListener;
    use tokio::time::Instant;

    use super::*;

    fn pair() -> (Socket, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        (Socket::from(ours), theirs)
    }

    /// Writes until that fails, and returns how.
    async fn write_on(socket: &mut (impl AsyncWrite + Unpin)) -> io::ErrorKind {
        loop {
            if let Err(error) = socket.write_all(&[0; 4096]).await {
                return error.kind();
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_write_to_a_client_that_takes_nothing_fails() {
        let (mut socket, _theirs) = pair();
        let start = Instant::now();
        assert_eq!(write_on(&mut socket).await, io::ErrorKind::TimedOut);
        assert!(start.elapsed() >= STALL_MAX);
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_takes_a_little_now_and_then_is_waited_for() {
        let (mut socket, mut theirs) = pair();
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

    #[tokio::test]
    async fn an_aborted_tcp_connection_is_reset() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        for aborts in [false, true] {
            let mut theirs = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
            let socket = Socket::from(listener.accept().await.unwrap().0);
            let Peer::Address(address) = socket.peer() else { panic!("{:?}", socket.peer()) };
            assert_eq!(address, theirs.local_addr().unwrap());
            if aborts {
                socket.abort();
            }
            drop(socket);
            let read = theirs.read(&mut [0; 1]).await.map_err(|error| error.kind());
            let expect = if aborts { Err(io::ErrorKind::ConnectionReset) } else { Ok(0) };
            assert_eq!(read, expect);
        }
    }
}
