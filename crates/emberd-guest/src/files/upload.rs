//! Uploads of a file, or of an archive into a directory, piece by piece.

use bytes::Bytes;
use emberd_proto::{FileEntry, GuestMessage, Kind};
use futures::FutureExt as _;

use super::conversation::Conversation;
use crate::error::GuestError;
use crate::host::ByteStream;
use crate::session::ANSWER_MAX;

/// Upload of a file to the guest. Dropping it before its end leaves the old file in place.
pub struct FileUpload<S>(Upload<S>);

impl<S: ByteStream> FileUpload<S> {
    pub(super) fn new(conversation: Conversation<S>) -> Self {
        Self(Upload(conversation))
    }

    /// Sends a piece; waits while the guest does not take it.
    ///
    /// # Errors
    /// [`GuestError`]; the upload has failed then.
    pub async fn send(&mut self, piece: &Bytes) -> Result<(), GuestError> {
        self.0.send(piece).await
    }

    /// Waits until the upload fails while nothing is sent: the guest has no space, or has ended.
    /// Does not return while the upload works. Cancel safe.
    pub async fn failure(&mut self) -> GuestError {
        self.0.failure().await
    }

    /// Ends the upload, and returns the metadata of the written file.
    ///
    /// # Errors
    /// [`GuestError`].
    pub async fn finish(self) -> Result<FileEntry, GuestError> {
        let (answer, conversation) = self.0.finish().await?;
        match answer {
            GuestMessage::File(entry) => {
                conversation.done();
                Ok(entry)
            }
            _ => Err(conversation.broken("unexpected answer to an upload").await),
        }
    }
}

/// Upload of an archive to the guest. Dropping it leaves the entries unpacked so far.
pub struct ArchiveUpload<S>(Upload<S>);

impl<S: ByteStream> ArchiveUpload<S> {
    pub(super) fn new(conversation: Conversation<S>) -> Self {
        Self(Upload(conversation))
    }

    /// Sends a piece; waits while the guest does not take it.
    ///
    /// # Errors
    /// [`GuestError`]; the upload has failed then.
    pub async fn send(&mut self, piece: &Bytes) -> Result<(), GuestError> {
        self.0.send(piece).await
    }

    /// Waits until the upload fails while nothing is sent: the guest has no space, or has ended.
    /// Does not return while the upload works. Cancel safe.
    pub async fn failure(&mut self) -> GuestError {
        self.0.failure().await
    }

    /// Ends the upload, and waits until everything is unpacked.
    ///
    /// # Errors
    /// [`GuestError`].
    pub async fn finish(self) -> Result<(), GuestError> {
        let (answer, conversation) = self.0.finish().await?;
        match answer {
            GuestMessage::Done => {
                conversation.done();
                Ok(())
            }
            _ => Err(conversation.broken("unexpected answer to an archive upload").await),
        }
    }
}

struct Upload<S>(Conversation<S>);

impl<S: ByteStream> Upload<S> {
    async fn send(&mut self, piece: &Bytes) -> Result<(), GuestError> {
        // A guest without free space reports it at once and discards the rest.
        if let Some(error) = self.failure().now_or_never() {
            return Err(error);
        }
        if piece.is_empty() { Ok(()) } else { self.0.send(Kind::Data, piece).await }
    }

    async fn failure(&mut self) -> GuestError {
        let refusal = async {
            let frame = self.0.unbounded_frame().await?;
            self.0.message(&frame).await
        };
        match refusal.await {
            Err(error) => error,
            Ok(_) => self.0.broken("answer before the end of the upload").await,
        }
    }

    async fn finish(mut self) -> Result<(GuestMessage, Conversation<S>), GuestError> {
        self.0.send(Kind::DataEnd, &[]).await?;
        let answer = self.0.answer(ANSWER_MAX).await?;
        Ok((answer, self.0))
    }
}
