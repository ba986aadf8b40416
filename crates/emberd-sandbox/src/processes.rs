//! Processes of one sandbox: started, listened to, talked to, and remembered for a while.
//!
//! ```text
//! start ─▶ running ── exit, sandbox gone ─▶ ended ── time, number ─▶ forgotten
//!             └────────── delete: SIGKILL ──────────────────────────────▲
//! ```
//! A task for each reads all its guest says, whoever listens or does not: what is not kept any
//! more is told as a gap.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use emberd_proto::process::ProcessSpec;
use emberd_proto::{GuestMessage, HostMessage, SpecError};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use crate::SandboxId;
use crate::operation::{ANSWER_MAX, Line, OperationError};
use crate::sandbox::Sandbox;

mod attend;
mod log;
mod process;

pub use log::{EVENT_BYTES_MAX, EVENTS_MAX, ProcessEvent, ProcessEventKind};
pub use process::{Process, ProcessEvents, ProcessStdin, ProcessView};

/// Most processes one sandbox runs at once. Each holds a connection to the guest, and up to
/// [`EVENT_BYTES_MAX`] of the host's memory.
pub const PROCESSES_MAX: usize = 256;

/// Most ended processes one sandbox remembers; then the one that ended first is forgotten.
pub const ENDED_MAX: usize = 256;

/// Most bytes of output kept of all ended processes of one sandbox (32 MiB); likewise.
pub const ENDED_BYTES_MAX: usize = 32 << 20;

/// How long an ended process is remembered, for clients that come late.
pub const ENDED_KEPT: Duration = Duration::from_secs(600);

/// Why a process was not started, or not reached.
#[derive(Debug, thiserror::Error)]
pub enum ProcessError {
    /// The sandbox, or its guest, did not do it.
    #[error(transparent)]
    Operation(#[from] OperationError),
    /// The sandbox has no such process, or no longer remembers it.
    #[error("sandbox {id} has no process {pid}, or no longer remembers it")]
    Unknown {
        /// Which sandbox.
        id: SandboxId,
        /// The process id asked for.
        pid: u32,
    },
    /// As many run as may.
    #[error("{0} processes run in the sandbox, and no more are allowed")]
    TooMany(usize),
    /// The guest could not start the program.
    #[error("the program was not started: {0}")]
    NotStarted(String),
    /// It has ended.
    #[error("process {0} has ended")]
    Ended(u32),
    /// Its standard input was ended before.
    #[error("the standard input of process {0} was ended")]
    StdinEnded(u32),
    /// It has no terminal whose size could change.
    #[error("process {0} has no terminal")]
    NoTerminal(u32),
    /// A value breaks a limit.
    #[error(transparent)]
    Invalid(#[from] SpecError),
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Processes {
    /// One permit for each that may run.
    seats: Arc<Semaphore>,
    by_pid: Mutex<BTreeMap<u32, Process>>,
}

impl Processes {
    pub fn new() -> Self {
        Self { seats: Arc::new(Semaphore::new(PROCESSES_MAX)), by_pid: Mutex::default() }
    }

    /// Every process there is or was, by process id.
    pub fn all(&self) -> Vec<Process> {
        self.lock().values().cloned().collect()
    }

    pub fn find(&self, pid: u32) -> Option<Process> {
        self.lock().get(&pid).cloned()
    }

    /// Forgets it.
    pub fn remove(&self, pid: u32) -> Option<Process> {
        self.lock().remove(&pid)
    }

    fn seat(&self) -> Result<OwnedSemaphorePermit, ProcessError> {
        let seats = Arc::clone(&self.seats);
        seats.try_acquire_owned().map_err(|_| ProcessError::TooMany(PROCESSES_MAX))
    }

    /// Remembers `process`, in place of an ended one that had the same id.
    fn enter(&self, process: Process) {
        self.lock().insert(process.pid(), process);
    }

    /// Forgets those that ended first, if there are too many or they hold too much.
    fn trim(&self) {
        let mut by_pid = self.lock();
        let ended = by_pid.values().filter_map(|process| {
            let (at, bytes) = process.ended()?;
            Some((at, process.pid(), bytes))
        });
        let mut ended: Vec<_> = ended.collect();
        // The last that ended comes first.
        ended.sort_unstable_by(|one, other| other.cmp(one));
        let mut held_bytes = 0;
        for (count, (_, pid, bytes)) in ended.into_iter().enumerate() {
            held_bytes += bytes;
            if count >= ENDED_MAX || held_bytes > ENDED_BYTES_MAX {
                by_pid.remove(&pid);
            }
        }
    }

    /// Forgets `process`, unless its id is another's by now.
    fn forget(&self, process: &Process) {
        let mut by_pid = self.lock();
        if by_pid.get(&process.pid()).is_some_and(|other| other.is(process)) {
            by_pid.remove(&process.pid());
        }
    }

    /// No code that could panic runs under this lock.
    fn lock(&self) -> MutexGuard<'_, BTreeMap<u32, Process>> {
        self.by_pid.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Starts `spec` in `sandbox`. Dropping the future ends what was started.
pub(crate) async fn start(
    sandbox: &Arc<Sandbox>,
    spec: ProcessSpec,
) -> Result<Process, ProcessError> {
    spec.check()?;
    let seat = sandbox.processes.seat()?;
    let about = process::About::of(&spec);
    let line = Line::open(Arc::clone(sandbox)).await?;
    let (mut reader, mut writer) = line.split();
    let id = sandbox.id;
    let asked = async {
        writer.say(&HostMessage::Start(spec)).await?;
        reader.frame().await
    };
    let late = OperationError::Unresponsive { id, waited: ANSWER_MAX };
    let first = timeout(ANSWER_MAX, asked).await.map_err(|_| late)??;
    let pid = match first.message() {
        Ok(GuestMessage::Started { pid }) => pid,
        Ok(GuestMessage::Exited(exit)) => {
            let why = exit.error.unwrap_or_else(|| "the guest did not say why".to_owned());
            return Err(ProcessError::NotStarted(why));
        }
        Ok(GuestMessage::Refused(refusal)) => return Err(OperationError::Refused(refusal).into()),
        _ => return Err(reader.broken("it answered a start with something else").await.into()),
    };
    let (process, words) = Process::new(pid, about);
    sandbox.processes.enter(process.clone());
    let attended = process.clone();
    tokio::spawn(attend::attend(Arc::clone(sandbox), attended, reader, writer, words, seat));
    Ok(process)
}
