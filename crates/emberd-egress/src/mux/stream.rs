//! One stream of the mux, as its reader and its writer hold it.

use std::future::poll_fn;
use std::io;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};

use super::state::{End, OutboundEnd, Shared, Slot, UNSENT_BYTES_MAX};

/// A stream that the guest opened. One task at a time may read it, and one may write.
///
/// Dropping it resets the stream, unless both directions have ended in order.
pub(crate) struct MuxStream {
    id: u32,
    shared: Arc<Shared>,
}

impl MuxStream {
    pub(super) fn new(id: u32, shared: Arc<Shared>) -> Self {
        Self { id, shared }
    }

    #[cfg(test)]
    pub(super) fn shared(&self) -> Arc<Shared> {
        Arc::clone(&self.shared)
    }

    /// Waits for data and returns all that the guest has sent; none at the end of data. The guest
    /// may send as much again once [`Self::took`] is told. Cancel safe.
    ///
    /// # Errors
    /// When the guest reset the stream, or the session has ended.
    pub async fn chunk(&self) -> io::Result<Option<Bytes>> {
        poll_fn(|context| {
            self.poll(context, |slot, context| {
                if slot.inbound_end == End::Reset {
                    return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
                }
                if !slot.inbound.is_empty() {
                    let chunk = std::mem::replace(&mut slot.inbound, BytesMut::new());
                    return Poll::Ready(Ok(Some(chunk.freeze())));
                }
                if slot.inbound_end == End::Finished {
                    return Poll::Ready(Ok(None));
                }
                slot.reader = Some(context.waker().clone());
                Poll::Pending
            })
        })
        .await
    }

    /// Records that `bytes` of what [`Self::chunk`] returned are dealt with.
    pub fn took(&self, bytes: usize) {
        let mut state = self.shared.lock();
        let Some(slot) = state.streams.get_mut(&self.id) else { return };
        let bytes = bytes.min(slot.unread);
        slot.unread -= bytes;
        slot.owed += bytes;
        state.unread -= bytes;
        if state.offer(self.id) {
            self.shared.sendable.notify_one();
        }
    }

    /// Passes `bytes` on to the guest; returns when the last of them are on their way, or wait for
    /// little else. Cancelled, some of them may be.
    ///
    /// # Errors
    /// When the guest reset the stream, or the session has ended.
    pub async fn write_all(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let written = poll_fn(|context| self.poll_write(context, bytes)).await?;
            bytes = &bytes[written..];
        }
        Ok(())
    }

    fn poll_write(&self, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll(context, |slot, context| {
            if slot.inbound_end == End::Reset || slot.outbound_end != OutboundEnd::Open {
                return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
            }
            let room = UNSENT_BYTES_MAX.saturating_sub(slot.unsent.len()).min(bytes.len());
            if room == 0 {
                slot.writer = Some(context.waker().clone());
                return Poll::Pending;
            }
            slot.unsent.extend_from_slice(&bytes[..room]);
            Poll::Ready(Ok(room))
        })
    }

    /// Ends the direction to the guest; returns when the guest has been sent everything.
    ///
    /// # Errors
    /// When the guest reset the stream, or the session has ended.
    pub async fn finish(&self) -> io::Result<()> {
        poll_fn(|context| {
            self.poll(context, |slot, context| {
                if slot.inbound_end == End::Reset {
                    return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
                }
                if slot.outbound_end == OutboundEnd::Sent {
                    return Poll::Ready(Ok(()));
                }
                slot.outbound_end = OutboundEnd::Asked;
                slot.writer = Some(context.waker().clone());
                Poll::Pending
            })
        })
        .await
    }

    /// Throws away what the guest has sent and sends from now on.
    pub fn discard(&self) {
        let mut state = self.shared.lock();
        let Some(slot) = state.streams.get_mut(&self.id) else { return };
        slot.discards = true;
        slot.inbound = BytesMut::new();
        let unread = std::mem::take(&mut slot.unread);
        state.unread -= unread;
    }

    /// Waits until the guest resets the stream or the session ends. Takes the reader's place.
    pub async fn broken(&self) {
        poll_fn(|context| {
            let broken = self.poll(context, |slot, context| {
                if slot.inbound_end == End::Reset {
                    return Poll::Ready(Ok(()));
                }
                slot.reader = Some(context.waker().clone());
                Poll::Pending
            });
            broken.map(|_| ())
        })
        .await;
    }

    /// Calls `poll` with the stream, and sends what there is to send afterwards.
    fn poll<T>(
        &self,
        context: &mut Context<'_>,
        poll: impl FnOnce(&mut Slot, &mut Context<'_>) -> Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        let mut state = self.shared.lock();
        if state.ended {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        let slot = state.streams.get_mut(&self.id).expect("removed when dropped");
        let outcome = poll(slot, context);
        if state.offer(self.id) {
            self.shared.sendable.notify_one();
        }
        outcome
    }
}

impl Drop for MuxStream {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        let Some(slot) = state.streams.remove(&self.id) else { return };
        state.unread -= slot.unread;
        let orderly = slot.inbound_end == End::Finished && slot.outbound_end == OutboundEnd::Sent;
        if !orderly && slot.inbound_end != End::Reset {
            state.resets.push_back(self.id);
            self.shared.sendable.notify_one();
        }
    }
}
