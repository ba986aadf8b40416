//! One operation in a guest, over a connection reserved for it.

use std::sync::Arc;

use bytes::BytesMut;
use emberd_proto::{Frame, FrameError, GuestMessage, HostMessage, Kind};

use crate::error::{ChannelError, GuestError};
use crate::host::ByteStream;
use crate::link::{Link, Reader, Writer};
use crate::session::{ANSWER_MAX, Session};

/// A connection to the guest of one sandbox, for one operation at a time. Dropping it in the
/// middle of one ends that in the guest.
pub(crate) struct Line<S> {
    session: Arc<Session<S>>,
    link: Link<S>,
}

impl<S: ByteStream> Line<S> {
    /// Takes an idle connection of the guest, or opens one.
    pub async fn open(session: Arc<Session<S>>) -> Result<Self, GuestError> {
        let link = in_time(&session, session.link()).await?;
        Ok(Self { session, link })
    }

    /// Opens a connection, and leaves the idle ones to others.
    pub async fn open_another(session: Arc<Session<S>>) -> Result<Self, GuestError> {
        let link = in_time(&session, session.new_link()).await?;
        Ok(Self { session, link })
    }

    /// Sends one message and returns the one that answers it, which a guest can give at once.
    pub async fn ask(&mut self, message: &HostMessage) -> Result<GuestMessage, GuestError> {
        in_time(&self.session, self.link.ask(message)).await
    }

    /// Returns the next message of an answer of several.
    pub async fn answer(&mut self) -> Result<GuestMessage, GuestError> {
        in_time(&self.session, self.link.receive()).await
    }

    /// Reads the next frame, however long it takes. Cancel safe.
    pub async fn frame(&mut self) -> Result<Frame, GuestError> {
        unbounded(&self.session, self.link.frame()).await
    }

    /// Writes one frame, however long it takes. The connection is not idle after it.
    pub async fn send(&mut self, kind: Kind, payload: &[u8]) -> Result<(), GuestError> {
        unbounded(&self.session, self.link.send(kind, payload)).await
    }

    /// Ends a guest that sent a malformed frame.
    pub async fn malformed(&mut self, error: FrameError) -> GuestError {
        self.session.failed(ChannelError::Frame(error)).await
    }

    /// Writes one message, however long it takes. The connection is not idle after it.
    pub async fn say(&mut self, message: &HostMessage) -> Result<(), GuestError> {
        let json = serde_json::to_vec(message).expect("messages have string keys only");
        self.send(Kind::Control, &json).await
    }

    /// Ends a guest that broke the protocol.
    pub fn broken(&self, rule: &'static str) -> impl Future<Output = GuestError> + Send + use<S> {
        let session = Arc::clone(&self.session);
        async move { session.failed(ChannelError::Protocol(rule)).await }
    }

    /// Whether processes and contexts of the guest outlive their connections.
    pub fn keeps_programs(&self) -> bool {
        self.link.keeps_programs()
    }

    /// Marks the operation as ended in step: another may follow on this connection.
    pub fn done(mut self) {
        self.link.set_idle();
        if self.link.is_idle() {
            self.session.keep(self.link);
        }
    }

    /// The connection's stream, and what was read of it ahead.
    pub fn into_raw(self) -> (S, BytesMut) {
        self.link.into_raw()
    }

    /// Joins both directions of one line.
    pub fn join(reader: LineReader<S>, writer: LineWriter<S>) -> Self {
        let link = Link::join(reader.reader, writer.writer);
        Self { session: reader.session, link }
    }

    /// Splits both directions.
    pub fn split(self) -> (LineReader<S>, LineWriter<S>) {
        let (reader, writer) = self.link.split();
        let reader = LineReader { session: Arc::clone(&self.session), reader };
        (reader, LineWriter { session: self.session, writer })
    }
}

/// Reading half of a line.
pub(crate) struct LineReader<S> {
    session: Arc<Session<S>>,
    reader: Reader<S>,
}

impl<S: ByteStream> LineReader<S> {
    /// Reads the next frame, however long it takes. Cancel safe.
    pub async fn frame(&mut self) -> Result<Frame, GuestError> {
        unbounded(&self.session, self.reader.frame()).await
    }

    /// As [`Self::frame`], but leaves it to the caller what a failed connection means.
    pub async fn heard(&mut self) -> Result<Result<Frame, ChannelError>, GuestError> {
        let Self { session, reader } = self;
        session.guarded(async { Ok(reader.frame().await) }).await
    }

    /// Ends a guest that broke the protocol.
    pub async fn broken(&mut self, rule: &'static str) -> GuestError {
        self.session.failed(ChannelError::Protocol(rule)).await
    }
}

/// Writing half of a line.
pub(crate) struct LineWriter<S> {
    session: Arc<Session<S>>,
    writer: Writer<S>,
}

impl<S: ByteStream> LineWriter<S> {
    /// Writes frames as they are, however long it takes.
    pub async fn write(&mut self, frames: &[u8]) -> Result<(), GuestError> {
        unbounded(&self.session, self.writer.write(frames)).await
    }
}

async fn in_time<S: ByteStream, T>(
    session: &Arc<Session<S>>,
    conversation: impl Future<Output = Result<T, ChannelError>>,
) -> Result<T, GuestError> {
    let timely = async {
        match session.in_time(ANSWER_MAX, conversation).await? {
            Ok(answer) => Ok(answer),
            Err(source) => Err(session.failed(source).await),
        }
    };
    session.guarded(timely).await
}

async fn unbounded<S: ByteStream, T>(
    session: &Arc<Session<S>>,
    conversation: impl Future<Output = Result<T, ChannelError>>,
) -> Result<T, GuestError> {
    let explained = async {
        match conversation.await {
            Ok(outcome) => Ok(outcome),
            Err(source) => Err(session.failed(source).await),
        }
    };
    session.guarded(explained).await
}
