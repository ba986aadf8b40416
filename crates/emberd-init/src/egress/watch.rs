//! What a mux session does not tell: whether a stream ended by a reset.
//!
//! The mux reports an end of data and a reset alike, but programs must not take a connection that
//! failed for one that ended. So the headers of its frames are read as they pass:
//!
//! ```text
//! host ─▶ Watched: notes resets, and the end ─▶ the mux ─▶ streams
//! ```

use std::collections::HashMap;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use futures::io::{AsyncRead, AsyncWrite};
use parking_lot::Mutex;

/// Size of a frame's header, in bytes (yamux specification): version, kind, flags in two bytes,
/// stream in four, length in four.
const HEADER_BYTES: usize = 12;

/// Kinds of frames: data, and the end of a session.
const DATA: u8 = 0;
const GO_AWAY: u8 = 3;

/// Flag of a frame that resets its stream.
const RESET: u16 = 8;

/// Ends of the streams of one session.
#[derive(Debug, Default)]
pub struct Watch {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Open streams, and whether each was reset.
    streams: HashMap<u32, bool>,
    ended: bool,
}

impl Watch {
    /// Begins to watch a stream.
    pub fn add(&self, stream: u32) {
        self.state.lock().streams.insert(stream, false);
    }

    /// Forgets a stream.
    pub fn remove(&self, stream: u32) {
        self.state.lock().streams.remove(&stream);
    }

    /// Returns whether the end of a stream's data was a failure.
    pub fn failed(&self, stream: u32) -> bool {
        let state = self.state.lock();
        state.ended || state.streams.get(&stream).copied().unwrap_or(true)
    }

    /// Makes every end of data from now on a failure: the session has ended.
    pub fn end(&self) {
        self.state.lock().ended = true;
    }

    fn note(&self, header: [u8; HEADER_BYTES]) {
        let [_, kind, f0, f1, i0, i1, i2, i3, ..] = header;
        if kind == GO_AWAY {
            self.end();
        } else if u16::from_be_bytes([f0, f1]) & RESET != 0
            && let Some(reset) =
                self.state.lock().streams.get_mut(&u32::from_be_bytes([i0, i1, i2, i3]))
        {
            *reset = true;
        }
    }
}

/// The byte stream under a session.
#[derive(Debug)]
pub struct Watched<T> {
    stream: T,
    watch: Arc<Watch>,
    header: [u8; HEADER_BYTES],
    header_bytes: usize,
    /// Bytes of the frame that follow its header.
    body_bytes: usize,
}

impl<T> Watched<T> {
    /// Watches `stream`.
    pub fn new(stream: T, watch: Arc<Watch>) -> Self {
        Self { stream, watch, header: [0; HEADER_BYTES], header_bytes: 0, body_bytes: 0 }
    }

    fn pass(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let body = bytes.len().min(self.body_bytes);
            self.body_bytes -= body;
            bytes = &bytes[body..];
            let part = bytes.len().min(HEADER_BYTES - self.header_bytes);
            self.header[self.header_bytes..][..part].copy_from_slice(&bytes[..part]);
            self.header_bytes += part;
            bytes = &bytes[part..];
            if self.header_bytes == HEADER_BYTES {
                self.header_bytes = 0;
                let [_, kind, .., l0, l1, l2, l3] = self.header;
                let length = u32::from_be_bytes([l0, l1, l2, l3]);
                self.body_bytes = if kind == DATA { length as usize } else { 0 };
                self.watch.note(self.header);
            }
        }
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Watched<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let read = ready!(Pin::new(&mut self.stream).poll_read(context, buffer));
        match read {
            Ok(bytes) if bytes > 0 => self.pass(&buffer[..bytes]),
            _ => self.watch.end(),
        }
        Poll::Ready(read)
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Watched<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.stream).poll_write(context, bytes));
        if written.is_err() {
            self.watch.end();
        }
        Poll::Ready(written)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = ready!(Pin::new(&mut self.stream).poll_flush(context));
        if flushed.is_err() {
            self.watch.end();
        }
        Poll::Ready(flushed)
    }

    fn poll_close(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_close(context)
    }
}

#[cfg(test)]
mod tests {
    use futures::AsyncReadExt as _;
    use futures::io::Cursor;

    use super::*;

    fn frame(kind: u8, flags: u8, stream: u8, body: &[u8]) -> Vec<u8> {
        let length = u8::try_from(body.len()).unwrap();
        let mut frame = vec![0, kind, 0, flags, 0, 0, 0, stream, 0, 0, 0, length];
        frame.extend(body);
        frame
    }

    #[tokio::test]
    async fn chunk_size_never_changes_what_is_noted() {
        // The data look like a reset of stream 1.
        let frames =
            [frame(0, 0, 1, &frame(1, 8, 1, b"")), frame(1, 8, 3, b""), frame(1, 4, 5, b"")];
        let bytes = frames.concat();
        for chunk_bytes in 1..=bytes.len() {
            let watch = Arc::new(Watch::default());
            for stream in [1, 3, 5] {
                watch.add(stream);
            }
            let mut watched = Watched::new(Cursor::new(&bytes), Arc::clone(&watch));
            let mut chunk = vec![0; chunk_bytes];
            let mut passed = 0;
            while passed < bytes.len() {
                passed += watched.read(&mut chunk).await.unwrap();
            }
            let failed = [1, 3, 5].map(|stream| watch.failed(stream));
            assert_eq!(failed, [false, true, false], "{chunk_bytes}");
            assert_eq!(watched.read(&mut chunk).await.unwrap(), 0);
            assert!(watch.failed(1), "the session has ended");
        }
    }

    #[test]
    fn streams_that_nobody_watches_are_not_kept() {
        let watch = Watch::default();
        watch.add(1);
        watch.remove(1);
        watch.note(frame(1, 8, 1, b"").try_into().unwrap());
        assert!(watch.state.lock().streams.is_empty());
        watch.note(frame(GO_AWAY, 0, 0, b"").try_into().unwrap());
        assert!(watch.state.lock().ended);
    }
}
