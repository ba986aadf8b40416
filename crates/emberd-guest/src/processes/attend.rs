//! The task of one process: reads all frames of its guest and sends messages to it.

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

/// Time that the guest may take to report the end of a killed process; then its connection is
/// closed, which ends the process too.
const KILL_WAIT: Duration = Duration::from_secs(5);

/// A process, with its registry.
pub(super) struct Attended<S> {
    pub session: Arc<Session<S>>,
    pub registry: Arc<Registry>,
    pub process: Process,
    /// When the process was asked for.
    pub mark: u64,
}

/// Attends a process until it has ended, and keeps its record for a while.
pub(super) async fn attend<S: ByteStream>(
    attended: Attended<S>,
    mut reader: LineReader<S>,
    mut writer: LineWriter<S>,
    outgoing: mpsc::Receiver<Outgoing>,
    permit: OwnedSemaphorePermit,
) {
    let Attended { session, registry, process, mark } = attended;
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
    let exit = end.unwrap_or_else(|why| lost(&why));
    process.end(ExecExit { egress: session.host.denied_since(mark), ..exit });
    drop(permit);
    registry.trim();
    tokio::select! {
        () = sleep(ENDED_KEPT) => {}
        () = process.deleted() => {}
        () = session.host.deleted() => {}
    }
    registry.forget(&process);
}

/// Records what the guest sends until the end of the process; else returns why the end is
/// unknown.
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

/// Sends the messages to the guest. A failed write is not an error here: the reader detects a
/// guest that is gone.
///
/// `in_step` stays set while the guest may read every message sent both before and after the
/// process's end. After that end the guest ignores input, but would take any other message for
/// a new operation. A message that is half written when this future is dropped is out of step
/// too.
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

/// Kills the process once it is deleted; stops waiting for its end after [`KILL_WAIT`].
async fn killed(process: &Process) {
    process.deleted().await;
    // A process that has ended needs no signal, and a stuck guest takes none.
    drop(timeout(KILL_WAIT, process.signal(SignalName::SigKill)).await);
    sleep(KILL_WAIT).await;
}

/// The exit of a process whose end is unknown.
fn lost(why: &str) -> ExecExit {
    ExecExit { exit_code: EXIT_CODE_NONE, error: Some(why.to_owned()), ..ExecExit::default() }
}
