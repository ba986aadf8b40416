//! Operations on the files of a guest.
//!
//! Content and listings are streams: the host never holds more than a frame of them, and ends a
//! guest that exceeds its limits.

use std::sync::Arc;
use std::time::Duration;

use emberd_proto::file::BATCH_MAX;
use emberd_proto::{FileChange, FileEntry, FileOp, FileRequest, GuestMessage, GuestPath};

use crate::error::GuestError;
use crate::host::ByteStream;
use crate::session::{ANSWER_MAX, Session};

mod content;
mod conversation;
mod listing;
mod upload;

pub use content::{FileContent, STREAM_BYTES_MAX};
use conversation::{Conversation, Permit};
pub use listing::FileListing;
pub use upload::{Answer, ArchiveUpload, FileUpload, Upload};

/// How long a guest may take to move or remove a tree of files.
const TREE_MAX: Duration = Duration::from_secs(600);

/// The files of one guest.
pub struct Files<S> {
    session: Arc<Session<S>>,
}

impl<S: ByteStream> Files<S> {
    pub(crate) fn new(session: Arc<Session<S>>) -> Self {
        Self { session }
    }

    /// Returns the metadata of a path. A relative path begins at the home of `user`, or of root.
    ///
    /// # Errors
    /// [`GuestError`], as all operations on files.
    pub async fn stat(
        &self,
        user: Option<String>,
        path: GuestPath,
    ) -> Result<FileEntry, GuestError> {
        self.entry_of(user, FileOp::Stat { path }, ANSWER_MAX).await
    }

    /// Lists a directory, `depth` levels deep.
    ///
    /// # Errors
    /// [`GuestError`].
    pub async fn list(
        &self,
        user: Option<String>,
        path: GuestPath,
        depth: u32,
    ) -> Result<FileListing<S>, GuestError> {
        FileListing::begin(self.ask(user, FileOp::List { path, depth }, Permit::Operation).await?)
            .await
    }

    /// Makes a directory and its parents; they belong to `user`, or to root.
    ///
    /// # Errors
    /// [`GuestError`]; the guest refuses a path that exists.
    pub async fn make_dir(
        &self,
        user: Option<String>,
        path: GuestPath,
        mode: Option<u32>,
    ) -> Result<FileEntry, GuestError> {
        self.entry_of(user, FileOp::MakeDir { path, mode }, ANSWER_MAX).await
    }

    /// Renames, replacing an existing file; makes parents.
    ///
    /// # Errors
    /// [`GuestError`].
    pub async fn rename(
        &self,
        user: Option<String>,
        from: GuestPath,
        to: GuestPath,
    ) -> Result<FileEntry, GuestError> {
        self.entry_of(user, FileOp::Move { from, to }, TREE_MAX).await
    }

    /// Removes a file, or a directory with its content. Succeeds if the path does not exist.
    ///
    /// # Errors
    /// [`GuestError`].
    pub async fn remove(&self, user: Option<String>, path: GuestPath) -> Result<(), GuestError> {
        let mut asked = self.ask(user, FileOp::Remove { path }, Permit::Operation).await?;
        match asked.answer(TREE_MAX).await? {
            GuestMessage::Done => {
                asked.done();
                Ok(())
            }
            _ => Err(asked.broken("unexpected answer to a removal").await),
        }
    }

    /// Reads at most `length` bytes of a file from `offset` on; all of it when absent.
    ///
    /// # Errors
    /// [`GuestError`].
    pub async fn read(
        &self,
        user: Option<String>,
        path: GuestPath,
        offset: u64,
        length: Option<u64>,
    ) -> Result<FileContent<S>, GuestError> {
        let op = FileOp::Read { path, offset, length };
        FileContent::of_file(self.ask(user, op, Permit::Operation).await?, offset, length).await
    }

    /// Makes or replaces a file atomically; makes parents. Dropping the upload before its end
    /// leaves the old file in place.
    ///
    /// # Errors
    /// [`GuestError`].
    pub async fn write(
        &self,
        user: Option<String>,
        path: GuestPath,
        mode: Option<u32>,
    ) -> Result<FileUpload<S>, GuestError> {
        let asked = self.ask(user, FileOp::Write { path, mode }, Permit::Operation).await?;
        Ok(FileUpload::new(asked))
    }

    /// Reads a directory, or one file, as a tar stream.
    ///
    /// # Errors
    /// [`GuestError`].
    pub async fn pack(
        &self,
        user: Option<String>,
        path: GuestPath,
    ) -> Result<FileContent<S>, GuestError> {
        FileContent::of_archive(self.ask(user, FileOp::Pack { path }, Permit::Operation).await?)
            .await
    }

    /// Unpacks a tar stream into a directory, which is created. Dropping the upload before its end
    /// leaves the entries unpacked so far.
    ///
    /// # Errors
    /// [`GuestError`].
    pub async fn unpack(
        &self,
        user: Option<String>,
        path: GuestPath,
    ) -> Result<ArchiveUpload<S>, GuestError> {
        let asked = self.ask(user, FileOp::Unpack { path }, Permit::Operation).await?;
        Ok(ArchiveUpload::new(asked))
    }

    /// Watches a file, or the entries of a directory, and with `recursive` everything below it.
    /// Changes after this returns are reported.
    ///
    /// # Errors
    /// [`GuestError`].
    pub async fn watch(
        &self,
        user: Option<String>,
        path: GuestPath,
        recursive: bool,
    ) -> Result<FileWatch<S>, GuestError> {
        let op = FileOp::Watch { path, recursive };
        FileWatch::begin(self.ask(user, op, Permit::Watch).await?).await
    }

    async fn entry_of(
        &self,
        user: Option<String>,
        op: FileOp,
        waited: Duration,
    ) -> Result<FileEntry, GuestError> {
        let mut asked = self.ask(user, op, Permit::Operation).await?;
        let entry = asked.entry(waited).await;
        if matches!(entry, Ok(_) | Err(GuestError::Refused(_))) {
            asked.done();
        }
        entry
    }

    async fn ask(
        &self,
        user: Option<String>,
        op: FileOp,
        permit: Permit,
    ) -> Result<Conversation<S>, GuestError> {
        Conversation::begin(&self.session, FileRequest { user, op }, permit).await
    }
}

/// Changes that come from the guest. Dropping it ends the watch.
pub struct FileWatch<S>(Conversation<S>);

impl<S: ByteStream> FileWatch<S> {
    async fn begin(mut conversation: Conversation<S>) -> Result<Self, GuestError> {
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
