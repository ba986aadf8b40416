//! What all operations on files have in common: a turn, a connection, and limits on time.

use std::sync::Arc;
use std::time::Duration;

use emberd_proto::{FileEntry, FileRequest, Frame, GuestMessage, HostMessage, Kind};
use tokio::sync::OwnedSemaphorePermit;

use crate::SandboxId;
use crate::operation::{ANSWER_MAX, Line, OperationError, guarded};
use crate::shared::Shared;

/// Among what an operation waits for its turn.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Turn {
    /// Operations that end.
    File,
    /// Watches.
    Watch,
}

/// An operation under way. Dropping it ends it in the guest.
pub(crate) struct Conversation {
    shared: Arc<Shared>,
    line: Line,
    _turn: OwnedSemaphorePermit,
}

impl Conversation {
    /// Waits for a turn, and asks.
    pub async fn begin(
        shared: &Arc<Shared>,
        id: SandboxId,
        request: FileRequest,
        turn: Turn,
    ) -> Result<Self, OperationError> {
        let sandbox = shared.table.find(id).ok_or(OperationError::Unknown(id))?;
        let ready = sandbox.ready.get().ok_or(OperationError::NotReady(id))?;
        let turns = match turn {
            Turn::File => &ready.file_turns,
            Turn::Watch => &ready.watches,
        };
        let turn = async {
            let turn = Arc::clone(turns).acquire_owned().await;
            Ok(turn.expect("the semaphore is never closed"))
        };
        let turn = guarded(&sandbox, turn).await?;
        let line = Line::open(Arc::clone(&sandbox)).await?;
        let mut begun = Self { shared: Arc::clone(shared), line, _turn: turn };
        let id = begun.line.id();
        within(id, ANSWER_MAX, begun.line.say(&HostMessage::File(request))).await?;
        Ok(begun)
    }

    /// The next frame, which a guest can send at once.
    pub async fn frame(&mut self) -> Result<Frame, OperationError> {
        self.frame_within(ANSWER_MAX).await
    }

    /// The next frame, however long it takes; none once no more sandboxes are to be made.
    pub async fn patient_frame(&mut self) -> Result<Option<Frame>, OperationError> {
        self.shared.activity.stir();
        let frame = self.shared.closing.run_until_cancelled(self.line.frame());
        frame.await.transpose()
    }

    async fn frame_within(&mut self, patience: Duration) -> Result<Frame, OperationError> {
        self.shared.activity.stir();
        let id = self.line.id();
        within(id, patience, self.line.frame()).await
    }

    /// The next frame, which need not come before something is sent. Cancel safe.
    pub async fn endless_frame(&mut self) -> Result<Frame, OperationError> {
        self.line.frame().await
    }

    /// Sends bytes, which a guest can take at once; none as one frame.
    pub async fn send(&mut self, kind: Kind, payload: &[u8]) -> Result<(), OperationError> {
        self.shared.activity.stir();
        let id = self.line.id();
        within(id, ANSWER_MAX, self.line.send(kind, payload)).await
    }

    /// The message that answers, or the refusal.
    pub async fn answer(&mut self, patience: Duration) -> Result<GuestMessage, OperationError> {
        let frame = self.frame_within(patience).await?;
        self.message(&frame).await
    }

    /// The message in a frame; a refusal is an error.
    pub async fn message(&mut self, frame: &Frame) -> Result<GuestMessage, OperationError> {
        match frame.message() {
            Ok(GuestMessage::Refused(refusal)) => Err(OperationError::Refused(refusal)),
            Ok(message) => Ok(message),
            Err(_) => Err(self.broken("it sent something else than a message").await),
        }
    }

    /// The entry that answers.
    pub async fn entry(&mut self, patience: Duration) -> Result<FileEntry, OperationError> {
        match self.answer(patience).await? {
            GuestMessage::File(entry) => Ok(entry),
            _ => Err(self.broken("it did not say what a file is").await),
        }
    }

    /// Ends a guest that broke the protocol.
    pub fn broken(
        &self,
        rule: &'static str,
    ) -> impl Future<Output = OperationError> + Send + use<> {
        self.line.broken(rule)
    }

    /// Says that the operation ended in step: its connection is used again.
    pub fn done(self) {
        self.line.done();
    }
}

async fn within<T>(
    id: SandboxId,
    waited: Duration,
    operation: impl Future<Output = Result<T, OperationError>>,
) -> Result<T, OperationError> {
    let late = Err(OperationError::Unresponsive { id, waited });
    tokio::time::timeout(waited, operation).await.unwrap_or(late)
}
