//! One stream of the session, and its two directions.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, Bytes};
use emberd_proto::mux::HEADER_BYTES;
use tokio::io::{AsyncRead, ReadBuf};

use super::mux::{End, OutboundEnd, Shared, Slot};

/// Pieces that are written at once, at most.
const SLICES_MAX: usize = 16;

/// A stream to the host. Dropping it before both directions have ended in order resets it.
#[derive(Debug)]
struct Stream {
    id: u32,
    shared: Arc<Shared>,
}

/// Opens a stream of a session; the host learns of it with its first bytes. None if the session
/// has ended.
pub fn open(shared: &Arc<Shared>) -> Option<(FromHost, ToHost)> {
    let id = shared.lock().open()?;
    let stream = Arc::new(Stream { id, shared: Arc::clone(shared) });
    let from_host = FromHost { stream: Arc::clone(&stream), pieces: VecDeque::new() };
    Some((from_host, ToHost(stream)))
}

impl Stream {
    /// Calls `poll` with the stream, and has sent what there is to send afterwards. Fails once
    /// the session has ended.
    fn poll<T>(&self, poll: impl FnOnce(&mut Slot) -> Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        let mut state = self.shared.lock();
        let ended = state.ended;
        let slot = state.streams.get_mut(&self.id).expect("removed when dropped");
        let outcome = poll(slot);
        if ended && outcome.is_pending() {
            return Poll::Ready(Err(reset()));
        }
        state.offer(self.id);
        outcome
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.shared.lock().close(self.id);
    }
}

fn reset() -> io::Error {
    io::ErrorKind::ConnectionReset.into()
}

/// The direction from the host.
#[derive(Debug)]
pub struct FromHost {
    stream: Arc<Stream>,
    /// Taken from the session, not consumed yet.
    pieces: VecDeque<Bytes>,
}

impl FromHost {
    /// Waits for data; returns whether there are any, and not the end of them. Cancel safe.
    ///
    /// # Errors
    /// If the host reset the stream, or the session has ended.
    pub async fn ready(&mut self) -> io::Result<bool> {
        poll_fn(|context| self.poll_ready(context)).await
    }

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<io::Result<bool>> {
        if !self.pieces.is_empty() {
            return Poll::Ready(Ok(true));
        }
        let pieces = &mut self.pieces;
        self.stream.poll(|slot| {
            slot.take(pieces);
            match slot.inbound_end {
                _ if !pieces.is_empty() => Poll::Ready(Ok(true)),
                End::Finished => Poll::Ready(Ok(false)),
                End::Reset => Poll::Ready(Err(reset())),
                End::Open => {
                    slot.reader = Some(context.waker().clone());
                    Poll::Pending
                }
            }
        })
    }

    /// The data that have come, or the beginning of them.
    pub fn slices(&self) -> [IoSlice<'_>; SLICES_MAX] {
        let mut pieces = self.pieces.iter();
        std::array::from_fn(|_| IoSlice::new(pieces.next().map_or(&[], |piece| piece)))
    }

    /// Drops the first `bytes` of the data; the host may send as many again.
    pub fn consume(&mut self, bytes: usize) {
        let mut left = bytes;
        while let Some(piece) = self.pieces.front_mut()
            && left > 0
        {
            let part = left.min(piece.len());
            left -= part;
            piece.advance(part);
            if piece.is_empty() {
                self.pieces.pop_front();
            }
        }
        self.stream.shared.lock().took(self.stream.id, bytes);
    }
}

impl AsyncRead for FromHost {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if ready!(self.poll_ready(context))?
            && let Some(piece) = self.pieces.front()
        {
            let bytes = piece.len().min(buffer.remaining());
            buffer.put_slice(&piece[..bytes]);
            self.consume(bytes);
        }
        Poll::Ready(Ok(()))
    }
}

/// The direction to the host.
#[derive(Debug)]
pub struct ToHost(Arc<Stream>);

impl ToHost {
    /// Waits until the host takes data; returns how many bytes.
    ///
    /// # Errors
    /// If the host reset the stream, or the session has ended.
    pub async fn room(&self) -> io::Result<usize> {
        self.until(|slot| (slot.credit > 0).then_some(slot.credit)).await
    }

    /// Sends the data that `buffer` holds from [`HEADER_BYTES`], which are room for a header, to
    /// `end`: no more than there is [`Self::room`] for. Returns the buffer once they are on their
    /// way.
    ///
    /// # Errors
    /// If the host reset the stream, or the session has ended.
    pub async fn send(&mut self, buffer: Vec<u8>, end: usize) -> io::Result<Vec<u8>> {
        let mut buffer = Some(buffer);
        self.until(|slot| {
            if let Some(buffer) = buffer.take() {
                slot.send(self.0.id, buffer, end);
            }
            slot.spare.take()
        })
        .await
    }

    /// Sends `bytes`.
    ///
    /// # Errors
    /// If the host reset the stream, or the session has ended.
    pub async fn send_all(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let (part, rest) = bytes.split_at(bytes.len().min(self.room().await?));
            let frame = [&[0; HEADER_BYTES], part].concat();
            let end = frame.len();
            self.send(frame, end).await?;
            bytes = rest;
        }
        Ok(())
    }

    /// Ends the direction; returns when the host has been sent everything.
    ///
    /// # Errors
    /// If the host reset the stream, or the session has ended.
    pub async fn finish(&mut self) -> io::Result<()> {
        self.until(|slot| {
            if slot.outbound_end == OutboundEnd::Open {
                slot.outbound_end = OutboundEnd::Asked;
            }
            (slot.outbound_end == OutboundEnd::Sent).then_some(())
        })
        .await
    }

    /// Waits until `look` finds something.
    async fn until<T>(&self, mut look: impl FnMut(&mut Slot) -> Option<T>) -> io::Result<T> {
        poll_fn(|context| {
            self.0.poll(|slot| {
                if slot.is_reset {
                    return Poll::Ready(Err(reset()));
                }
                if let Some(found) = look(slot) {
                    return Poll::Ready(Ok(found));
                }
                slot.writer = Some(context.waker().clone());
                Poll::Pending
            })
        })
        .await
    }
}
