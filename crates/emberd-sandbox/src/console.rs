//! What a sandbox's guest prints to its console, and its VMM to its own: from the end of the
//! log on, and as it grows.

use std::time::Duration;

use emberd_vmm::{ConsoleReader, ExitWatch, MicroVm as _};
use tokio_util::sync::CancellationToken;

use crate::operation::OperationError;
use crate::{SandboxId, Sandboxes};

/// Pause between two looks at a log that is followed: nobody is woken when a file grows.
const LOOK_AGAIN: Duration = Duration::from_millis(200);

impl Sandboxes {
    /// The sandbox's console log from `lines_max` lines before its end on, or all that is held
    /// of it. With `follow` it goes on until the sandbox or the daemon ends.
    ///
    /// # Errors
    /// [`OperationError`].
    pub async fn console_log(
        &self,
        id: SandboxId,
        lines_max: Option<usize>,
        follow: bool,
    ) -> Result<ConsoleLog, OperationError> {
        let sandbox = self.0.table.find(id).ok_or(OperationError::Unknown(id))?;
        let ready = sandbox.ready.get().ok_or(OperationError::NotReady(id))?;
        let path = {
            let vm = sandbox.vm.read().await;
            let vm = vm.as_ref().ok_or(OperationError::Deleted(id))?;
            vm.console_log().to_owned()
        };
        let open = tokio::task::spawn_blocking(move || ConsoleReader::open(&path, lines_max));
        let reader =
            open.await.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()));
        let followed = follow.then(|| Followed {
            exit: ready.exit.clone(),
            ending: sandbox.ending.clone(),
            closing: self.0.closing.clone(),
        });
        Ok(ConsoleLog { reader: Some(reader), followed })
    }
}

/// A console log being read.
#[derive(Debug)]
pub struct ConsoleLog {
    /// None once all was read.
    reader: Option<ConsoleReader>,
    /// None once nothing more is waited for.
    followed: Option<Followed>,
}

/// What ends the following of a log.
#[derive(Debug)]
struct Followed {
    exit: ExitWatch,
    ending: CancellationToken,
    closing: CancellationToken,
}

impl ConsoleLog {
    /// The next lines, without control characters; `None` at the end. Waits for them if the log
    /// is followed. Not cancel safe.
    pub async fn next(&mut self) -> Option<String> {
        loop {
            let mut reader = self.reader.take()?;
            let read = tokio::task::spawn_blocking(move || (reader.lines(), reader));
            let (text, mut reader) =
                read.await.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()));
            if !text.is_empty() {
                self.reader = Some(reader);
                return Some(text);
            }
            let Some(followed) = &mut self.followed else {
                return Some(reader.rest()).filter(|rest| !rest.is_empty());
            };
            self.reader = Some(reader);
            if followed.pause().await {
                self.followed = None;
            }
        }
    }
}

impl Followed {
    /// Waits until it is time to look again; says whether that is for the last time.
    async fn pause(&mut self) -> bool {
        tokio::select! {
            () = self.ending.cancelled() => true,
            () = self.closing.cancelled() => true,
            // What the VMM printed last may still be on its way into the log.
            _ = self.exit.wait() => {
                tokio::time::sleep(LOOK_AGAIN).await;
                true
            }
            () = tokio::time::sleep(LOOK_AGAIN) => false,
        }
    }
}
