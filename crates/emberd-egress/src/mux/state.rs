//! The streams of one session, with what is held for each.

use std::collections::{HashMap, VecDeque};
use std::task::Waker;

use bytes::{Buf as _, BufMut as _, BytesMut};
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::Notify;

/// Bytes that each side may send on a new stream (yamux specification), and most bytes of one
/// stream that the host holds unread (256 KiB).
pub(super) const WINDOW_BYTES: usize = 256 << 10;

/// Most streams of one session; further ones are reset. Above the most connections of a sandbox,
/// so that those over its limit are refused with their reason.
pub(super) const STREAMS_MAX: usize = 1024 + 256;

/// Most bytes of one session that the host holds unread (64 MiB). The stream whose data exceed it
/// is reset.
pub(super) const UNREAD_BYTES_MAX: usize = 64 << 20;

/// Most bytes of one stream that wait until the guest takes them (64 KiB).
pub(super) const UNSENT_BYTES_MAX: usize = 64 << 10;

/// Resets that wait until the guest takes them; nothing more is read from it in the meantime.
pub(super) const RESETS_MAX: usize = 1024;

/// Bytes of a frame's header (yamux specification): version, kind, flags in two bytes, stream in
/// four, length in four.
pub(super) const HEADER_BYTES: usize = 12;

/// Bytes of one stream that are sent before another's turn (64 KiB).
pub(super) const PIECE_BYTES_MAX: usize = 64 << 10;

/// Bytes that are sent in one write, less one piece.
pub(super) const BATCH_BYTES: usize = 48 << 10;

/// Kinds of frames.
pub(super) const DATA: u8 = 0;
pub(super) const WINDOW_UPDATE: u8 = 1;
pub(super) const PING: u8 = 2;
pub(super) const GO_AWAY: u8 = 3;

/// Flags of frames.
pub(super) const SYN: u16 = 1;
pub(super) const ACK: u16 = 2;
pub(super) const FIN: u16 = 4;
pub(super) const RST: u16 = 8;

/// State that the two halves of one session share.
#[derive(Default)]
pub(super) struct Shared {
    pub state: Mutex<State>,
    /// Notified when there may be something to send.
    pub sendable: Notify,
    /// Notified when resets were sent.
    pub reset: Notify,
}

#[derive(Default)]
pub(super) struct State {
    pub streams: HashMap<u32, Slot>,
    /// Streams with something to send, each once.
    pub ready: VecDeque<u32>,
    /// Streams to reset.
    pub resets: VecDeque<u32>,
    /// Value of the latest ping, until it is answered.
    pub pong: Option<u32>,
    /// Unread bytes of all streams.
    pub unread: usize,
    pub ended: bool,
}

/// One stream, until its [`MuxStream`] is dropped.
#[derive(Default)]
pub(super) struct Slot {
    /// From the guest, not taken yet.
    pub inbound: BytesMut,
    /// Bytes from the guest that are held, here or by the reader.
    pub unread: usize,
    /// Bytes that the reader has dealt with and the guest does not know of.
    pub owed: usize,
    /// Bytes that the guest may send.
    pub window: usize,
    pub inbound_end: End,
    /// Whether data of the guest are thrown away.
    pub discards: bool,
    /// To the guest, not sent yet.
    pub unsent: BytesMut,
    /// Bytes that the guest takes.
    pub credit: u32,
    pub outbound_end: OutboundEnd,
    pub acknowledged: bool,
    pub listed: bool,
    pub reader: Option<Waker>,
    pub writer: Option<Waker>,
}

#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum End {
    #[default]
    Open,
    Finished,
    Reset,
}

#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum OutboundEnd {
    #[default]
    Open,
    Asked,
    Sent,
}

impl Slot {
    pub fn new(credit: u32) -> Self {
        Self { window: WINDOW_BYTES, credit, ..Self::default() }
    }

    pub fn can_send(&self) -> bool {
        !self.acknowledged
            || self.owes_window()
            || !self.unsent.is_empty() && self.credit > 0
            || self.unsent.is_empty() && self.outbound_end == OutboundEnd::Asked
    }

    pub fn owes_window(&self) -> bool {
        self.owed >= WINDOW_BYTES / 2 && self.inbound_end == End::Open
    }

    pub fn wake(&mut self) {
        wake(&mut self.reader);
        wake(&mut self.writer);
    }

    /// Drops what the stream holds; its reader and writer fail.
    pub fn reset(&mut self) {
        self.inbound_end = End::Reset;
        (self.inbound, self.unsent) = (BytesMut::new(), BytesMut::new());
        self.wake();
    }
}

impl Shared {
    pub fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }
}

impl State {
    /// Lists the stream among those with something to send; returns whether it is new there.
    pub fn offer(&mut self, id: u32) -> bool {
        match self.streams.get_mut(&id) {
            Some(slot) if !slot.listed && slot.inbound_end != End::Reset && slot.can_send() => {
                slot.listed = true;
                self.ready.push_back(id);
                true
            }
            _ => false,
        }
    }

    /// Appends what comes next to the guest, at most about [`BATCH_BYTES`].
    pub fn gather(&mut self, out: &mut BytesMut) {
        if let Some(value) = self.pong.take() {
            put_header(out, PING, ACK, 0, value);
        }
        while out.len() < BATCH_BYTES {
            let Some(id) = self.resets.pop_front() else { break };
            put_header(out, WINDOW_UPDATE, RST, id, 0);
        }
        while out.len() < BATCH_BYTES {
            let Some(id) = self.ready.pop_front() else { break };
            if let Some(slot) = self.streams.get_mut(&id) {
                slot.listed = false;
                if slot.inbound_end != End::Reset {
                    slot.send(id, out);
                }
            }
            self.offer(id);
        }
    }

    /// Takes `bytes` of a stream; resets it if the session holds too much.
    pub fn receive(&mut self, id: u32, bytes: &[u8]) {
        let Some(slot) = self.streams.get_mut(&id) else { return };
        if slot.discards || slot.inbound_end != End::Open {
            return;
        }
        if self.unread + bytes.len() > UNREAD_BYTES_MAX {
            slot.reset();
            self.resets.push_back(id);
            return;
        }
        slot.inbound.extend_from_slice(bytes);
        slot.unread += bytes.len();
        self.unread += bytes.len();
        wake(&mut slot.reader);
    }
}

impl Slot {
    /// Appends the frames of one turn.
    pub fn send(&mut self, id: u32, out: &mut BytesMut) {
        if !self.acknowledged || self.owes_window() {
            let flags = if self.acknowledged { 0 } else { ACK };
            put_header(out, WINDOW_UPDATE, flags, id, length(self.owed));
            self.window += std::mem::take(&mut self.owed);
            self.acknowledged = true;
        }
        let bytes = self.unsent.len().min(self.credit as usize).min(PIECE_BYTES_MAX);
        if bytes > 0 {
            put_header(out, DATA, 0, id, length(bytes));
            out.extend_from_slice(&self.unsent[..bytes]);
            self.unsent.advance(bytes);
            self.credit -= length(bytes);
            wake(&mut self.writer);
        }
        if self.unsent.is_empty() {
            // An idle stream holds no memory.
            self.unsent = BytesMut::new();
            if self.outbound_end == OutboundEnd::Asked {
                put_header(out, WINDOW_UPDATE, FIN, id, 0);
                self.outbound_end = OutboundEnd::Sent;
                wake(&mut self.writer);
            }
        }
    }
}

pub(super) fn wake(waiting: &mut Option<Waker>) {
    if let Some(waker) = waiting.take() {
        waker.wake();
    }
}

/// A count of bytes that is bounded by a window.
pub(super) fn length(bytes: usize) -> u32 {
    u32::try_from(bytes).expect("windows have less than 4 GiB")
}

pub(super) fn put_header(out: &mut BytesMut, kind: u8, flags: u16, id: u32, length: u32) {
    out.put_slice(&[0, kind]);
    out.put_u16(flags);
    out.put_u32(id);
    out.put_u32(length);
}
