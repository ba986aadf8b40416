//! Changes of files, as they happen.

use emberd_proto::file::BATCH_MAX;
use emberd_proto::{FileChange, GuestMessage};

use super::conversation::Conversation;
use crate::error::GuestError;
use crate::host::ByteStream;
use crate::session::ANSWER_MAX;

/// Changes that come from the guest. Dropping it ends the watch.
pub struct FileWatch<S>(Conversation<S>);

impl<S: ByteStream> FileWatch<S> {
    pub(super) async fn begin(mut conversation: Conversation<S>) -> Result<Self, GuestError> {
        match conversation.answer(ANSWER_MAX).await? {
            GuestMessage::Watching => Ok(Self(conversation)),
            _ => Err(conversation.broken("unexpected answer to a watch").await),
        }
    }

    /// Waits for the next changes, at most [`BATCH_MAX`]; none once the daemon is about to stop.
    /// Cancel safe.
    ///
    /// # Errors
    /// [`GuestError`]; the watch has ended then.
    pub async fn next(&mut self) -> Result<Option<Vec<FileChange>>, GuestError> {
        let Some(frame) = self.0.next_change().await? else { return Ok(None) };
        match self.0.message(&frame).await? {
            GuestMessage::Changes { changes } if (1..=BATCH_MAX).contains(&changes.len()) => {
                Ok(Some(changes))
            }
            _ => Err(self.0.broken("unexpected message in place of file changes").await),
        }
    }
}
