//! What goes into a file, or an archive into a directory, piece by piece.

use bytes::Bytes;
use emberd_proto::{FileEntry, GuestMessage, Kind};
use futures::FutureExt as _;

use super::conversation::Conversation;
use crate::operation::{ANSWER_MAX, OperationError};

/// A file on its way to the guest. Dropped before it is finished, it leaves what was there.
pub struct FileUpload(Upload);

impl FileUpload {
    pub(super) fn new(conversation: Conversation) -> Self {
        Self(Upload(conversation))
    }

    /// Sends a piece; waits while the guest does not take it.
    ///
    /// # Errors
    /// [`OperationError`]; the upload has failed then.
    pub async fn send(&mut self, piece: &Bytes) -> Result<(), OperationError> {
        self.0.send(piece).await
    }

    /// Waits until the upload fails while nothing is sent, for ever if it does not: a guest has
    /// no room, or is no more. Cancel safe.
    pub async fn failure(&mut self) -> OperationError {
        self.0.failure().await
    }

    /// Says that all is sent, and returns what the file is then.
    ///
    /// # Errors
    /// [`OperationError`].
    pub async fn finish(self) -> Result<FileEntry, OperationError> {
        let (answer, conversation) = self.0.finish().await?;
        match answer {
            GuestMessage::File(entry) => {
                conversation.done();
                Ok(entry)
            }
            _ => Err(conversation.broken("it did not say what was written").await),
        }
    }
}

/// An archive on its way to the guest. What was unpacked stays, whenever it is dropped.
pub struct ArchiveUpload(Upload);

impl ArchiveUpload {
    pub(super) fn new(conversation: Conversation) -> Self {
        Self(Upload(conversation))
    }

    /// Sends a piece; waits while the guest does not take it.
    ///
    /// # Errors
    /// [`OperationError`]; the upload has failed then.
    pub async fn send(&mut self, piece: &Bytes) -> Result<(), OperationError> {
        self.0.send(piece).await
    }

    /// Waits until the upload fails while nothing is sent, for ever if it does not: a guest has
    /// no room, or is no more. Cancel safe.
    pub async fn failure(&mut self) -> OperationError {
        self.0.failure().await
    }

    /// Says that all is sent, and waits until all is unpacked.
    ///
    /// # Errors
    /// [`OperationError`].
    pub async fn finish(self) -> Result<(), OperationError> {
        let (answer, conversation) = self.0.finish().await?;
        match answer {
            GuestMessage::Done => {
                conversation.done();
                Ok(())
            }
            _ => Err(conversation.broken("it did not say that it unpacked").await),
        }
    }
}

struct Upload(Conversation);

impl Upload {
    async fn send(&mut self, piece: &Bytes) -> Result<(), OperationError> {
        // A guest that has no room left says so at once, and drops the rest.
        if let Some(error) = self.failure().now_or_never() {
            return Err(error);
        }
        if piece.is_empty() { Ok(()) } else { self.0.send(Kind::Data, piece).await }
    }

    async fn failure(&mut self) -> OperationError {
        let refusal = async {
            let frame = self.0.endless_frame().await?;
            self.0.message(&frame).await
        };
        match refusal.await {
            Err(error) => error,
            Ok(_) => self.0.broken("it answered before it was told all").await,
        }
    }

    async fn finish(mut self) -> Result<(GuestMessage, Conversation), OperationError> {
        self.0.send(Kind::DataEnd, &[]).await?;
        let answer = self.0.answer(ANSWER_MAX).await?;
        Ok((answer, self.0))
    }
}
