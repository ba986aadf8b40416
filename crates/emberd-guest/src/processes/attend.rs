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

use super::log::Output;
use super::process::{Outgoing, Process};
use super::registry::{ENDED_KEPT, Registry};
use crate::chain::chain;
use crate::host::ByteStream;
use crate::line::{Line, LineReader, LineWriter};
use crate::session::Session;

/// How long a killed process may take to be told as ended; then its connection is closed,
/// which ends it too.
const KILL_WAIT: Duration = Duration::from_secs(5);

/// A process, and where it is known.
pub(super) struct Attended<S> {
    pub session: Arc<Session<S>>,
    pub registry: Arc<Registry>,
    pub process: Process,
}

/// Attends a process until it has ended, and remembers it for a while.
pub(super) async fn attend<S: ByteStream>(
    attended: Attended<S>,
    mut reader: LineReader<S>,
    mut writer: LineWriter<S>,
    outgoing: mpsc::Receiver<Outgoing>,
    permit: OwnedSemaphorePermit,
) {
    let Attended { session, registry, process } = attended;
    let mut in_step = true;
    let end = tokio::select! {
        end = listen(&process, &mut reader) => end,
        never = speak(&mut writer, outgoing, &mut in_step) => match never {},
        () = killed(&process) => {
            Err("it was killed, and the guest did not report its end".to_owned())
        }
    };
    if end.is_ok() && in_step {
        Line::join(reader, writer).done();
    } else {
        drop((reader, writer));
    }
    process.end(end.unwrap_or_else(|why| lost(&why)));
    drop(permit);
    registry.trim();
    tokio::select! {
        () = sleep(ENDED_KEPT) => {}
        () = process.deleted() => {}
        () = session.host.deleted() => {}
    }
    registry.forget(&process);
}

/// Notes what the guest says, until that is the end; else why the end is not known.
async fn listen<S: ByteStream>(
    process: &Process,
    reader: &mut LineReader<S>,
) -> Result<ExecExit, String> {
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
                _ => "unexpected frame about a process",
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
async fn speak<S: ByteStream>(
    writer: &mut LineWriter<S>,
    mut outgoing: mpsc::Receiver<Outgoing>,
    in_step: &mut bool,
) -> Infallible {
    while let Some(next) = outgoing.recv().await {
        let stays = *in_step && !matches!(next, Outgoing::Message(_));
        *in_step = false;
        let said = match next {
            Outgoing::Message(message) => writer.say(&message).await,
            Outgoing::Stdin(bytes) => writer.send(Kind::Stdin, &bytes).await,
            Outgoing::StdinEnd => writer.send(Kind::StdinEnd, &[]).await,
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
