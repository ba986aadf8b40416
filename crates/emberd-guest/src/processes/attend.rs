//! The task of one process: records all events of its guest and sends messages to it.

use std::sync::Arc;
use std::time::Duration;

use emberd_proto::exec::EXIT_CODE_NONE;
use emberd_proto::process::{ProcessSpec, SignalName};
use emberd_proto::{ExecExit, Frame, GuestMessage, HostMessage, Kind, chain};
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::time::{sleep, timeout};

use super::error::ProcessError;
use super::log::ProcessEventKind;
use super::process::{Outgoing, Process};
use super::registry::{ENDED_KEPT, Registry};
use crate::error::GuestError;
use crate::host::ByteStream;
use crate::note::{Note, ProcessNote};
use crate::session::{ANSWER_MAX, Session};
use crate::tether::{Tether, Told, delete_program};
use emberd_proto::process::STDIN_WINDOW_BYTES;

/// Time that the guest may take to report the end of a killed process; then it is told to forget
/// the process, which ends it too.
const KILL_WAIT: Duration = Duration::from_secs(5);

/// A process, with its registry.
pub(super) struct Attended<S: ByteStream> {
    pub registry: Arc<Registry>,
    pub process: Process,
    pub tether: Tether<S>,
    pub outgoing: mpsc::Receiver<Outgoing>,
    pub permit: Option<OwnedSemaphorePermit>,
    /// When the process was asked for.
    pub mark: u64,
}

/// Starts the process of `spec`.
pub(super) async fn begin<S: ByteStream>(
    session: Arc<Session<S>>,
    registry: Arc<Registry>,
    spec: ProcessSpec,
) -> Result<Attended<S>, ProcessError> {
    let permit = Some(registry.permit()?);
    let about = ProcessNote::of(&spec);
    let note = Note::Process(about.clone()).text();
    let mark = session.host.mark();
    let start = HostMessage::Start(spec);
    let mut tether = Tether::start(Arc::clone(&session), start, note).await?;
    let first = session.in_time(ANSWER_MAX, tether.next()).await??;
    let pid = match first {
        Told::Event { frame, .. } => match frame.message() {
            Ok(GuestMessage::Started { pid }) => pid,
            Ok(GuestMessage::Exited(exit)) => {
                tether.finish(true);
                let why = exit.error.unwrap_or_else(|| "the guest gave no reason".to_owned());
                return Err(ProcessError::NotStarted(why));
            }
            Ok(GuestMessage::Refused(refusal)) => {
                tether.finish(true);
                return Err(GuestError::Refused(refusal).into());
            }
            _ => return Err(tether.broken("unexpected answer to a process start").await.into()),
        },
        Told::Taken(_) => {
            return Err(tether.broken("unexpected answer to a process start").await.into());
        }
    };
    let (process, outgoing) = Process::new(pid, tether.id(), about, STDIN_WINDOW_BYTES, false);
    process.happened(0, ProcessEventKind::Started);
    Ok(Attended { registry, process, tether, outgoing, permit, mark })
}

/// Attends a process until it has ended, and keeps its record for a while.
pub(super) async fn attend<S: ByteStream>(attended: Attended<S>) {
    let Attended { registry, process, mut tether, mut outgoing, permit, mark } = attended;
    let session = Arc::clone(tether.session());
    let id = tether.id();
    let mut in_step = true;
    let end = tokio::select! {
        end = converse(&process, &mut tether, &mut outgoing, &mut in_step) => end,
        () = killed(&process) => {
            Err("it was killed, and the guest did not report its end".to_owned())
        }
    };
    let (seq, exit) = match end {
        Ok((seq, exit)) => {
            tether.finish(in_step);
            (Some(seq), exit)
        }
        Err(why) => {
            drop(tether);
            (None, lost(why))
        }
    };
    process.end(seq, ExecExit { egress: session.host.denied_since(mark), ..exit });
    drop(permit);
    registry.trim();
    tokio::select! {
        () = sleep(ENDED_KEPT) => {}
        () = process.deleted() => {}
        () = session.host.deleted() => {}
    }
    registry.forget(&process);
    if let Some(id) = id {
        delete_program(&session, id);
    }
}

/// Records what the guest tells and sends it what it is told, until the end of the process; else
/// returns why the end is unknown.
///
/// `in_step` stays set while the guest may read every message sent both before and after the
/// process's end. After that end the guest ignores input, but would take any other message for
/// a new operation.
async fn converse<S: ByteStream>(
    process: &Process,
    tether: &mut Tether<S>,
    outgoing: &mut mpsc::Receiver<Outgoing>,
    in_step: &mut bool,
) -> Result<(u64, ExecExit), String> {
    loop {
        let sent = tokio::select! {
            told = tether.next() => {
                let rule = match told.map_err(|error| chain(&error))? {
                    Told::Event { seq, frame } => match record(process, seq, &frame) {
                        Ok(None) => continue,
                        Ok(Some(exit)) => return Ok((seq, exit)),
                        Err(rule) => rule,
                    },
                    Told::Taken(bytes) if process.took(bytes) => continue,
                    Told::Taken(_) => "it took more input than it was sent",
                };
                return Err(chain(&tether.broken(rule).await));
            }
            Some(next) = outgoing.recv() => match next {
                Outgoing::Message(message) => {
                    *in_step = false;
                    tether.say(&message).await
                }
                Outgoing::Stdin(bytes) => tether.send(Kind::Stdin, bytes).await,
                Outgoing::StdinEnd => {
                    let note = process.note_of_end(tether.sent());
                    tether.note(Note::Process(note).text());
                    tether.send(Kind::StdinEnd, bytes::Bytes::new()).await
                }
            },
        };
        // The guest's last words may still be to come.
        drop(sent);
    }
}

/// Records an event; returns the end of the process, or the rule that the guest broke.
fn record(process: &Process, seq: u64, frame: &Frame) -> Result<Option<ExecExit>, &'static str> {
    // A copy of its own, so that no event keeps more memory than its bytes.
    let bytes = || bytes::Bytes::copy_from_slice(&frame.payload);
    let event = match frame.kind {
        Kind::Stdout if !frame.payload.is_empty() => ProcessEventKind::Stdout(bytes()),
        Kind::Stderr if !frame.payload.is_empty() => ProcessEventKind::Stderr(bytes()),
        Kind::Control => match frame.message() {
            Ok(GuestMessage::Exited(exit)) => return Ok(Some(exit)),
            Ok(GuestMessage::Started { pid }) if seq == 0 && pid == process.pid() => {
                ProcessEventKind::Started
            }
            _ => return Err("unexpected frame about a process"),
        },
        _ => return Err("it sent a frame a process has no use for"),
    };
    process.happened(seq, event);
    Ok(None)
}

/// Kills the process once it is deleted; stops waiting for its end after [`KILL_WAIT`].
async fn killed(process: &Process) {
    process.deleted().await;
    // A process that has ended needs no signal, and a stuck guest takes none.
    drop(timeout(KILL_WAIT, process.signal(SignalName::SigKill)).await);
    sleep(KILL_WAIT).await;
}

/// The exit of a process whose end is unknown.
fn lost(why: String) -> ExecExit {
    ExecExit { exit_code: EXIT_CODE_NONE, error: Some(why), ..ExecExit::default() }
}
