//! Content of a file, or of a directory as a tar stream, piece by piece.

use bytes::Bytes;
use emberd_proto::{FileEntry, Kind, Refusal, RefusalCode};

use super::conversation::Conversation;
use crate::error::GuestError;
use crate::host::ByteStream;
use crate::session::ANSWER_MAX;

/// Most bytes of one file, or of one archive, that cross either way (16 GiB).
pub const STREAM_BYTES_MAX: u64 = 16 << 30;

/// Content that comes from the guest. Dropping it ends the reading.
pub struct FileContent<S> {
    entry: FileEntry,
    /// Number of bytes, if known.
    length: Option<u64>,
    received: u64,
    /// None once the content is complete.
    conversation: Option<Conversation<S>>,
}

impl<S: ByteStream> FileContent<S> {
    /// Starts reading part of a file.
    pub(super) async fn of_file(
        mut conversation: Conversation<S>,
        offset: u64,
        length: Option<u64>,
    ) -> Result<Self, GuestError> {
        let entry = conversation.entry(ANSWER_MAX).await?;
        let length = entry.size.saturating_sub(offset).min(length.unwrap_or(u64::MAX));
        Ok(Self { entry, length: Some(length), received: 0, conversation: Some(conversation) })
    }

    /// Starts reading an archive.
    pub(super) async fn of_archive(mut conversation: Conversation<S>) -> Result<Self, GuestError> {
        let entry = conversation.entry(ANSWER_MAX).await?;
        Ok(Self { entry, length: None, received: 0, conversation: Some(conversation) })
    }

    /// Returns the entry being read.
    pub fn entry(&self) -> &FileEntry {
        &self.entry
    }

    /// Returns the number of bytes; absent for an archive. Fewer bytes are an error.
    pub fn length(&self) -> Option<u64> {
        self.length
    }

    /// Returns the next piece, at most a frame; none at the end.
    ///
    /// # Errors
    /// [`GuestError`]; no further call may follow one.
    pub async fn next(&mut self) -> Result<Option<Bytes>, GuestError> {
        let Some(mut conversation) = self.conversation.take() else { return Ok(None) };
        let frame = conversation.frame().await?;
        match frame.kind {
            Kind::Data if frame.payload.is_empty() => {
                Err(conversation.broken("empty piece of a file").await)
            }
            Kind::Data => {
                self.received += frame.payload.len() as u64;
                if self.length.is_some_and(|length| self.received > length) {
                    return Err(conversation.broken("more bytes than the announced size").await);
                }
                if self.received > STREAM_BYTES_MAX {
                    return Err(cut("it is larger than 16 GiB"));
                }
                self.conversation = Some(conversation);
                Ok(Some(frame.payload))
            }
            Kind::DataEnd => {
                conversation.done();
                if self.length.is_some_and(|length| self.received < length) {
                    return Err(cut("the file became shorter while it was read"));
                }
                Ok(None)
            }
            _ => {
                let message = conversation.message(&frame).await;
                match message {
                    Err(error) => Err(error),
                    Ok(_) => {
                        Err(conversation.broken("unexpected frame in place of file content").await)
                    }
                }
            }
        }
    }
}

/// Why content ends before its end.
fn cut(reason: &str) -> GuestError {
    let (code, message) = (RefusalCode::Failed, reason.to_owned());
    GuestError::Refused(Refusal { code, message })
}
