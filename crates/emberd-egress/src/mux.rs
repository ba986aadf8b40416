//! Many streams over one byte stream: yamux, with the guest as client.
//!
//! ```text
//! guest frames ─▶ read ─▶ unread bytes of each stream ─▶ MuxStream ─▶ its reader
//! guest ◀─ write ◀─ resets, windows, unsent bytes in turn ◀─ MuxStream ◀─ its writer
//! ```
//! The guest is hostile, so this is not a general implementation: the host opens no stream, the
//! bytes of a stream lie in one buffer however small the guest's frames are, a reset differs from
//! an end of data, and a stream too many is reset rather than the whole session.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::sync::Arc;
use std::task::Waker;

use bytes::{Buf as _, BufMut as _, BytesMut};
use parking_lot::{Mutex, MutexGuard};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::sync::Notify;

mod stream;

pub(crate) use stream::MuxStream;

/// Bytes that each side may send on a new stream (yamux specification), and most bytes of one
/// stream that the host holds unread (256 KiB).
const WINDOW_BYTES: usize = 256 << 10;

/// Most streams of one session; further ones are reset. Above the most connections of a sandbox,
/// so that those over its limit are refused with their reason.
pub(crate) const STREAMS_MAX: usize = 1024 + 256;

/// Most bytes of one session that the host holds unread (64 MiB). The stream whose data exceed it
/// is reset.
const UNREAD_BYTES_MAX: usize = 64 << 20;

/// Most bytes of one stream that wait until the guest takes them (32 KiB).
const UNSENT_BYTES_MAX: usize = 32 << 10;

/// Resets that wait until the guest takes them; nothing more is read from it in the meantime.
const RESETS_MAX: usize = 1024;

/// Bytes of a frame's header (yamux specification): version, kind, flags in two bytes, stream in
/// four, length in four.
const HEADER_BYTES: usize = 12;

/// Smallest and largest number of bytes taken from the guest in one go.
const READ_BYTES: std::ops::RangeInclusive<usize> = (8 << 10)..=(64 << 10);

/// Bytes of one stream that are sent before another's turn (16 KiB).
const PIECE_BYTES_MAX: usize = 16 << 10;

/// Bytes that are sent in one write, less one piece.
const BATCH_BYTES: usize = 48 << 10;

/// Kinds of frames.
const DATA: u8 = 0;
const WINDOW_UPDATE: u8 = 1;
const PING: u8 = 2;
const GO_AWAY: u8 = 3;

/// Flags of frames.
const SYN: u16 = 1;
const ACK: u16 = 2;
const FIN: u16 = 4;
const RST: u16 = 8;

/// Why a session ended, other than by the guest's closing it.
#[derive(Debug, thiserror::Error)]
pub enum MuxError {
    /// The byte stream failed.
    #[error("the egress stream failed")]
    Io(#[from] io::Error),
    /// The guest sent something that is not the mux's protocol.
    #[error("the guest broke the mux's protocol: {0}")]
    Protocol(&'static str),
}

/// Serves a session over `io` until either side ends it; `accept` is called with each stream that
/// the guest opens. Every stream fails when the future ends or is dropped.
pub(crate) async fn run(
    io: impl AsyncRead + AsyncWrite + Send,
    accept: impl FnMut(MuxStream) + Send,
) -> Result<(), MuxError> {
    let shared = Arc::new(Shared::default());
    let _ending = Ending(&shared);
    let (reader, writer) = tokio::io::split(io);
    tokio::select! {
        ended = Reading::new(&shared, accept).run(reader) => ended,
        ended = write(&shared, writer) => ended,
    }
}

/// What the tasks of one session share.
#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    /// Notified when there may be something to send.
    sendable: Notify,
    /// Notified when resets were sent.
    reset: Notify,
}

#[derive(Default)]
struct State {
    streams: HashMap<u32, Slot>,
    /// Streams with something to send, each once.
    ready: VecDeque<u32>,
    /// Streams to reset.
    resets: VecDeque<u32>,
    /// Value of the latest ping, until it is answered.
    pong: Option<u32>,
    /// Unread bytes of all streams.
    unread: usize,
    ended: bool,
}

/// One stream, until its [`MuxStream`] is dropped.
#[derive(Default)]
struct Slot {
    /// From the guest, not taken yet.
    inbound: BytesMut,
    /// Bytes from the guest that are held, here or by the reader.
    unread: usize,
    /// Bytes that the reader has dealt with and the guest does not know of.
    owed: usize,
    /// Bytes that the guest may send.
    window: usize,
    inbound_end: End,
    /// Whether data of the guest are thrown away.
    discards: bool,
    /// To the guest, not sent yet.
    unsent: BytesMut,
    /// Bytes that the guest takes.
    credit: u32,
    outbound_end: OutboundEnd,
    acknowledged: bool,
    listed: bool,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

#[derive(Clone, Copy, PartialEq, Eq, Default)]
enum End {
    #[default]
    Open,
    Finished,
    Reset,
}

#[derive(Clone, Copy, PartialEq, Eq, Default)]
enum OutboundEnd {
    #[default]
    Open,
    Asked,
    Sent,
}

impl Slot {
    fn new(credit: u32) -> Self {
        Self { window: WINDOW_BYTES, credit, ..Self::default() }
    }

    fn can_send(&self) -> bool {
        !self.acknowledged
            || self.owes_window()
            || !self.unsent.is_empty() && self.credit > 0
            || self.unsent.is_empty() && self.outbound_end == OutboundEnd::Asked
    }

    fn owes_window(&self) -> bool {
        self.owed >= WINDOW_BYTES / 2 && self.inbound_end == End::Open
    }

    fn wake(&mut self) {
        wake(&mut self.reader);
        wake(&mut self.writer);
    }

    /// Drops what the stream holds; its reader and writer fail.
    fn reset(&mut self) {
        self.inbound_end = End::Reset;
        (self.inbound, self.unsent) = (BytesMut::new(), BytesMut::new());
        self.wake();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }
}

impl State {
    /// Lists the stream among those with something to send; returns whether it is new there.
    fn offer(&mut self, id: u32) -> bool {
        match self.streams.get_mut(&id) {
            Some(slot) if !slot.listed && slot.inbound_end != End::Reset && slot.can_send() => {
                slot.listed = true;
                self.ready.push_back(id);
                true
            }
            _ => false,
        }
    }

    /// Appends what is to be sent next, at most about [`BATCH_BYTES`].
    fn gather(&mut self, out: &mut BytesMut) {
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
    fn receive(&mut self, id: u32, bytes: &[u8]) {
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
    fn send(&mut self, id: u32, out: &mut BytesMut) {
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

fn wake(waiting: &mut Option<Waker>) {
    if let Some(waker) = waiting.take() {
        waker.wake();
    }
}

/// A count of bytes that is bounded by a window.
fn length(bytes: usize) -> u32 {
    u32::try_from(bytes).expect("windows have less than 4 GiB")
}

fn put_header(out: &mut BytesMut, kind: u8, flags: u16, id: u32, length: u32) {
    out.put_slice(&[0, kind]);
    out.put_u16(flags);
    out.put_u32(id);
    out.put_u32(length);
}

/// Sends until the byte stream fails.
async fn write(shared: &Shared, mut writer: impl AsyncWrite + Unpin) -> Result<(), MuxError> {
    let mut out = BytesMut::new();
    loop {
        shared.lock().gather(&mut out);
        if out.is_empty() {
            writer.flush().await?;
            out = BytesMut::new();
            shared.sendable.notified().await;
            continue;
        }
        shared.reset.notify_one();
        writer.write_all(&out).await?;
        out.clear();
    }
}

/// Where in a frame the guest's bytes are.
enum At {
    /// The received bytes of a header, and their number.
    Header([u8; HEADER_BYTES], usize),
    /// The data of a stream to come, and whether its end follows.
    Body { id: u32, left: usize, finishes: bool },
}

const START: At = At::Header([0; HEADER_BYTES], 0);

/// A header that is not one of a new stream.
struct Header {
    kind: u8,
    flags: u16,
    id: u32,
    length: u32,
}

/// The reading half of a session.
struct Reading<'a, A> {
    shared: &'a Arc<Shared>,
    accept: A,
    at: At,
}

impl<'a, A: FnMut(MuxStream)> Reading<'a, A> {
    fn new(shared: &'a Arc<Shared>, accept: A) -> Self {
        Self { shared, accept, at: START }
    }

    async fn run(mut self, mut reader: impl AsyncRead + Unpin) -> Result<(), MuxError> {
        let mut input = vec![0; *READ_BYTES.start()];
        loop {
            while self.shared.lock().resets.len() >= RESETS_MAX {
                self.shared.reset.notified().await;
            }
            let bytes = reader.read(&mut input).await?;
            if bytes == 0 || self.take(&input[..bytes])? {
                return Ok(());
            }
            // More room while the guest fills it; an idle session holds little memory.
            let room = (2 * bytes).next_power_of_two();
            let room = room.clamp(*READ_BYTES.start(), *READ_BYTES.end());
            if room != input.len() {
                input = vec![0; room];
            }
        }
    }

    /// Processes received bytes; returns whether the guest ended the session.
    fn take(&mut self, mut input: &[u8]) -> Result<bool, MuxError> {
        while !input.is_empty() {
            match &mut self.at {
                At::Header(header, have) => {
                    let bytes = input.len().min(HEADER_BYTES - *have);
                    header[*have..*have + bytes].copy_from_slice(&input[..bytes]);
                    input.advance(bytes);
                    *have += bytes;
                    if *have == HEADER_BYTES {
                        let header = *header;
                        match self.head(header)? {
                            Some(at) => self.at = at,
                            None => return Ok(true),
                        }
                    }
                }
                At::Body { id, left, finishes } => {
                    let (body, rest) = input.split_at(input.len().min(*left));
                    let mut state = self.shared.lock();
                    state.receive(*id, body);
                    *left -= body.len();
                    input = rest;
                    if *left == 0 {
                        if *finishes {
                            finish(&mut state, *id);
                        }
                        self.at = START;
                    }
                }
            }
        }
        self.shared.sendable.notify_one();
        Ok(false)
    }

    /// Processes a header; returns none if the guest ended the session.
    fn head(&mut self, header: [u8; HEADER_BYTES]) -> Result<Option<At>, MuxError> {
        let [version, kind, f0, f1, i0, i1, i2, i3, l0, l1, l2, l3] = header;
        let (flags, id) = (u16::from_be_bytes([f0, f1]), u32::from_be_bytes([i0, i1, i2, i3]));
        let header = Header { kind, flags, id, length: u32::from_be_bytes([l0, l1, l2, l3]) };
        if version != 0 {
            return Err(MuxError::Protocol("an unknown version"));
        }
        match kind {
            DATA | WINDOW_UPDATE => self.of_stream(&header).map(Some),
            PING => {
                if flags & SYN != 0 {
                    self.shared.lock().pong = Some(header.length);
                }
                Ok(Some(START))
            }
            GO_AWAY => Ok(None),
            _ => Err(MuxError::Protocol("an unknown kind of frame")),
        }
    }

    fn of_stream(&mut self, header: &Header) -> Result<At, MuxError> {
        let Header { kind, flags, id, length } = *header;
        let mut state = self.shared.lock();
        let credit = if kind == WINDOW_UPDATE { length } else { 0 };
        if flags & SYN != 0 {
            if id % 2 == 0 || state.streams.contains_key(&id) {
                return Err(MuxError::Protocol("a stream with a wrong or used number"));
            }
            if state.streams.len() < STREAMS_MAX {
                let credit = credit.checked_add(length_of_window());
                let credit = credit.ok_or(MuxError::Protocol("a window that is too large"))?;
                state.streams.insert(id, Slot::new(credit));
                state.offer(id);
                drop(state);
                (self.accept)(MuxStream::new(id, Arc::clone(self.shared)));
                state = self.shared.lock();
            } else {
                state.resets.push_back(id);
            }
        }
        let body = if kind == DATA { length as usize } else { 0 };
        if let Some(slot) = state.streams.get_mut(&id) {
            if flags & RST != 0 {
                slot.reset();
            }
            if flags & SYN == 0 {
                let credit = slot.credit.checked_add(credit);
                slot.credit = credit.ok_or(MuxError::Protocol("a window that is too large"))?;
            }
            let window = slot.window.checked_sub(body);
            slot.window = window.ok_or(MuxError::Protocol("more data than their window"))?;
            state.offer(id);
        }
        let finishes = flags & FIN != 0;
        if body > 0 {
            return Ok(At::Body { id, left: body, finishes });
        }
        if finishes {
            finish(&mut state, id);
        }
        Ok(START)
    }
}

fn length_of_window() -> u32 {
    length(WINDOW_BYTES)
}

/// Records that the guest has sent all of a stream.
fn finish(state: &mut State, id: u32) {
    if let Some(slot) = state.streams.get_mut(&id)
        && slot.inbound_end == End::Open
    {
        slot.inbound_end = End::Finished;
        wake(&mut slot.reader);
    }
}

/// Fails every stream when dropped.
struct Ending<'a>(&'a Shared);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.ended = true;
        state.streams.values_mut().for_each(Slot::reset);
    }
}

#[cfg(test)]
mod tests;
