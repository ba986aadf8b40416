//! A byte stream that writes only when it is flushed.
//!
//! The mux writes a frame's header and body separately, and flushes after each frame. Every write
//! to a port is a buffer and a call to the VMM, which costs far more than copying the bytes.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use emberd_proto::mux::HEADER_BYTES;
use futures::io::{AsyncRead, AsyncWrite};

/// Maximum number of buffered bytes (32 KiB): what the kernel passes on in one write to a virtio
/// port (`port_fops_write` in `drivers/char/virtio_console.c`).
pub const GATHERED_BYTES_MAX: usize = 32 << 10;

/// Maximum number of bytes of data in a frame of a mux over a [`Gather`]: so many that it is sent
/// in one write, together with its header.
pub const FRAME_BYTES_MAX: usize = GATHERED_BYTES_MAX - HEADER_BYTES;

/// Bytes that the host may have on their way above the 256 KiB that yamux grants each stream from
/// the start, over all streams (1 MiB). A stream is granted more while it has used up half of its
/// window within two round trips: the one that carries all of egress would wait for the host.
const WIDER_BYTES_MAX: usize = 1 << 20;

/// Returns the configuration of a mux over a [`Gather`], with at most `streams_max` streams.
pub fn mux_config(streams_max: usize) -> yamux::Config {
    let mut config = yamux::Config::default();
    config.set_max_num_streams(streams_max);
    let unread_bytes_max = streams_max * yamux::DEFAULT_CREDIT as usize + WIDER_BYTES_MAX;
    config.set_max_connection_receive_window(Some(unread_bytes_max));
    config.set_split_send_size(FRAME_BYTES_MAX);
    config
}

/// A byte stream that writes only when it is flushed.
#[derive(Debug)]
pub struct Gather<T> {
    stream: T,
    /// Buffered bytes.
    waiting: Vec<u8>,
    /// Number of those bytes that have been written.
    passed: usize,
}

impl<T: AsyncWrite + Unpin> Gather<T> {
    /// Buffers writes to `stream`.
    pub fn new(stream: T) -> Self {
        Self { stream, waiting: Vec::with_capacity(GATHERED_BYTES_MAX), passed: 0 }
    }

    /// Writes all buffered bytes.
    fn poll_pass(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.passed < self.waiting.len() {
            let rest = &self.waiting[self.passed..];
            match ready!(Pin::new(&mut self.stream).poll_write(context, rest))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                bytes => self.passed += bytes,
            }
        }
        self.waiting.clear();
        self.passed = 0;
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Gather<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Gather<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.waiting.len() == GATHERED_BYTES_MAX || self.passed > 0 {
            ready!(self.poll_pass(context))?;
        }
        let room = GATHERED_BYTES_MAX - self.waiting.len();
        let taken = &bytes[..bytes.len().min(room)];
        self.waiting.extend_from_slice(taken);
        Poll::Ready(Ok(taken.len()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_pass(context))?;
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_close(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_pass(context))?;
        Pin::new(&mut self.stream).poll_close(context)
    }
}

#[cfg(test)]
mod tests {
    use futures::AsyncWriteExt as _;
    use futures::FutureExt as _;

    use super::*;

    /// Takes at most so many bytes in one write, and none in every other attempt.
    #[derive(Default)]
    struct Narrow {
        writes: Vec<Vec<u8>>,
        bytes_max: usize,
        is_full: bool,
    }

    impl AsyncWrite for Narrow {
        fn poll_write(
            mut self: Pin<&mut Self>,
            context: &mut Context<'_>,
            bytes: &[u8],
        ) -> Poll<io::Result<usize>> {
            self.is_full = !self.is_full;
            if self.is_full {
                context.waker().wake_by_ref();
                return Poll::Pending;
            }
            let taken = &bytes[..bytes.len().min(self.bytes_max)];
            self.writes.push(taken.to_vec());
            Poll::Ready(Ok(taken.len()))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    #[tokio::test]
    async fn header_and_body_are_one_write() {
        let mut gather = Gather::new(Narrow { bytes_max: usize::MAX, ..Narrow::default() });
        gather.write_all(b"header").await.unwrap();
        gather.write_all(b"body").await.unwrap();
        assert!(gather.stream.writes.is_empty(), "nothing is written before the flush");
        gather.flush().await.unwrap();
        gather.flush().await.unwrap();
        assert_eq!(gather.stream.writes, [b"headerbody"]);
    }

    #[tokio::test]
    async fn nothing_is_lost_or_held_beyond_the_limit() {
        let mut gather = Gather::new(Narrow { bytes_max: 1000, ..Narrow::default() });
        let bytes: Vec<u8> = (0..=250).cycle().take(3 * GATHERED_BYTES_MAX + 1).collect();
        for piece in bytes.chunks(777) {
            gather.write_all(piece).await.unwrap();
            assert!(gather.waiting.len() <= GATHERED_BYTES_MAX);
        }
        gather.close().await.unwrap();
        assert_eq!(gather.stream.writes.concat(), bytes);
    }

    #[tokio::test]
    async fn a_stream_that_takes_nothing_keeps_its_writer_waiting() {
        let mut gather = Gather::new(Narrow { bytes_max: 1, ..Narrow::default() });
        gather.write_all(&vec![7; GATHERED_BYTES_MAX]).await.unwrap();
        assert!(gather.write(b"more").now_or_never().is_none());
    }
}
