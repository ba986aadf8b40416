//! Goes on with what runs in a guest: its processes and contexts, which a daemon before started.

use std::sync::Arc;
use std::time::Duration;

use emberd_proto::message::{NOTES_BYTES_MAX, PROGRAMS_MAX};
use emberd_proto::{GuestMessage, HostMessage, Program};
use tokio::time::timeout;

use crate::contexts::{ContextError, Contexts};
use crate::error::GuestError;
use crate::host::ByteStream;
use crate::line::Line;
use crate::note::Note;
use crate::processes::Processes;
use crate::session::Session;
use crate::tether::delete_program;

/// Time for the events that the guest has kept. Later ones follow while requests are served.
const EVENTS_WAIT: Duration = Duration::from_secs(5);

/// Programs that were found in a guest.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Recovered {
    /// Processes, including those that have ended.
    pub processes: usize,
    /// Contexts, including those whose interpreter has ended.
    pub contexts: usize,
    /// Programs that no caller knows, or that are beyond a limit: they were ended.
    pub ended: usize,
}

/// Ends what belonged to requests of a daemon before, and goes on with all processes and contexts.
/// A guest that does not keep programs has none.
pub(crate) async fn recover<S: ByteStream>(
    session: &Arc<Session<S>>,
    processes: &Processes<S>,
    contexts: &Contexts<S>,
) -> Result<Recovered, GuestError> {
    let mut recovered = Recovered::default();
    let mut line = Line::open(Arc::clone(session)).await?;
    if !line.keeps_programs() {
        line.done();
        return Ok(recovered);
    }
    let GuestMessage::Done = line.ask(&HostMessage::Adopt { epoch: session.epoch }).await? else {
        return Err(line.broken("unexpected answer to an adoption").await);
    };
    let programs = list(&mut line).await?;
    line.done();
    let mut begun = Vec::new();
    for program in programs {
        let is_known = match Note::read(&program.note) {
            Some(Note::Process(note)) if program.pid > 0 => {
                let process = match processes.recover(&program, note).await {
                    // Forgotten since it was listed.
                    Err(GuestError::Refused(_)) => None,
                    process => process?,
                };
                let is_known = process.is_some();
                recovered.processes += usize::from(is_known);
                begun.extend(process.map(|process| (process, program.next)));
                is_known
            }
            Some(Note::Context(note)) => {
                let is_known = match contexts.recover(&program, note).await {
                    Err(ContextError::Guest(GuestError::Refused(_))) => false,
                    Err(ContextError::Guest(error)) => return Err(error),
                    recovered => recovered.unwrap_or_default(),
                };
                recovered.contexts += usize::from(is_known);
                is_known
            }
            _ => false,
        };
        if !is_known {
            recovered.ended += 1;
            delete_program(session, program.id);
        }
    }
    let all = async {
        for (process, next) in &begun {
            process.knows(next.saturating_sub(1)).await;
        }
    };
    // A guest may say any number, so nothing is an error here.
    drop(timeout(EVENTS_WAIT, all).await);
    Ok(recovered)
}

/// Asks for all programs.
async fn list<S: ByteStream>(line: &mut Line<S>) -> Result<Vec<Program>, GuestError> {
    let (mut programs, mut notes_bytes): (Vec<Program>, _) = (Vec::new(), 0);
    let mut answer = line.ask(&HostMessage::List).await?;
    loop {
        match answer {
            GuestMessage::Program(program) => {
                notes_bytes += program.note.len();
                let is_twice = programs.iter().any(|other| other.id == program.id);
                if programs.len() == PROGRAMS_MAX || notes_bytes > NOTES_BYTES_MAX || is_twice {
                    return Err(line.broken("a list of programs over its limits").await);
                }
                programs.push(program);
            }
            GuestMessage::Done => return Ok(programs),
            _ => return Err(line.broken("unexpected answer to a list").await),
        }
        answer = line.answer().await?;
    }
}
