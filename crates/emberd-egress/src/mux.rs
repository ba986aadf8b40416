//! Many streams over one byte stream: yamux, with the guest as client.
//!
//! ```text
//! guest frames ─▶ read ─▶ unread bytes of each stream ─▶ MuxStream ─▶ its reader
//! guest ◀─ write ◀─ resets, windows, unsent bytes in turn ◀─ MuxStream ◀─ its writer
//! ```
//! The guest is hostile, so this is not a general implementation: the host opens no stream, the
//! bytes of a stream lie in one buffer however small the guest's frames are, a reset differs from
//! an end of data, and a stream too many is reset rather than the whole session.

use std::io;
use std::sync::Arc;

use bytes::{Buf as _, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

mod state;
mod stream;

use state::{
    DATA, End, FIN, GO_AWAY, HEADER_BYTES, PING, RESETS_MAX, RST, STREAMS_MAX, SYN, Shared, Slot,
    State, WINDOW_BYTES, WINDOW_UPDATE, length, wake,
};
pub(crate) use stream::MuxStream;

/// Smallest and largest number of bytes taken from the guest in one go.
const READ_BYTES: std::ops::RangeInclusive<usize> = (8 << 10)..=(64 << 10);

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
