//! The guest's end of a session: yamux, as its client.
//!
//! ```text
//! host frames ─▶ read ─▶ pieces of each stream ─▶ FromHost ─▶ its reader
//! host ◀─ write ◀─ resets, windows, one frame of each stream in turn ◀─ ToHost ◀─ its writer
//! ```
//! An emulated processor spends most of a transfer on copies. Here a piece is a slice of what was
//! read, and a frame is sent from the buffer that the program's bytes were read into. The host
//! opens no streams, and a reset differs from an end of data.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use emberd_proto::mux::{DATA, FIN, GO_AWAY, HEADER_BYTES, Header, PING, RST, SYN, WINDOW_UPDATE};
use tokio::io::AsyncWrite as _;

mod state;

use state::Outgoing;
pub use state::{End, OutboundEnd, Shared, Slot};

use crate::duplex::Duplex;

/// Serves a session over `io` until the host ends it, or it fails.
pub async fn run(io: Box<dyn Duplex>, shared: &Shared) {
    let mut mux = Mux { io, shared, input: BytesMut::new(), at: START, out: Out::default() };
    let ended = poll_fn(|context| {
        let read = mux.poll_read(context);
        if read.is_ready() { read } else { mux.poll_write(context) }
    });
    // Its streams tell.
    ended.await.ok();
}

struct Mux<'a> {
    io: Box<dyn Duplex>,
    shared: &'a Shared,
    /// Room for what is read.
    input: BytesMut,
    at: At,
    out: Out,
}

/// Where in a frame the host's bytes are.
#[derive(Debug)]
enum At {
    /// The received bytes of a header, and their number.
    Header([u8; HEADER_BYTES], usize),
    /// The data of a stream to come, and whether its end follows.
    Body { id: u32, left: usize, finishes: bool },
}

const START: At = At::Header([0; HEADER_BYTES], 0);

/// Bytes on their way to the host: headers, then the frame of a stream.
#[derive(Debug, Default)]
struct Out {
    headers: Vec<u8>,
    frame: Option<Outgoing>,
    /// Bytes of the first of them that are sent.
    passed: usize,
}

impl Mux<'_> {
    /// Reads until there is nothing; ready when the session has ended.
    fn poll_read(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            let piece = ready!(self.io.poll_piece(context, &mut self.input))?;
            if piece.is_empty() || !self.take(piece)? {
                return Poll::Ready(Ok(()));
            }
        }
    }

    /// Processes received bytes; returns whether the session goes on.
    fn take(&mut self, mut piece: Bytes) -> io::Result<bool> {
        let mut state = self.shared.lock();
        while !piece.is_empty() {
            match &mut self.at {
                At::Header(header, have) => {
                    let part = piece.split_to(piece.len().min(HEADER_BYTES - *have));
                    header[*have..][..part.len()].copy_from_slice(&part);
                    *have += part.len();
                    if *have < HEADER_BYTES {
                        break;
                    }
                    let malformed = || io::Error::from(io::ErrorKind::InvalidData);
                    let header = Header::decode(*header).ok_or_else(malformed)?;
                    self.at = START;
                    match header.kind {
                        DATA | WINDOW_UPDATE => {
                            self.at = begin(header, state.streams.get_mut(&header.id));
                        }
                        PING if header.flags & SYN != 0 => state.pong = Some(header.length),
                        PING => {}
                        GO_AWAY => return Ok(false),
                        _ => return Err(malformed()),
                    }
                }
                At::Body { id, left, finishes } => {
                    let part = piece.split_to(piece.len().min(*left));
                    *left -= part.len();
                    if let Some(slot) = state.streams.get_mut(id) {
                        slot.receive(part);
                        if *left == 0 && *finishes {
                            slot.end(End::Finished);
                        }
                    }
                    if *left == 0 {
                        self.at = START;
                    }
                }
            }
        }
        Ok(true)
    }

    /// Writes until there is nothing to write; ready when that fails.
    fn poll_write(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let out = &mut self.out;
        loop {
            let bytes = match &out.frame {
                _ if !out.headers.is_empty() => &out.headers[out.passed..],
                Some(frame) => &frame.bytes()[out.passed..],
                None => {
                    let mut state = self.shared.lock();
                    out.frame = state.next(&mut out.headers);
                    if out.frame.is_none() && out.headers.is_empty() {
                        state.sender = Some(context.waker().clone());
                        return Poll::Pending;
                    }
                    continue;
                }
            };
            let left = bytes.len();
            let written = ready!(Pin::new(&mut self.io).poll_write(context, bytes))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            out.passed += written;
            if written == left {
                out.passed = 0;
                if !out.headers.is_empty() {
                    out.headers.clear();
                } else if let Some(frame) = out.frame.take() {
                    self.shared.lock().sent(frame);
                }
            }
        }
    }
}

/// Processes the header of a stream's frame, if there is still such a stream, and returns what
/// follows.
fn begin(header: Header, stream: Option<&mut Slot>) -> At {
    let finishes = header.flags & FIN != 0;
    let left = header.body_bytes();
    if let Some(slot) = stream {
        if header.kind == WINDOW_UPDATE {
            slot.allow(header.length as usize);
        }
        if header.flags & RST != 0 {
            slot.end(End::Reset);
        } else if finishes && left == 0 {
            slot.end(End::Finished);
        }
    }
    if left == 0 { START } else { At::Body { id: header.id, left, finishes } }
}

#[cfg(test)]
mod tests;
