//! Processes of one guest: started, followed, written to, and kept for a while after their end.
//!
//! ```text
//! start ─▶ running ── exit, guest gone ─▶ ended ── time, number ─▶ forgotten
//!             └────────── delete: SIGKILL ────────────────────────────▲
//! ```
//! One task for each process reads everything its guest sends, with or without listeners. Events
//! that are no longer kept are reported as a gap.

use std::sync::Arc;

use emberd_proto::Program;
use emberd_proto::process::{ProcessSpec, STDIN_WINDOW_BYTES};

use crate::error::GuestError;
use crate::host::ByteStream;
use crate::note::ProcessNote;
use crate::session::Session;
use crate::tether::{Tether, forget_program};

mod attend;
mod error;
mod log;
mod process;
mod registry;

pub use error::ProcessError;
pub use log::{EVENT_BYTES_MAX, EVENTS_MAX, ProcessEvent, ProcessEventKind};
pub use process::{Process, ProcessEvents, ProcessStdin, ProcessView};
pub(crate) use registry::Registry;
pub use registry::{ENDED_BYTES_MAX, ENDED_KEPT, ENDED_MAX, PROCESSES_MAX};

/// The processes of one guest.
pub struct Processes<S> {
    session: Arc<Session<S>>,
    registry: Arc<Registry>,
}

impl<S: ByteStream> Processes<S> {
    pub(crate) fn new(session: Arc<Session<S>>, registry: Arc<Registry>) -> Self {
        Self { session, registry }
    }

    /// Starts a process. Dropping the future ends the process. Once started, it runs until it
    /// ends, is deleted, or its sandbox is deleted.
    ///
    /// # Errors
    /// [`ProcessError`].
    pub async fn start(&self, mut spec: ProcessSpec) -> Result<Process, ProcessError> {
        self.session.host.stir();
        self.session.add_env(&mut spec.env);
        spec.check()?;
        let attended =
            attend::begin(Arc::clone(&self.session), Arc::clone(&self.registry), spec).await?;
        let process = attended.process.clone();
        self.registry.enter(process.clone());
        tokio::spawn(attend::attend(attended));
        Ok(process)
    }

    /// Goes on with a process that was started before; returns none if there are too many.
    pub(crate) async fn recover(
        &self,
        program: &Program,
        note: ProcessNote,
    ) -> Result<Option<Process>, GuestError> {
        if let Some(process) = self.registry.find(program.pid).filter(Process::runs) {
            return Ok(Some(process));
        }
        let permit = if program.ended { None } else { self.registry.permit().ok() };
        if permit.is_none() && !program.ended {
            return Ok(None);
        }
        let mark = self.session.host.mark();
        let (mut tether, attached) =
            Tether::attach(Arc::clone(&self.session), program.id, 0).await?;
        let window = attached
            .input
            .checked_sub(attached.taken)
            .and_then(|waiting| STDIN_WINDOW_BYTES.checked_sub(usize::try_from(waiting).ok()?));
        let Some(window) = window else {
            return Err(tether.broken("more input waits than it was ever sent").await);
        };
        let id = Some(program.id);
        let stdin_ended = note.stdin_end.is_some_and(|frame| attached.received > frame);
        let (process, outgoing) = Process::new(program.pid, id, note, window, stdin_ended);
        let registry = Arc::clone(&self.registry);
        registry.enter(process.clone());
        let process_of_task = process.clone();
        tokio::spawn(attend::attend(attend::Attended {
            registry,
            process: process_of_task,
            tether,
            outgoing,
            permit,
            mark,
        }));
        Ok(Some(process))
    }

    /// Returns every process, including those kept after their end, by process id.
    pub fn list(&self) -> Vec<Process> {
        self.registry.all()
    }

    /// Returns one process.
    ///
    /// # Errors
    /// [`ProcessError::Unknown`].
    pub fn get(&self, pid: u32) -> Result<Process, ProcessError> {
        self.registry.find(pid).ok_or_else(|| self.unknown(pid))
    }

    /// Kills a process with all its descendants, and removes its record, here and in the guest.
    /// Dropping the future changes nothing about that.
    ///
    /// # Errors
    /// [`ProcessError::Unknown`], [`ProcessError::Guest`].
    pub async fn delete(&self, pid: u32) -> Result<(), ProcessError> {
        let process = self.registry.remove(pid).ok_or_else(|| self.unknown(pid))?;
        process.delete();
        // Followers are told how it ended.
        process.wait().await;
        if let Some(id) = process.id() {
            forget_program(&self.session, id).await?;
        }
        Ok(())
    }

    fn unknown(&self, pid: u32) -> ProcessError {
        ProcessError::Unknown { sandbox: self.session.name.clone(), pid }
    }
}
