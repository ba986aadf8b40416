//! One stream of the session, and its two directions.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use futures::Stream as _;
use futures::io::{AsyncRead, AsyncWrite};
use parking_lot::Mutex;
use tokio::io::ReadBuf;
use yamux::Packet;

use super::watch::Watch;

/// A stream to the host. Dropping it before both directions have ended resets it.
#[derive(Debug)]
pub struct Stream {
    mux: yamux::Stream,
    watch: Arc<Watch>,
}

impl AsyncRead for Stream {
    /// Fails with `ECONNRESET` where the mux reports a reset, or the end of its session, as an
    /// end of data.
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let bytes = ready!(Pin::new(&mut self.mux).poll_read(context, buffer))?;
        let failed = bytes == 0 && !buffer.is_empty() && self.watch.failed(self.mux.id().val());
        Poll::Ready(if failed { Err(io::ErrorKind::ConnectionReset.into()) } else { Ok(bytes) })
    }
}

impl Stream {
    /// Carries the bytes of `mux`, whose session `watch` watches.
    pub fn new(mux: yamux::Stream, watch: Arc<Watch>) -> Self {
        Self { mux, watch }
    }

    /// Returns data of the host as they came in one frame; none at their end. Fails as reading
    /// does.
    fn poll_packet(&mut self, context: &mut Context<'_>) -> Poll<io::Result<Option<Packet>>> {
        let packet = ready!(Pin::new(&mut self.mux).poll_next(context)).transpose()?;
        let failed = packet.is_none() && self.watch.failed(self.mux.id().val());
        Poll::Ready(if failed { Err(io::ErrorKind::ConnectionReset.into()) } else { Ok(packet) })
    }

    /// Splits the stream into its directions.
    pub fn split(self) -> (FromHost, ToHost) {
        let stream = Arc::new(Mutex::new(self));
        (FromHost(Arc::clone(&stream)), ToHost(stream))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.mux).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.mux).poll_flush(context)
    }

    fn poll_close(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.mux).poll_close(context)
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.watch.remove(self.mux.id().val());
    }
}

/// The direction from the host.
#[derive(Debug)]
pub struct FromHost(Arc<Mutex<Stream>>);

impl FromHost {
    /// As [`Stream::poll_packet`]. What is read in this way is not copied.
    pub async fn packet(&mut self) -> io::Result<Option<Packet>> {
        poll_fn(|context| self.0.lock().poll_packet(context)).await
    }
}

impl tokio::io::AsyncRead for FromHost {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let room = buffer.initialize_unfilled();
        let bytes = ready!(Pin::new(&mut *self.0.lock()).poll_read(context, room))?;
        buffer.advance(bytes);
        Poll::Ready(Ok(()))
    }
}

/// The direction to the host.
#[derive(Debug)]
pub struct ToHost(Arc<Mutex<Stream>>);

impl tokio::io::AsyncWrite for ToHost {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.0.lock()).poll_write(context, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.0.lock()).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.0.lock()).poll_close(context)
    }
}
