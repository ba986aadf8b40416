//! A listing, batch by batch.

use emberd_proto::file::{BATCH_MAX, ENTRIES_MAX};
use emberd_proto::{FileEntry, GuestMessage};

use super::conversation::Conversation;
use crate::error::GuestError;
use crate::host::ByteStream;
use crate::session::ANSWER_MAX;

/// Entries that come from the guest. Dropping it ends the listing.
pub struct FileListing<S> {
    /// None once the listing is complete.
    conversation: Option<Conversation<S>>,
    first: Option<Vec<FileEntry>>,
    received: usize,
    cut: bool,
}

impl<S: ByteStream> FileListing<S> {
    /// Waits for the first batch, so that a refusal is returned here.
    pub(super) async fn begin(conversation: Conversation<S>) -> Result<Self, GuestError> {
        let conversation = Some(conversation);
        let mut listing = Self { conversation, first: None, received: 0, cut: false };
        listing.first = listing.next().await?;
        Ok(listing)
    }

    /// Returns the next entries, at most [`BATCH_MAX`]; none at the end.
    ///
    /// # Errors
    /// [`GuestError`]; no further call may follow one.
    pub async fn next(&mut self) -> Result<Option<Vec<FileEntry>>, GuestError> {
        if let Some(first) = self.first.take() {
            return Ok(Some(first));
        }
        let Some(mut conversation) = self.conversation.take() else { return Ok(None) };
        match conversation.answer(ANSWER_MAX).await {
            Ok(GuestMessage::Done) => {
                conversation.done();
                Ok(None)
            }
            Ok(GuestMessage::Listed { entries, cut }) => {
                self.received += entries.len();
                let empty_one = entries.is_empty() && self.received > 0;
                let too_many = entries.len() > BATCH_MAX || self.received > ENTRIES_MAX;
                if self.cut || too_many || empty_one {
                    return Err(conversation.broken("listing larger than allowed").await);
                }
                self.cut = cut;
                self.conversation = Some(conversation);
                Ok(Some(entries))
            }
            Ok(_) => Err(conversation.broken("unexpected message in a listing").await),
            Err(error) => Err(error),
        }
    }

    /// Whether the listing was cut at its limit; valid at its end.
    pub fn is_cut(&self) -> bool {
        self.cut
    }
}
