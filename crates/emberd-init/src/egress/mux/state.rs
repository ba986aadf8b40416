//! The streams of one session, with what is held for each.

use std::collections::{HashMap, VecDeque};
use std::task::Waker;

use bytes::{Bytes, BytesMut};
use emberd_proto::mux::{
    ACK, DATA, FIN, HEADER_BYTES, Header, PING, RST, SYN, WINDOW_BYTES, WINDOW_UPDATE,
};
use parking_lot::{Mutex, MutexGuard};

/// Bytes of one stream that are on their way, or held here, at most, apart from those that yamux
/// lets the host send at first: 128 KiB, and half as many if there are others, whose bytes come
/// after them. With fewer, the guest would wait for the host.
const AHEAD_BYTES_MAX: usize = 128 << 10;

/// Pieces up to this length are copied together (4 KiB), since each may hold the memory of all
/// that was read with it.
const SMALL_BYTES_MAX: usize = 4 << 10;

/// State that the streams and the task of a session share.
#[derive(Debug, Default)]
pub struct Shared(Mutex<State>);

impl Shared {
    pub fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock()
    }

    /// Makes every stream fail.
    pub fn end(&self) {
        let mut state = self.lock();
        state.ended = true;
        state.streams.values_mut().for_each(Slot::wake);
    }
}

/// All streams.
#[derive(Debug, Default)]
pub struct State {
    pub streams: HashMap<u32, Slot>,
    /// Streams opened so far.
    opened: u32,
    /// Streams with something to send, each once.
    ready: VecDeque<u32>,
    /// Streams to reset.
    resets: VecDeque<u32>,
    /// Value of the latest ping, until it is answered.
    pub pong: Option<u32>,
    pub ended: bool,
    /// The session's task, which waits for something to send.
    pub sender: Option<Waker>,
}

/// One stream, until it is dropped.
#[derive(Debug, Default)]
pub struct Slot {
    /// From the host, not taken yet: `pieces`, then `tail`.
    pieces: VecDeque<Bytes>,
    tail: BytesMut,
    /// Bytes from the host that are held, here or by the reader.
    unread: usize,
    /// Bytes that the host may send.
    window: usize,
    pub inbound_end: End,
    /// Set once the host takes nothing more. What it ended before it has ended in order.
    pub is_reset: bool,
    /// A frame that waits for its turn.
    outgoing: Option<Outgoing>,
    /// The buffer of the frame before, once that is sent.
    pub spare: Option<Vec<u8>>,
    /// Bytes that the host takes.
    pub credit: usize,
    pub outbound_end: OutboundEnd,
    /// Set once the host knows the stream.
    known: bool,
    listed: bool,
    pub reader: Option<Waker>,
    pub writer: Option<Waker>,
}

/// A frame with data, in a buffer that may be longer.
#[derive(Debug)]
pub struct Outgoing {
    pub id: u32,
    buffer: Vec<u8>,
    end: usize,
}

impl Outgoing {
    /// The frame.
    pub fn bytes(&self) -> &[u8] {
        &self.buffer[..self.end]
    }
}

/// End of the direction from the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum End {
    #[default]
    Open,
    Finished,
    Reset,
}

/// End of the direction to the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OutboundEnd {
    #[default]
    Open,
    Asked,
    Sent,
}

impl State {
    /// Opens a stream; none when the session has ended.
    pub fn open(&mut self) -> Option<u32> {
        if self.ended {
            return None;
        }
        // A client's numbers are odd.
        let id = self.opened.checked_mul(2)?.checked_add(1)?;
        self.opened += 1;
        let slot = Slot { window: WINDOW_BYTES, credit: WINDOW_BYTES, ..Slot::default() };
        self.streams.insert(id, slot);
        Some(id)
    }

    /// Forgets a stream; resets it unless both directions have ended in order.
    pub fn close(&mut self, id: u32) {
        let Some(slot) = self.streams.remove(&id) else { return };
        let orderly = slot.inbound_end == End::Finished && slot.outbound_end == OutboundEnd::Sent;
        if slot.known && !orderly && !slot.is_reset {
            self.resets.push_back(id);
            wake(&mut self.sender);
        }
    }

    /// Bytes of one stream that may be on their way, or held here.
    fn ahead_max(&self) -> usize {
        AHEAD_BYTES_MAX / self.streams.len().clamp(1, 2)
    }

    /// Lists a stream that has something to send.
    pub fn offer(&mut self, id: u32) {
        let ahead = self.ahead_max();
        if let Some(slot) = self.streams.get_mut(&id)
            && !slot.listed
            && slot.can_send(ahead)
        {
            slot.listed = true;
            self.ready.push_back(id);
            wake(&mut self.sender);
        }
    }

    /// Appends the headers that are due to `out`, and returns the frame that is due
    /// after them.
    pub fn next(&mut self, out: &mut Vec<u8>) -> Option<Outgoing> {
        let ahead = self.ahead_max();
        let mut put = |kind, flags, id, length| {
            out.extend_from_slice(&Header { kind, flags, id, length }.encode());
        };
        if let Some(value) = self.pong.take() {
            put(PING, ACK, 0, value);
        }
        for id in self.resets.drain(..) {
            put(WINDOW_UPDATE, RST, id, 0);
        }
        while let Some(id) = self.ready.pop_front() {
            let Some(slot) = self.streams.get_mut(&id) else { continue };
            slot.listed = false;
            if slot.is_reset {
                continue;
            }
            if let Some(granted) = slot.grant(ahead) {
                put(WINDOW_UPDATE, 0, id, granted);
            }
            if let Some(mut frame) = slot.outgoing.take() {
                let flags = if std::mem::replace(&mut slot.known, true) { 0 } else { SYN };
                let length = length(frame.end - HEADER_BYTES);
                let header = Header { kind: DATA, flags, id, length };
                frame.buffer[..HEADER_BYTES].copy_from_slice(&header.encode());
                // An end that was asked for comes after others' turns.
                self.offer(id);
                return Some(frame);
            }
            if slot.outbound_end == OutboundEnd::Asked {
                slot.outbound_end = OutboundEnd::Sent;
                wake(&mut slot.writer);
                put(WINDOW_UPDATE, FIN, id, 0);
            }
        }
        None
    }

    /// Takes back the buffer of a frame that was sent.
    pub fn sent(&mut self, frame: Outgoing) {
        if let Some(slot) = self.streams.get_mut(&frame.id) {
            slot.spare = Some(frame.buffer);
            wake(&mut slot.writer);
        }
    }

    /// Records that a reader has dealt with `bytes`.
    pub fn took(&mut self, id: u32, bytes: usize) {
        if let Some(slot) = self.streams.get_mut(&id) {
            slot.unread -= bytes;
            self.offer(id);
        }
    }
}

impl Slot {
    fn can_send(&self, ahead: usize) -> bool {
        self.outgoing.is_some() || self.outbound_end == OutboundEnd::Asked || self.owed(ahead) > 0
    }

    /// Bytes that the host may be allowed, if at most `ahead` may be on their way. None if they
    /// are not worth a message, which costs a call to the VMM.
    fn owed(&self, ahead: usize) -> usize {
        let owed = ahead.saturating_sub(self.window + self.unread);
        if owed >= ahead / 2 && self.inbound_end == End::Open { owed } else { 0 }
    }

    fn grant(&mut self, ahead: usize) -> Option<u32> {
        let owed = self.owed(ahead);
        self.window += owed;
        (owed > 0).then(|| length(owed))
    }

    /// Takes a piece that the host sent.
    pub fn receive(&mut self, piece: Bytes) {
        self.window = self.window.saturating_sub(piece.len());
        if self.inbound_end != End::Open {
            return;
        }
        self.unread += piece.len();
        if piece.len() <= SMALL_BYTES_MAX {
            self.tail.extend_from_slice(&piece);
        } else {
            self.flush_tail();
            self.pieces.push_back(piece);
        }
        wake(&mut self.reader);
    }

    /// Moves what has come to `pieces`, which is empty.
    pub fn take(&mut self, pieces: &mut VecDeque<Bytes>) {
        self.flush_tail();
        std::mem::swap(&mut self.pieces, pieces);
    }

    fn flush_tail(&mut self) {
        if !self.tail.is_empty() {
            self.pieces.push_back(std::mem::take(&mut self.tail).freeze());
        }
    }

    /// Lets the stream send `bytes` more.
    pub fn allow(&mut self, bytes: usize) {
        self.credit += bytes;
        wake(&mut self.writer);
    }

    /// Ends the direction from the host.
    pub fn end(&mut self, end: End) {
        if self.inbound_end == End::Open {
            self.inbound_end = end;
        }
        self.is_reset |= end == End::Reset;
        self.wake();
    }

    /// Has the frame of this stream sent that `buffer` holds up to `end`, after room for its
    /// header.
    pub fn send(&mut self, id: u32, buffer: Vec<u8>, end: usize) {
        self.credit -= end - HEADER_BYTES;
        self.outgoing = Some(Outgoing { id, buffer, end });
    }

    fn wake(&mut self) {
        wake(&mut self.reader);
        wake(&mut self.writer);
    }
}

fn wake(waiting: &mut Option<Waker>) {
    if let Some(waker) = waiting.take() {
        waker.wake();
    }
}

/// A count of bytes that is bounded by a window.
fn length(bytes: usize) -> u32 {
    u32::try_from(bytes).expect("windows have less than 4 GiB")
}
