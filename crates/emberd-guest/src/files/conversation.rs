//! The common part of file operations: a permit, a connection and time limits.

use std::sync::Arc;
use std::time::Duration;

use emberd_proto::{FileEntry, FileRequest, Frame, GuestMessage, HostMessage, Kind};
use tokio::sync::OwnedSemaphorePermit;

use crate::error::GuestError;
use crate::host::ByteStream;
use crate::line::Line;
use crate::session::{ANSWER_MAX, Session};

/// Kind of permit that an operation waits for.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Permit {
    /// A permit for an operation that ends by itself.
    Operation,
    /// A permit for a watch.
    Watch,
}

/// An operation under way. Dropping it ends it in the guest.
pub(crate) struct Conversation<S> {
    session: Arc<Session<S>>,
    line: Line<S>,
    _permit: OwnedSemaphorePermit,
}

impl<S: ByteStream> Conversation<S> {
    /// Waits for a permit, and sends the request.
    pub async fn begin(
        session: &Arc<Session<S>>,
        request: FileRequest,
        permit: Permit,
    ) -> Result<Self, GuestError> {
        let permits = match permit {
            Permit::Operation => &session.file_operations,
            Permit::Watch => &session.watches,
        };
        let permit = async {
            let permit = Arc::clone(permits).acquire_owned().await;
            Ok(permit.expect("the semaphore is never closed"))
        };
        let permit = session.guarded(permit).await?;
        let line = Line::open(Arc::clone(session)).await?;
        let mut begun = Self { session: Arc::clone(session), line, _permit: permit };
        let request = HostMessage::File(request);
        session.in_time(ANSWER_MAX, begun.line.say(&request)).await??;
        Ok(begun)
    }

    /// Reads the next frame, which a guest can send at once.
    pub async fn frame(&mut self) -> Result<Frame, GuestError> {
        self.frame_within(ANSWER_MAX).await
    }

    /// Reads the next frame, without a time limit; none once the daemon is about to stop.
    pub async fn next_change(&mut self) -> Result<Option<Frame>, GuestError> {
        self.session.host.stir();
        tokio::select! {
            biased;
            () = self.session.host.closing() => Ok(None),
            frame = self.line.frame() => frame.map(Some),
        }
    }

    async fn frame_within(&mut self, waited: Duration) -> Result<Frame, GuestError> {
        self.session.host.stir();
        self.session.in_time(waited, self.line.frame()).await?
    }

    /// Reads the next frame without a time limit. Cancel safe.
    pub async fn unbounded_frame(&mut self) -> Result<Frame, GuestError> {
        self.line.frame().await
    }

    /// Sends bytes, which a guest can take at once; none as one frame.
    pub async fn send(&mut self, kind: Kind, payload: &[u8]) -> Result<(), GuestError> {
        self.session.host.stir();
        self.session.in_time(ANSWER_MAX, self.line.send(kind, payload)).await?
    }

    /// The message that answers, or the refusal.
    pub async fn answer(&mut self, waited: Duration) -> Result<GuestMessage, GuestError> {
        let frame = self.frame_within(waited).await?;
        self.message(&frame).await
    }

    /// The message in a frame; a refusal is an error.
    pub async fn message(&mut self, frame: &Frame) -> Result<GuestMessage, GuestError> {
        match frame.message() {
            Ok(GuestMessage::Refused(refusal)) => Err(GuestError::Refused(refusal)),
            Ok(message) => Ok(message),
            Err(_) => Err(self.broken("unexpected frame in place of a message").await),
        }
    }

    /// The entry that answers.
    pub async fn entry(&mut self, waited: Duration) -> Result<FileEntry, GuestError> {
        match self.answer(waited).await? {
            GuestMessage::File(entry) => Ok(entry),
            _ => Err(self.broken("unexpected answer in place of a file's metadata").await),
        }
    }

    /// Ends a guest that broke the protocol.
    pub fn broken(&self, rule: &'static str) -> impl Future<Output = GuestError> + Send + use<S> {
        self.line.broken(rule)
    }

    /// Marks the operation as ended in step: its connection is reused.
    pub fn done(self) {
        self.line.done();
    }
}
