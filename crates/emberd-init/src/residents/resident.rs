//! One process or context, between the task that runs it and the connection attached to it.
//!
//! ```text
//! task of the program ─ frames ─▶ ring ──────────────▶ attached connection, or none
//!                     ◀─ inbox ─ whole lines or frames ─
//! ```
//! For its task, this is the stream of a connection. With a host attached, the task waits for a
//! slow one. Without, the oldest events are dropped.

use std::future::poll_fn;
use std::io;
use std::mem;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bytes::BytesMut;
use emberd_proto::context::CONTEXT_CALLS_BYTES_MAX;
use emberd_proto::frame::{BULK_BYTES_MAX, encode, encode_message};
use emberd_proto::{
    Attached, Decoder, Frame, FrameError, GuestMessage, HostMessage, Kind, Program, Ring,
};
use parking_lot::{Mutex, MutexGuard};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::task::AbortHandle;

use crate::duplex::Duplex;

/// Number of unread bytes at which the task waits for the attached host (64 KiB).
const UNREAD_BYTES_MAX: usize = BULK_BYTES_MAX;

/// Why a connection is not attached any more.
#[derive(Debug)]
pub enum Detached {
    /// The host left, another connection is attached, or the program was killed.
    Left,
    /// The host sent more than a line may have.
    TooMuchData,
    /// The host sent a frame that is not a message.
    Frame(FrameError),
}

/// A process or context that belongs to the agent.
#[derive(Debug)]
pub struct Resident {
    /// Identifies the program.
    pub id: u64,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    ring: Ring,
    /// Bytes that the task has written.
    written: Decoder,
    /// Number of connections that have been attached so far.
    turn: u64,
    is_attached: bool,
    /// Frames of the attached host that are not a whole line yet, which end with it.
    part: BytesMut,
    part_frames: u64,
    /// Frames for the task.
    inbox: BytesMut,
    /// Number of frames that have come into the inbox.
    received: u64,
    /// Bytes of input in them, how many were consumed, and how many of those the attached host was
    /// told of.
    input: u64,
    taken: u64,
    told: u64,
    pid: u32,
    /// Number of messages among the events: that it was started, and how it ended.
    messages: u32,
    note: String,
    ended: bool,
    /// Ends the task, which kills the program.
    abort: Option<AbortHandle>,
    /// Wakes the task.
    task: Option<Waker>,
    /// Wakes the attached connection.
    reader: Option<Waker>,
}

impl Resident {
    /// A program that is about to be started.
    pub fn new(id: u64) -> Self {
        Self { id, state: Mutex::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    /// Records the task that runs the program.
    pub fn runs_in(&self, task: AbortHandle) {
        self.state().abort = Some(task);
    }

    /// Records that the program was started.
    pub fn started(&self, pid: u32) {
        self.state().pid = pid;
    }

    /// Records that `bytes` of input were consumed, or never will be.
    pub fn took(&self, bytes: usize) {
        let mut state = self.state();
        state.taken += bytes as u64;
        wake(&mut state.reader);
    }

    /// Returns whether the program was started.
    pub fn was_started(&self) -> bool {
        self.state().pid != 0
    }

    /// Returns whether no event follows.
    pub fn has_ended(&self) -> bool {
        self.state().ended
    }

    /// Kills the program, and closes the attached connection.
    pub fn kill(&self) {
        let mut state = self.state();
        state.turn += 1;
        state.abort.take().inspect(AbortHandle::abort);
        wake(&mut state.reader);
    }

    /// Limits the size of the events kept.
    pub fn limit(&self, bytes_max: usize) {
        let mut state = self.state();
        state.ring.bytes_max = bytes_max;
        let is_attached = state.is_attached;
        state.ring.trim(is_attached);
    }

    /// Returns what a list says.
    pub fn about(&self) -> Program {
        let state = self.state();
        Program {
            id: self.id,
            pid: state.pid,
            next: state.ring.next(),
            received: state.received,
            ended: state.ended,
            note: state.note.clone(),
        }
    }

    /// Attaches a connection, from event number `seq` on, and detaches the one before. Returns
    /// the answer to the host.
    pub fn attach(&self, seq: u64) -> (Attachment<'_>, GuestMessage) {
        let mut state = self.state();
        state.turn += 1;
        state.is_attached = true;
        state.part.clear();
        state.part_frames = 0;
        state.told = state.taken;
        wake(&mut state.reader);
        let seq = state.ring.seek(seq);
        let State { turn, received, input, taken, .. } = *state;
        let answer = GuestMessage::Attached(Attached { id: self.id, seq, received, input, taken });
        (Attachment { resident: self, turn }, answer)
    }
}

/// A connection that is attached to a program, until dropped.
#[derive(Debug)]
pub struct Attachment<'a> {
    resident: &'a Resident,
    /// Which of the program's connections this is.
    turn: u64,
}

impl<'a> Attachment<'a> {
    /// Takes a frame of the host.
    ///
    /// # Errors
    /// If the host left or broke the protocol, or another connection is attached.
    pub fn hear(&self, frame: Option<Frame>) -> Result<(), Detached> {
        let frame = frame.ok_or(Detached::Left)?;
        let mut state = self.state()?;
        if frame.kind == Kind::Control
            && let HostMessage::Note { note } = frame.message().map_err(Detached::Frame)?
        {
            state.note = note;
            return Ok(());
        }
        encode(frame.kind, &frame.payload, &mut state.part);
        state.part_frames += 1;
        if frame.kind == Kind::Stdin {
            state.input += frame.payload.len() as u64;
        }
        if frame.kind != Kind::Data || frame.payload.ends_with(b"\n") {
            let part = mem::take(&mut state.part);
            state.inbox.unsplit(part);
            state.received += mem::take(&mut state.part_frames);
            wake(&mut state.task);
        } else if state.part.len() > 2 * CONTEXT_CALLS_BYTES_MAX {
            return Err(Detached::TooMuchData);
        }
        Ok(())
    }

    /// Waits until there is something to tell the host. Cancel safe.
    pub async fn ready(&self) {
        poll_fn(|context| {
            let mut state = self.resident.state();
            let is_ready = state.turn != self.turn
                || state.ended
                || state.told != state.taken
                || state.ring.unread_bytes() > 0;
            wait_for(is_ready, &mut state.reader, context)
        })
        .await;
    }

    /// Appends events to `out`, for the host. Returns whether none follows.
    ///
    /// # Errors
    /// If another connection is attached.
    pub fn tell(&self, out: &mut BytesMut) -> Result<bool, Detached> {
        let mut state = self.state()?;
        state.ring.read_some(out);
        state.ring.trim(true);
        let bytes = state.taken - state.told;
        state.told = state.taken;
        if bytes > 0 {
            let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
            encode_message(&GuestMessage::StdinTaken { bytes }, out);
        }
        wake(&mut state.task);
        Ok(state.ended && state.ring.unread_bytes() == 0)
    }

    fn state(&self) -> Result<MutexGuard<'a, State>, Detached> {
        let state = self.resident.state();
        if state.turn == self.turn { Ok(state) } else { Err(Detached::Left) }
    }
}

impl Drop for Attachment<'_> {
    fn drop(&mut self) {
        if let Ok(mut state) = self.state() {
            state.is_attached = false;
            wake(&mut state.task);
        }
    }
}

/// The stream that the program's task reads and writes.
#[derive(Debug)]
pub struct Line(pub Arc<Resident>);

impl Duplex for Line {}

impl AsyncRead for Line {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let mut state = self.0.state();
        let bytes = state.inbox.len().min(buffer.remaining());
        buffer.put_slice(&state.inbox.split_to(bytes));
        wait_for(bytes > 0, &mut state.task, context).map(Ok)
    }
}

impl AsyncWrite for Line {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        frames: &[u8],
    ) -> Poll<io::Result<usize>> {
        let mut state = self.0.state();
        let state = &mut *state;
        if state.is_attached && state.ring.unread_bytes() > UNREAD_BYTES_MAX {
            return wait_for(false, &mut state.task, context).map(|()| Ok(0));
        }
        state.written.buffer().extend_from_slice(frames);
        // The agent writes only what is a frame.
        while let Ok(Some(frame)) = state.written.next_frame() {
            state.ring.push(frame.kind, &frame.payload);
            if frame.kind == Kind::Control {
                state.messages += 1;
                state.ended = state.messages > u32::from(state.pid != 0);
            }
        }
        state.ring.trim(state.is_attached);
        wake(&mut state.reader);
        Poll::Ready(Ok(frames.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

fn wait_for(is_ready: bool, waker: &mut Option<Waker>, context: &Context<'_>) -> Poll<()> {
    if is_ready {
        return Poll::Ready(());
    }
    *waker = Some(context.waker().clone());
    Poll::Pending
}

fn wake(waker: &mut Option<Waker>) {
    if let Some(waker) = waker.take() {
        waker.wake();
    }
}
