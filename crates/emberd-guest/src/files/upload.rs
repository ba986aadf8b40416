//! Uploads of a file, or of an archive into a directory, piece by piece.

use std::marker::PhantomData;

use bytes::Bytes;
use emberd_proto::{FileEntry, GuestMessage, Kind};
use futures::FutureExt as _;

use super::conversation::Conversation;
use crate::error::GuestError;
use crate::host::ByteStream;
use crate::session::ANSWER_MAX;

/// Upload of a file to the guest. Dropping it before its end leaves the old file in place.
pub type FileUpload<S> = Upload<S, FileEntry>;

/// Upload of an archive to the guest. Dropping it leaves the entries unpacked so far.
pub type ArchiveUpload<S> = Upload<S, ()>;

/// Answer of the guest to an upload that has worked.
pub trait Answer: Sized {
    /// Message of the error if the answer is another one.
    const UNEXPECTED: &'static str;

    /// The answer in `message`; `None` if it is another one.
    fn of(message: GuestMessage) -> Option<Self>;
}

/// The metadata of the written file.
impl Answer for FileEntry {
    const UNEXPECTED: &'static str = "unexpected answer to an upload";

    fn of(message: GuestMessage) -> Option<Self> {
        if let GuestMessage::File(entry) = message { Some(entry) } else { None }
    }
}

/// Everything is unpacked.
impl Answer for () {
    const UNEXPECTED: &'static str = "unexpected answer to an archive upload";

    fn of(message: GuestMessage) -> Option<Self> {
        matches!(message, GuestMessage::Done).then_some(())
    }
}

/// Upload that ends with the answer `A`.
pub struct Upload<S, A>(Conversation<S>, PhantomData<A>);

impl<S: ByteStream, A: Answer> Upload<S, A> {
    pub(super) fn new(conversation: Conversation<S>) -> Self {
        Self(conversation, PhantomData)
    }

    /// Sends a piece; waits while the guest does not take it.
    ///
    /// # Errors
    /// [`GuestError`]; the upload has failed then.
    pub async fn send(&mut self, piece: &Bytes) -> Result<(), GuestError> {
        // A guest without free space reports it at once and discards the rest.
        if let Some(error) = self.failure().now_or_never() {
            return Err(error);
        }
        if piece.is_empty() { Ok(()) } else { self.0.send(Kind::Data, piece).await }
    }

    /// Waits until the upload fails while nothing is sent: the guest has no space, or has ended.
    /// Does not return while the upload works. Cancel safe.
    pub async fn failure(&mut self) -> GuestError {
        let refusal = async {
            let frame = self.0.unbounded_frame().await?;
            self.0.message(&frame).await
        };
        match refusal.await {
            Err(error) => error,
            Ok(_) => self.0.broken("answer before the end of the upload").await,
        }
    }

    /// Ends the upload, and waits for its answer: the metadata of the written file, or that
    /// everything is unpacked.
    ///
    /// # Errors
    /// [`GuestError`].
    pub async fn finish(mut self) -> Result<A, GuestError> {
        self.0.send(Kind::DataEnd, &[]).await?;
        let answer = self.0.answer(ANSWER_MAX).await?;
        match A::of(answer) {
            Some(answer) => {
                self.0.done();
                Ok(answer)
            }
            None => Err(self.0.broken(A::UNEXPECTED).await),
        }
    }
}
