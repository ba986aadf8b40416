//! The host's end of a process or context in the guest: a connection that is attached to it, and
//! another one when that breaks.
//!
//! ```text
//! attached ── connection breaks ─▶ detached ── Attach from the next number ─▶ attached
//!     └─ last event ─▶ ended           └─ too often, guest gone, unknown ─▶ lost
//! ```
//! Both sides count. The guest tells how many frames of the host have arrived, and the host sends
//! the rest again. Dropped before the end, the program is deleted in the guest. A guest of
//! generation 1 does not count: its program ends with the connection.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use emberd_proto::frame::{BULK_BYTES_MAX, encode, encode_message};
use emberd_proto::{Attached, Decoder, Frame, FrameError, GuestMessage, HostMessage, Kind, Ring};
use tokio::runtime::Handle;
use tokio::time::sleep;

use crate::error::{ChannelError, GuestError};
use crate::host::ByteStream;
use crate::line::{Line, LineReader, LineWriter};
use crate::session::{ANSWER_MAX, Session};

mod outbox;

use outbox::Outbox;

/// Most connections in a row that break before an event has come.
const BREAKS_MAX: u32 = 8;

/// Pause before a connection after one that broke without an event; each next one is longer.
const BREAK_PAUSE: Duration = Duration::from_millis(20);

/// News of a program from its guest.
#[derive(Debug)]
pub(crate) enum Told {
    /// Something happened. Numbers grow; those left out are no longer kept.
    Event { seq: u64, frame: Frame },
    /// So many more bytes of input were consumed.
    Taken(u64),
}

/// How a program is bound to its connection.
enum Bond {
    /// The guest keeps it, under this id.
    Kept(u64),
    /// The program ends with its connection, and is numbered here.
    Single(Box<Ring>),
}

/// See the module.
pub(crate) struct Tether<S: ByteStream> {
    session: Arc<Session<S>>,
    bond: Bond,
    line: Option<(LineReader<S>, LineWriter<S>)>,
    /// Number of the next event.
    next: u64,
    told: VecDeque<Told>,
    outbox: Outbox,
    /// The latest note, and whether it is still to be sent.
    note: String,
    is_new_note: bool,
    /// Connections that broke since the last event.
    breaks: u32,
    ended: bool,
}

impl<S: ByteStream> Tether<S> {
    /// Starts the program of `message`, with a first note. Dropping the future ends it.
    pub async fn start(
        session: Arc<Session<S>>,
        message: HostMessage,
        note: String,
    ) -> Result<Self, GuestError> {
        // Goes on when nobody waits any more, until there is something that can be dropped.
        let started = tokio::spawn(Self::begin(session, message, note)).await;
        started.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))
    }

    async fn begin(
        session: Arc<Session<S>>,
        message: HostMessage,
        note: String,
    ) -> Result<Self, GuestError> {
        let line = Line::open(Arc::clone(&session)).await?;
        let bond = if line.keeps_programs() { Bond::Kept(0) } else { Bond::Single(Box::default()) };
        let (reader, mut writer) = line.split();
        let mut request = BytesMut::new();
        encode_message(&message, &mut request);
        if matches!(bond, Bond::Kept(_)) {
            encode_message(&HostMessage::Note { note: note.clone() }, &mut request);
        }
        writer.write(&request).await?;
        let mut tether = Self::new(session, bond);
        tether.note = note;
        tether.line = Some((reader, writer));
        if let Bond::Kept(_) = tether.bond {
            tether.first_answer().await?;
        }
        Ok(tether)
    }

    fn new(session: Arc<Session<S>>, bond: Bond) -> Self {
        Self {
            session,
            bond,
            line: None,
            next: 0,
            told: VecDeque::new(),
            outbox: Outbox::default(),
            note: String::new(),
            is_new_note: false,
            breaks: 0,
            // Nothing is known to be there yet.
            ended: true,
        }
    }

    /// Waits until the program has an id.
    async fn first_answer(&mut self) -> Result<(), GuestError> {
        let Some((reader, _)) = &mut self.line else { return Ok(()) };
        let frame = self.session.in_time(ANSWER_MAX, reader.frame()).await??;
        match frame.message() {
            Ok(GuestMessage::Attached(Attached { id, seq: 0, received: 0, .. })) => {
                self.bond = Bond::Kept(id);
                self.ended = false;
                Ok(())
            }
            Ok(GuestMessage::Refused(refusal)) => Err(GuestError::Refused(refusal)),
            _ => Err(reader.broken("unexpected answer to the start of a program").await),
        }
    }

    /// Attaches to the program `id`, from event number `seq` on.
    pub async fn attach(
        session: Arc<Session<S>>,
        id: u64,
        seq: u64,
    ) -> Result<(Self, Attached), GuestError> {
        let mut tether = Self::new(session, Bond::Kept(id));
        tether.next = seq;
        let (line, attached) = ask(&tether.session, id, seq).await?;
        tether.next = attached.seq;
        tether.outbox = Outbox::at(&attached);
        tether.line = Some(line.split());
        tether.ended = false;
        Ok((tether, attached))
    }

    /// Returns the id of the program, if the guest keeps it.
    pub fn id(&self) -> Option<u64> {
        match self.bond {
            Bond::Kept(id) => Some(id),
            Bond::Single(_) => None,
        }
    }

    /// Returns the number of the next event.
    pub fn next_seq(&self) -> u64 {
        let told = self.told.iter().filter(|told| matches!(told, Told::Event { .. }));
        self.next - told.count() as u64
    }

    /// Returns how many frames have been sent.
    pub fn sent(&self) -> u64 {
        self.outbox.sent()
    }

    /// The session of the guest.
    pub fn session(&self) -> &Arc<Session<S>> {
        &self.session
    }

    /// Waits for what the guest tells next. Cancel safe.
    pub async fn next(&mut self) -> Result<Told, GuestError> {
        loop {
            if let Some(told) = self.told.pop_front() {
                return Ok(told);
            }
            let Some((reader, _)) = &mut self.line else {
                self.resume().await?;
                continue;
            };
            match reader.heard().await? {
                Ok(frame) => self.hear(frame).await?,
                Err(error) if matches!(self.bond, Bond::Kept(_)) && is_break(&error) => {
                    self.line = None;
                }
                Err(error) => return Err(self.session.failed(error).await),
            }
        }
    }

    async fn hear(&mut self, frame: Frame) -> Result<(), GuestError> {
        let taken = match frame.kind {
            Kind::Control => match frame.message() {
                Ok(GuestMessage::StdinTaken { bytes }) => Some(bytes as u64),
                _ => None,
            },
            _ => None,
        };
        if let Some(bytes) = taken {
            if matches!(self.bond, Bond::Kept(_)) && !self.outbox.take(bytes) {
                return Err(self.broken("it took more input than it was sent").await);
            }
            self.told.push_back(Told::Taken(bytes));
            return Ok(());
        }
        self.breaks = 0;
        match &mut self.bond {
            Bond::Single(ring) if !frame.payload.is_empty() => {
                let mut frames = Decoder::default();
                ring.push(frame.kind, &frame.payload);
                while ring.unread_bytes() > 0 {
                    ring.read_some(frames.buffer());
                }
                ring.trim(true);
                while let Ok(Some(frame)) = frames.next_frame() {
                    self.happened(frame);
                }
            }
            _ => self.happened(frame),
        }
        Ok(())
    }

    fn happened(&mut self, frame: Frame) {
        self.told.push_back(Told::Event { seq: self.next, frame });
        self.next += 1;
    }

    /// Sends `payload`, in frames of one kind; an empty one as one frame. A broken connection is
    /// no error: the frames are sent again over the next.
    pub async fn send(&mut self, kind: Kind, payload: Bytes) -> Result<(), GuestError> {
        let is_kept = matches!(self.bond, Bond::Kept(_));
        let mut out = BytesMut::new();
        if is_kept && std::mem::take(&mut self.is_new_note) {
            self.encode_note(&mut out);
        }
        let mut rest = payload;
        loop {
            let piece = rest.split_to(rest.len().min(BULK_BYTES_MAX));
            encode(kind, &piece, &mut out);
            if is_kept {
                self.outbox.push(kind, piece);
            }
            if rest.is_empty() {
                break;
            }
        }
        match &mut self.line {
            Some((_, writer)) => writer.write(&out).await,
            None => Ok(()),
        }
    }

    /// Sends a message about the program.
    pub async fn say(&mut self, message: &HostMessage) -> Result<(), GuestError> {
        let json = serde_json::to_vec(message).expect("messages have string keys only");
        self.send(Kind::Control, json.into()).await
    }

    /// Sends the note now.
    pub async fn flush(&mut self) -> Result<(), GuestError> {
        let mut out = BytesMut::new();
        match &mut self.line {
            Some((_, writer)) if matches!(self.bond, Bond::Kept(_)) => {
                encode_message(&HostMessage::Note { note: self.note.clone() }, &mut out);
                self.is_new_note = false;
                writer.write(&out).await
            }
            _ => Ok(()),
        }
    }

    /// Changes the note, which goes with what is sent next.
    pub fn note(&mut self, note: String) {
        self.note = note;
        self.is_new_note = true;
    }

    fn encode_note(&self, out: &mut BytesMut) {
        encode_message(&HostMessage::Note { note: self.note.clone() }, out);
    }

    /// Forgets what was sent: the guest has answered it.
    pub fn settle(&mut self) {
        self.outbox.settle();
    }

    /// Closes the connection; the guest keeps the program until this is dropped.
    pub fn hang_up(&mut self) {
        self.line = None;
    }

    /// Marks the last event as read. The connection can be used again if it is `in_step`.
    pub fn finish(mut self, in_step: bool) {
        self.ended = true;
        if let Some((reader, writer)) = self.line.take().filter(|_| in_step) {
            Line::join(reader, writer).done();
        }
    }

    /// Deletes the program. Once this returns without an error, the guest knows it no more.
    pub async fn delete(mut self) -> Result<(), GuestError> {
        self.line = None;
        match self.bond {
            Bond::Kept(id) if !self.ended => {
                self.ended = true;
                forget_program(&self.session, id).await
            }
            _ => Ok(()),
        }
    }

    /// Attaches another connection and sends what has not arrived.
    async fn resume(&mut self) -> Result<(), GuestError> {
        let Bond::Kept(id) = self.bond else { unreachable!("its program has ended") };
        sleep(BREAK_PAUSE * self.breaks).await;
        self.breaks += 1;
        let (line, attached) = match ask(&self.session, id, self.next).await {
            Err(GuestError::Failed { source, .. })
                if is_break(&source) && self.breaks < BREAKS_MAX =>
            {
                return Ok(());
            }
            asked => asked?,
        };
        if self.breaks == BREAKS_MAX {
            return Err(self.session.failed(ChannelError::Closed).await);
        }
        let Some(taken) = self.outbox.arrived(&attached) else {
            return Err(line.broken("it counts other frames than it was sent").await);
        };
        let (reader, mut writer) = line.split();
        let mut out = BytesMut::new();
        if !self.note.is_empty() {
            self.encode_note(&mut out);
        }
        self.outbox.encode(&mut out);
        writer.write(&out).await?;
        if taken > 0 {
            self.told.push_back(Told::Taken(taken));
        }
        self.next = attached.seq;
        self.line = Some((reader, writer));
        Ok(())
    }

    /// Ends a guest that broke the protocol.
    pub async fn broken(&mut self, rule: &'static str) -> GuestError {
        self.session.failed(ChannelError::Protocol(rule)).await
    }
}

/// Attaches a connection to the program `id`, from event number `seq` on.
async fn ask<S: ByteStream>(
    session: &Arc<Session<S>>,
    id: u64,
    seq: u64,
) -> Result<(Line<S>, Attached), GuestError> {
    let mut line = Line::open_another(Arc::clone(session)).await?;
    match line.ask(&HostMessage::Attach { id, seq }).await? {
        GuestMessage::Attached(attached) if attached.id == id && attached.seq >= seq => {
            Ok((line, attached))
        }
        _ => Err(line.broken("unexpected answer to an attachment").await),
    }
}

impl<S: ByteStream> Drop for Tether<S> {
    fn drop(&mut self) {
        if let (Bond::Kept(id), false) = (&self.bond, self.ended) {
            delete_program(&self.session, *id);
        }
    }
}

/// As [`forget_program`], in the background, unless the guest is left to another daemon.
pub(crate) fn delete_program<S: ByteStream>(session: &Arc<Session<S>>, id: u64) {
    let Ok(runtime) = Handle::try_current() else { return };
    if session.is_detached() {
        return;
    }
    let session = Arc::clone(session);
    runtime.spawn(async move { drop(forget_program(&session, id).await) });
}

/// Has the guest kill a process or context and forget it, so that no later daemon finds it. A guest
/// that has ended has none.
pub(crate) async fn forget_program<S: ByteStream>(
    session: &Arc<Session<S>>,
    id: u64,
) -> Result<(), GuestError> {
    let forgotten = async {
        let mut line = Line::open(Arc::clone(session)).await?;
        let GuestMessage::Done = line.ask(&HostMessage::Delete { id }).await? else {
            return Err(line.broken("unexpected answer to a deletion").await);
        };
        line.done();
        Ok(())
    };
    match forgotten.await {
        Err(GuestError::Gone { .. } | GuestError::Deleted { .. }) if !session.is_detached() => {
            Ok(())
        }
        forgotten => forgotten,
    }
}

/// Whether a connection has broken, and the guest has not broken a rule.
fn is_break(error: &ChannelError) -> bool {
    match error {
        ChannelError::Connect(_)
        | ChannelError::Closed
        | ChannelError::Io(_)
        | ChannelError::Frame(FrameError::Truncated(_)) => true,
        ChannelError::Frame(_) | ChannelError::Protocol(_) | ChannelError::Refused(_) => false,
    }
}
