//! Operations on the files of a sandbox.
//!
//! Content and listings are streams: the host never holds more of them than a frame, and a
//! guest that goes on for longer than it may is cut off.

use std::time::Duration;

use emberd_proto::{FileEntry, FileOp, FileRequest, GuestMessage, GuestPath};

use crate::SandboxId;
use crate::operation::{ANSWER_MAX, OperationError};
use crate::sandboxes::Sandboxes;

mod content;
mod conversation;
mod listing;
mod upload;
mod watch;

pub use content::FileContent;
use conversation::{Conversation, Turn};
pub use listing::FileListing;
pub use upload::{ArchiveUpload, FileUpload};
pub use watch::FileWatch;

/// Most bytes of one file, or of one archive, that cross either way (16 GiB).
pub const STREAM_BYTES_MAX: u64 = 16 << 30;

/// How long a guest may take to move or remove a tree of files.
const TREE_MAX: Duration = Duration::from_secs(600);

impl Sandboxes {
    /// What a path leads to. A relative one begins at the home of `user`, or of root.
    ///
    /// # Errors
    /// [`OperationError`], as all operations on files.
    pub async fn file_stat(
        &self,
        id: SandboxId,
        user: Option<String>,
        path: GuestPath,
    ) -> Result<FileEntry, OperationError> {
        self.entry_of(id, user, FileOp::Stat { path }, ANSWER_MAX).await
    }

    /// Lists what a directory holds, `depth` levels deep.
    ///
    /// # Errors
    /// [`OperationError`].
    pub async fn file_list(
        &self,
        id: SandboxId,
        user: Option<String>,
        path: GuestPath,
        depth: u32,
    ) -> Result<FileListing, OperationError> {
        FileListing::begin(self.ask(id, user, FileOp::List { path, depth }, Turn::File).await?)
            .await
    }

    /// Makes a directory and its parents; they belong to `user`, or to root.
    ///
    /// # Errors
    /// [`OperationError`]; it is refused where something is there already.
    pub async fn file_make_dir(
        &self,
        id: SandboxId,
        user: Option<String>,
        path: GuestPath,
        mode: Option<u32>,
    ) -> Result<FileEntry, OperationError> {
        self.entry_of(id, user, FileOp::MakeDir { path, mode }, ANSWER_MAX).await
    }

    /// Renames, replacing a file that is there; makes parents.
    ///
    /// # Errors
    /// [`OperationError`].
    pub async fn file_move(
        &self,
        id: SandboxId,
        user: Option<String>,
        from: GuestPath,
        to: GuestPath,
    ) -> Result<FileEntry, OperationError> {
        self.entry_of(id, user, FileOp::Move { from, to }, TREE_MAX).await
    }

    /// Removes a file, or a directory with all that is in it. No error where nothing is.
    ///
    /// # Errors
    /// [`OperationError`].
    pub async fn file_remove(
        &self,
        id: SandboxId,
        user: Option<String>,
        path: GuestPath,
    ) -> Result<(), OperationError> {
        let mut asked = self.ask(id, user, FileOp::Remove { path }, Turn::File).await?;
        match asked.answer(TREE_MAX).await? {
            GuestMessage::Done => {
                asked.done();
                Ok(())
            }
            _ => Err(asked.broken("it answered a removal with something else").await),
        }
    }

    /// Reads at most `length` bytes of a file from `offset` on; all of it when absent.
    ///
    /// # Errors
    /// [`OperationError`].
    pub async fn file_read(
        &self,
        id: SandboxId,
        user: Option<String>,
        path: GuestPath,
        offset: u64,
        length: Option<u64>,
    ) -> Result<FileContent, OperationError> {
        let op = FileOp::Read { path, offset, length };
        FileContent::of_file(self.ask(id, user, op, Turn::File).await?, offset, length).await
    }

    /// Makes or replaces a file, whole or not at all; makes parents. Dropping the upload before
    /// its end leaves what was there.
    ///
    /// # Errors
    /// [`OperationError`].
    pub async fn file_write(
        &self,
        id: SandboxId,
        user: Option<String>,
        path: GuestPath,
        mode: Option<u32>,
    ) -> Result<FileUpload, OperationError> {
        let asked = self.ask(id, user, FileOp::Write { path, mode }, Turn::File).await?;
        Ok(FileUpload::new(asked))
    }

    /// A directory's content, or one file, as a tar stream.
    ///
    /// # Errors
    /// [`OperationError`].
    pub async fn file_pack(
        &self,
        id: SandboxId,
        user: Option<String>,
        path: GuestPath,
    ) -> Result<FileContent, OperationError> {
        FileContent::of_archive(self.ask(id, user, FileOp::Pack { path }, Turn::File).await?).await
    }

    /// Unpacks a tar stream into a directory, which is made. What it has unpacked stays when the
    /// upload is dropped before its end.
    ///
    /// # Errors
    /// [`OperationError`].
    pub async fn file_unpack(
        &self,
        id: SandboxId,
        user: Option<String>,
        path: GuestPath,
    ) -> Result<ArchiveUpload, OperationError> {
        let asked = self.ask(id, user, FileOp::Unpack { path }, Turn::File).await?;
        Ok(ArchiveUpload::new(asked))
    }

    /// Watches a file, or what a directory holds, and with `recursive` all below it. Changes from
    /// when this returns on are told.
    ///
    /// # Errors
    /// [`OperationError`].
    pub async fn file_watch(
        &self,
        id: SandboxId,
        user: Option<String>,
        path: GuestPath,
        recursive: bool,
    ) -> Result<FileWatch, OperationError> {
        let op = FileOp::Watch { path, recursive };
        FileWatch::begin(self.ask(id, user, op, Turn::Watch).await?).await
    }

    async fn entry_of(
        &self,
        id: SandboxId,
        user: Option<String>,
        op: FileOp,
        patience: Duration,
    ) -> Result<FileEntry, OperationError> {
        let mut asked = self.ask(id, user, op, Turn::File).await?;
        let entry = asked.entry(patience).await;
        if matches!(entry, Ok(_) | Err(OperationError::Refused(_))) {
            asked.done();
        }
        entry
    }

    async fn ask(
        &self,
        id: SandboxId,
        user: Option<String>,
        op: FileOp,
        turn: Turn,
    ) -> Result<Conversation, OperationError> {
        Conversation::begin(&self.0, id, FileRequest { user, op }, turn).await
    }
}
