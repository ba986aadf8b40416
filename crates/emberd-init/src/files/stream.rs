//! Transfers data between the connection and a thread that works on files.
//!
//! ```text
//! answer    work ──────────────────────────────▶ one message
//! produce   work ─▶ Sink ─(few pieces at a time)─▶ frames, then the ending
//! consume   frames ─(few pieces at a time)─▶ Source ─▶ work ─▶ one message
//! ```
//! If the work fails, the answer is a refusal. The remaining data from the host is then read and
//! dropped, so that the connection becomes idle.

use std::io::{self, Read, Write};

use bytes::{Buf as _, Bytes};
use emberd_proto::frame::{self, BULK_BYTES_MAX};
use emberd_proto::{Frame, GuestMessage, Kind};
use tokio::sync::mpsc;
use tokio::task::{JoinError, JoinHandle, spawn_blocking};

use super::errors::FileError;
use crate::connection::{Connection, ConnectionError, Outgoing};

/// Maximum number of pieces between the connection and the work.
const PIECES_MAX: usize = 4;

/// How the pieces of [`produce`] end.
#[derive(Debug, Clone, Copy)]
pub enum Ending {
    /// [`GuestMessage::Done`].
    Done,
    /// [`Kind::DataEnd`].
    DataEnd,
}

/// An item for the host.
#[derive(Debug)]
pub enum Piece {
    /// A message.
    Message(GuestMessage),
    /// Bytes of a file or an archive.
    Data(Bytes),
}

/// Output of the work.
pub struct Sink(pub mpsc::Sender<Piece>);

impl Sink {
    /// Sends a message. Waits while the host does not read.
    pub fn send(&self, message: GuestMessage) -> Result<(), FileError> {
        self.0.blocking_send(Piece::Message(message)).map_err(|_| FileError::HostLeft)
    }

    /// Sends bytes, at most [`BULK_BYTES_MAX`]. Waits while the host does not read.
    pub fn data(&self, piece: Bytes) -> Result<(), FileError> {
        self.0.blocking_send(Piece::Data(piece)).map_err(|_| FileError::HostLeft)
    }
}

/// A [`Sink`] that buffers small writes.
pub struct DataWriter<'a> {
    sink: &'a Sink,
    buffer: Vec<u8>,
}

impl<'a> DataWriter<'a> {
    pub fn new(sink: &'a Sink) -> Self {
        Self { sink, buffer: Vec::with_capacity(BULK_BYTES_MAX) }
    }
}

impl Write for DataWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = bytes.len().min(BULK_BYTES_MAX - self.buffer.len());
        self.buffer.extend_from_slice(&bytes[..taken]);
        if self.buffer.len() == BULK_BYTES_MAX {
            self.flush()?;
        }
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let next = Vec::with_capacity(BULK_BYTES_MAX);
        let piece = std::mem::replace(&mut self.buffer, next);
        self.sink.data(piece.into()).map_err(io::Error::other)
    }
}

/// Input of the work, from the host. It ends only when the host says so.
pub struct Source {
    pieces: mpsc::Receiver<Option<Bytes>>,
    /// The part of a piece that [`Read`] has not returned yet.
    rest: Bytes,
    ended: bool,
}

impl Source {
    /// Returns the next piece; none at the end. Waits for the host.
    pub fn next(&mut self) -> Result<Option<Bytes>, FileError> {
        if self.ended {
            return Ok(None);
        }
        let piece = self.pieces.blocking_recv().ok_or(FileError::HostLeft)?;
        self.ended = piece.is_none();
        Ok(piece)
    }
}

impl Read for Source {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.rest.is_empty() {
            match self.next().map_err(io::Error::other)? {
                Some(piece) => self.rest = piece,
                None => return Ok(0),
            }
        }
        let count = buffer.len().min(self.rest.len());
        self.rest.copy_to_slice(&mut buffer[..count]);
        Ok(count)
    }
}

/// Runs `work` and sends its message.
pub async fn answer(
    connection: &mut Connection,
    work: impl FnOnce() -> Result<GuestMessage, FileError> + Send + 'static,
) -> Result<(), ConnectionError> {
    let outcome = finished(spawn_blocking(work).await);
    connection.outgoing.push(&message(outcome));
    write_all(&mut connection.outgoing).await
}

/// Runs `work`, sends its items, and then the ending.
pub async fn produce(
    connection: &mut Connection,
    ending: Ending,
    work: impl FnOnce(&Sink) -> Result<(), FileError> + Send + 'static,
) -> Result<(), ConnectionError> {
    let (sender, mut pieces) = mpsc::channel(PIECES_MAX);
    let task = spawn_blocking(move || work(&Sink(sender)));
    let outgoing = &mut connection.outgoing;
    while let Some(piece) = pieces.recv().await {
        match piece {
            Piece::Message(message) => outgoing.push(&message),
            Piece::Data(bytes) => frame::encode(Kind::Data, &bytes, &mut outgoing.buffer),
        }
        write_all(outgoing).await?;
    }
    match (finished(task.await), ending) {
        (Ok(()), Ending::Done) => outgoing.push(&GuestMessage::Done),
        (Ok(()), Ending::DataEnd) => frame::encode(Kind::DataEnd, &[], &mut outgoing.buffer),
        (Err(error), _) => outgoing.push(&GuestMessage::Refused(error.refusal())),
    }
    write_all(outgoing).await
}

/// Runs `work` with the host's data, and sends its message.
pub async fn consume(
    connection: &mut Connection,
    work: impl FnOnce(&mut Source) -> Result<GuestMessage, FileError> + Send + 'static,
) -> Result<(), ConnectionError> {
    let (sender, pieces) = mpsc::channel(PIECES_MAX);
    let mut task =
        spawn_blocking(move || work(&mut Source { pieces, rest: Bytes::new(), ended: false }));
    let (outcome, ended) = feed(connection, sender, &mut task).await?;
    connection.outgoing.push(&message(outcome));
    write_all(&mut connection.outgoing).await?;
    if ended {
        return Ok(());
    }
    // If the host disconnects now, the next read notices it.
    while let Some(frame) = connection.incoming.frame().await? {
        if data(frame)?.is_none() {
            break;
        }
    }
    Ok(())
}

/// Passes on the host's data until the work ends. Returns its result, and whether the host's data
/// had ended.
async fn feed(
    connection: &mut Connection,
    sender: mpsc::Sender<Option<Bytes>>,
    task: &mut JoinHandle<Result<GuestMessage, FileError>>,
) -> Result<(Result<GuestMessage, FileError>, bool), ConnectionError> {
    let mut ended = false;
    loop {
        tokio::select! {
            biased;
            outcome = &mut *task => return Ok((finished(outcome), ended)),
            frame = connection.incoming.frame(), if !ended => {
                let piece = data(frame?.ok_or(ConnectionError::HostLeft)?)?;
                ended = piece.is_none();
                // Fails if the work has ended, which the next step notices.
                sender.send(piece).await.ok();
            }
        }
    }
}

/// Returns the data in a frame of an operation; none at the end.
fn data(frame: Frame) -> Result<Option<Bytes>, ConnectionError> {
    match frame.kind {
        Kind::Data => Ok(Some(frame.payload)),
        Kind::DataEnd => Ok(None),
        kind => Err(ConnectionError::Unexpected(kind)),
    }
}

pub fn message(outcome: Result<GuestMessage, FileError>) -> GuestMessage {
    outcome.unwrap_or_else(|error| GuestMessage::Refused(error.refusal()))
}

/// Returns the result of a thread, and resumes its panic.
pub fn finished<T>(joined: Result<T, JoinError>) -> T {
    joined.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))
}

pub async fn write_all(outgoing: &mut Outgoing) -> Result<(), ConnectionError> {
    while !outgoing.buffer.is_empty() {
        outgoing.write_some().await?;
    }
    Ok(())
}
