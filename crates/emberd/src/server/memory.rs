//! A connection in memory, for tests. Like TLS it is a stream over another one, with bytes that
//! differ from those written: what goes around it is garbage to the peer.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf};
use tokio_util::sync::CancellationToken;

use super::connection::{Connection, Peer};

/// Combined with each byte on the wire by exclusive or.
const MASK: u8 = 0x55;

/// See the module. Both ends of a connection are one of these.
#[derive(Debug)]
pub struct Memory {
    wire: DuplexStream,
    aborted: CancellationToken,
}

impl Memory {
    /// A connection over `wire`.
    pub fn new(wire: DuplexStream) -> Self {
        Self { wire, aborted: CancellationToken::new() }
    }

    /// Cancelled by [`Connection::abort`].
    pub fn aborted(&self) -> CancellationToken {
        self.aborted.clone()
    }
}

impl Connection for Memory {
    fn peer(&self) -> Peer {
        Peer::Unknown
    }

    fn abort(&self) {
        self.aborted.cancel();
    }
}

impl AsyncRead for Memory {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.wire).poll_read(context, buffer))?;
        buffer.filled_mut()[before..].iter_mut().for_each(|byte| *byte ^= MASK);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Memory {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let masked: Vec<_> = bytes.iter().map(|byte| byte ^ MASK).collect();
        Pin::new(&mut self.wire).poll_write(context, &masked)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.wire).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.wire).poll_shutdown(context)
    }
}
