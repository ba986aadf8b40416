//! Processes of one guest: started, followed, written to, and kept for a while after their end.
//!
//! ```text
//! start ─▶ running ── exit, guest gone ─▶ ended ── time, number ─▶ forgotten
//!             └────────── delete: SIGKILL ────────────────────────────▲
//! ```
//! One task for each process reads everything its guest sends, with or without listeners. Events
//! that are no longer kept are reported as a gap.

use std::sync::Arc;

use emberd_proto::process::ProcessSpec;
use emberd_proto::{GuestMessage, HostMessage};

use crate::error::GuestError;
use crate::host::ByteStream;
use crate::line::Line;
use crate::session::{ANSWER_MAX, Session};

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
        let permit = self.registry.permit()?;
        let about = process::About::of(&spec);
        let line = Line::open(Arc::clone(&self.session)).await?;
        let (mut reader, mut writer) = line.split();
        let asked = async {
            writer.say(&HostMessage::Start(spec)).await?;
            reader.frame().await
        };
        let mark = self.session.host.mark();
        let first = self.session.in_time(ANSWER_MAX, asked).await??;
        let pid = match first.message() {
            Ok(GuestMessage::Started { pid }) => pid,
            Ok(GuestMessage::Exited(exit)) => {
                let why = exit.error.unwrap_or_else(|| "the guest gave no reason".to_owned());
                return Err(ProcessError::NotStarted(why));
            }
            Ok(GuestMessage::Refused(refusal)) => return Err(GuestError::Refused(refusal).into()),
            _ => {
                return Err(reader.broken("unexpected answer to a process start").await.into());
            }
        };
        let (process, outgoing) = Process::new(pid, about);
        self.registry.enter(process.clone());
        let attended = attend::Attended {
            session: Arc::clone(&self.session),
            registry: Arc::clone(&self.registry),
            process: process.clone(),
            mark,
        };
        tokio::spawn(attend::attend(attended, reader, writer, outgoing, permit));
        Ok(process)
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

    /// Kills a process with all its descendants, and removes its record.
    ///
    /// # Errors
    /// [`ProcessError::Unknown`].
    pub fn delete(&self, pid: u32) -> Result<(), ProcessError> {
        self.registry.remove(pid).ok_or_else(|| self.unknown(pid))?.delete();
        Ok(())
    }

    fn unknown(&self, pid: u32) -> ProcessError {
        ProcessError::Unknown { sandbox: self.session.name.clone(), pid }
    }
}
