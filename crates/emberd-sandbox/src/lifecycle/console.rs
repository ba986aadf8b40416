//! What a sandbox's guest prints to its console, and its VMM to its own: from the end of the
//! log on, and as it grows.

use std::time::Duration;

use emberd_vmm::{ConsoleReader, ExitWatch};
use tokio_util::sync::CancellationToken;

use super::machine::Machine;

/// Pause between two looks at a log that is followed: nobody is woken when a file grows.
const LOOK_AGAIN: Duration = Duration::from_millis(200);

/// Opens the console log of `machine`; followed until `closing`, where that is given.
pub(crate) async fn open(
    machine: &Machine,
    lines_max: Option<usize>,
    closing: Option<CancellationToken>,
) -> ConsoleLog {
    let path = machine.console_log().to_owned();
    let open = tokio::task::spawn_blocking(move || ConsoleReader::open(&path, lines_max));
    let reader = open.await.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()));
    let followed = closing.map(|closing| Followed {
        exit: machine.exit().clone(),
        ending: machine.ending().clone(),
        closing,
    });
    ConsoleLog { reader: Some(reader), followed }
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
