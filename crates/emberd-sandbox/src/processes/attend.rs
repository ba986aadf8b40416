//! The task that attends one process: reads all its guest says, and says what is to be said.

use std::convert::Infallible;
use std::future;
use std::sync::Arc;
use std::time::Duration;

use emberd_proto::exec::EXIT_CODE_NONE;
use emberd_proto::process::SignalName;
use emberd_proto::{ExecExit, GuestMessage, Kind};
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::time::{sleep, timeout};

use super::ENDED_KEPT;
use super::log::Output;
use super::process::{Process, Word};
use crate::chain::chain;
use crate::operation::{Line, LineReader, LineWriter};
use crate::sandbox::Sandbox;

/// How long a killed process may take to be told as ended; then its connection is closed,
/// which ends it too.
const KILL_WAIT: Duration = Duration::from_secs(5);

/// Attends `process` until it has ended, and remembers it for a while.
pub(super) async fn attend(
    sandbox: Arc<Sandbox>,
    process: Process,
    mut reader: LineReader,
    mut writer: LineWriter,
    words: mpsc::Receiver<Word>,
    seat: OwnedSemaphorePermit,
) {
    let mut in_step = true;
    let end = tokio::select! {
        end = listen(&process, &mut reader) => end,
        never = speak(&mut writer, words, &mut in_step) => match never {},
        () = killed(&process) => {
            Err("it was killed, and its guest did not say how it ended".to_owned())
        }
    };
    if end.is_ok() && in_step {
        Line::join(reader, writer).done();
    } else {
        drop((reader, writer));
    }
    process.end(end.unwrap_or_else(|why| lost(&why)));
    drop(seat);
    sandbox.processes.trim();
    tokio::select! {
        () = sleep(ENDED_KEPT) => {}
        () = process.deleted() => {}
        () = sandbox.ending.cancelled() => {}
    }
    sandbox.processes.forget(&process);
}

/// Notes what the guest says, until that is the end; else why the end is not known.
async fn listen(process: &Process, reader: &mut LineReader) -> Result<ExecExit, String> {
    loop {
        let frame = reader.frame().await.map_err(|error| chain(&error))?;
        let rule = match frame.kind {
            Kind::Stdout if !frame.payload.is_empty() => {
                process.wrote(Output::Stdout, &frame.payload);
                continue;
            }
            Kind::Stderr if !frame.payload.is_empty() => {
                process.wrote(Output::Stderr, &frame.payload);
                continue;
            }
            Kind::Control => match frame.message() {
                Ok(GuestMessage::Exited(exit)) => return Ok(exit),
                Ok(GuestMessage::StdinTaken { bytes }) if process.took(bytes) => continue,
                Ok(GuestMessage::StdinTaken { .. }) => "it took more input than it was sent",
                _ => "it said something else than what its process does",
            },
            _ => "it sent a frame a process has no use for",
        };
        return Err(chain(&reader.broken(rule).await));
    }
}

/// Says what there is to be said. What the guest no longer hears is told by its silence.
///
/// `in_step` stays set while it does not matter whether the guest reads a word before or after
/// the process's end: then it ignores input, and would take a message for another operation. A
/// word that is half written when this is dropped is out of step, too.
async fn speak(
    writer: &mut LineWriter,
    mut words: mpsc::Receiver<Word>,
    in_step: &mut bool,
) -> Infallible {
    while let Some(word) = words.recv().await {
        let stays = *in_step && !matches!(word, Word::Message(_));
        *in_step = false;
        let said = match word {
            Word::Message(message) => writer.say(&message).await,
            Word::Stdin(bytes) => writer.send(Kind::Stdin, &bytes).await,
            Word::StdinEnd => writer.send(Kind::StdinEnd, &[]).await,
        };
        if said.is_err() {
            break;
        }
        *in_step = stays;
    }
    future::pending().await
}

/// Has the process killed once it is to be, and gives up waiting for its end after a while.
async fn killed(process: &Process) {
    process.deleted().await;
    // One that has ended meanwhile needs no signal, and a guest that is stuck takes none.
    drop(timeout(KILL_WAIT, process.signal(SignalName::SigKill)).await);
    sleep(KILL_WAIT).await;
}

/// The end of a process nobody knows the end of.
fn lost(why: &str) -> ExecExit {
    ExecExit { exit_code: EXIT_CODE_NONE, error: Some(why.to_owned()), ..ExecExit::default() }
}
