//! Console output of a sandbox's guest and its VMM: the end of the log, and its growth.

use std::time::Duration;

use emberd_vmm::{ConsoleReader, ExitWatch};
use tokio_util::sync::CancellationToken;

use super::machine::Machine;

/// Interval between two reads of a followed log: a growing file causes no notification.
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
    /// None once no more lines are expected.
    followed: Option<Followed>,
}

/// The events that end the following of a log.
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
    /// Waits until the next read; returns whether it is the last one.
    async fn pause(&mut self) -> bool {
        tokio::select! {
            () = self.ending.cancelled() => true,
            () = self.closing.cancelled() => true,
            // The last output of the VMM may not be in the log yet.
            _ = self.exit.wait() => {
                tokio::time::sleep(LOOK_AGAIN).await;
                true
            }
            () = tokio::time::sleep(LOOK_AGAIN) => false,
        }
    }
}
