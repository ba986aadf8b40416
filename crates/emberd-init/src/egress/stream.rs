//! One stream of the session, and its two directions.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use futures::Stream as _;
use futures::io::{AsyncRead as _, AsyncWrite as _};
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use yamux::Packet;

use super::watch::Watch;

/// A stream to the host. Dropping it before both directions have ended resets it.
#[derive(Debug)]
pub struct Stream {
    mux: yamux::Stream,
    watch: Arc<Watch>,
}

impl Stream {
    /// Carries the bytes of `mux`, whose session `watch` watches.
    pub fn new(mux: yamux::Stream, watch: Arc<Watch>) -> Self {
        Self { mux, watch }
    }

    /// Fails with `ECONNRESET` where the mux reports a reset, or the end of its session, as an
    /// end of data.
    fn check_end(&self) -> io::Result<()> {
        let failed = self.watch.failed(self.mux.id().val());
        if failed { Err(io::ErrorKind::ConnectionReset.into()) } else { Ok(()) }
    }

    /// Splits the stream into its directions.
    pub fn split(self) -> (FromHost, ToHost) {
        let stream = Arc::new(Mutex::new(self));
        (FromHost(Arc::clone(&stream)), ToHost(stream))
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
    /// Returns the data of one frame, which are not copied; none at the end of data. Fails as
    /// reading does.
    pub async fn packet(&mut self) -> io::Result<Option<Packet>> {
        poll_fn(|context| {
            let mut stream = self.0.lock();
            let packet = ready!(Pin::new(&mut stream.mux).poll_next(context)).transpose()?;
            if packet.is_none() {
                stream.check_end()?;
            }
            Poll::Ready(Ok(packet))
        })
        .await
    }
}

impl AsyncRead for FromHost {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let room = buffer.initialize_unfilled();
        if room.is_empty() {
            return Poll::Ready(Ok(()));
        }
        let mut stream = self.0.lock();
        let bytes = ready!(Pin::new(&mut stream.mux).poll_read(context, room))?;
        if bytes == 0 {
            stream.check_end()?;
        }
        buffer.advance(bytes);
        Poll::Ready(Ok(()))
    }
}

/// The direction to the host.
#[derive(Debug)]
pub struct ToHost(Arc<Mutex<Stream>>);

impl AsyncWrite for ToHost {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0.lock().mux).poll_write(context, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0.lock().mux).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0.lock().mux).poll_close(context)
    }
}
