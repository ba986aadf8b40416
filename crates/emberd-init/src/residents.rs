//! Processes and contexts. They belong to the agent, and connections are attached to them.
//!
//! ```text
//! Start, Context ─▶ task of the program ─▶ ring ─▶ attached connection ─▶ idle after the end
//!                          ▲                              │ host leaves
//!                          └─────── goes on, detached ◀───┘ ── Attach ─▶ another connection
//! ```

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use emberd_proto::frame::BULK_BYTES_MAX;
use emberd_proto::{ContextSpec, GuestMessage, ProcessSpec, RefusalCode};
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::agent::Agent;
use crate::connection::{Connection, ConnectionError};
use crate::context;
use crate::exec::{self, Mode};

mod resident;

pub use resident::Resident;
use resident::{Detached, Line};

/// Maximum total size of the events kept, in bytes (16 MiB).
pub const EVENTS_BYTES_MAX: usize = 16 << 20;

/// Minimum size of the events kept of one program, in bytes (64 KiB).
const EVENTS_BYTES_MIN: usize = 64 << 10;

/// Maximum number of programs that are kept after their end; then the oldest is forgotten.
const ENDED_MAX: usize = 64;

/// All programs that belong to the agent, oldest first.
#[derive(Debug)]
pub struct Residents {
    programs: Mutex<Vec<Arc<Resident>>>,
    /// Maximum total size of the events kept.
    pub bytes_max: usize,
}

impl Default for Residents {
    fn default() -> Self {
        Self { programs: Mutex::default(), bytes_max: EVENTS_BYTES_MAX }
    }
}

impl Residents {
    fn all(&self) -> Vec<Arc<Resident>> {
        self.programs.lock().clone()
    }

    fn find(&self, id: u64) -> Option<Arc<Resident>> {
        self.all().into_iter().find(|resident| resident.id == id)
    }

    fn add(&self, resident: Arc<Resident>) {
        let mut programs = self.programs.lock();
        let ended = programs.iter().filter(|resident| resident.has_ended()).count();
        if ended > ENDED_MAX
            && let Some(oldest) = programs.iter().position(|resident| resident.has_ended())
        {
            programs.remove(oldest);
        }
        programs.push(resident);
        let share = (self.bytes_max / programs.len()).max(EVENTS_BYTES_MIN);
        programs.iter().for_each(|resident| resident.limit(share));
    }

    /// Kills and forgets a program, if there is one.
    pub fn delete(&self, id: u64) {
        if let Some(resident) = self.find(id) {
            resident.kill();
            self.forget(id);
        }
    }

    fn forget(&self, id: u64) {
        self.programs.lock().retain(|other| other.id != id);
    }
}

/// Which daemon the agent answers to.
#[derive(Debug, Default)]
pub struct Adoption {
    epoch: AtomicU64,
    /// Number of the connection of the last adoption.
    adopter: AtomicU64,
    changed: Notify,
}

impl Adoption {
    /// Closes all connections but `connection`, unless the guest was last adopted in `epoch`.
    pub fn adopt(&self, epoch: u64, connection: u64) {
        if self.epoch.swap(epoch, Ordering::Relaxed) != epoch {
            self.adopter.store(connection, Ordering::Relaxed);
            self.changed.notify_waiters();
        }
    }

    /// Waits until `connection` must be closed.
    pub async fn closes(&self, connection: u64) {
        loop {
            self.changed.notified().await;
            if self.adopter.load(Ordering::Relaxed) != connection {
                return;
            }
        }
    }
}

impl From<Detached> for ConnectionError {
    fn from(detached: Detached) -> Self {
        match detached {
            Detached::Left => Self::HostLeft,
            Detached::TooMuchData => Self::TooMuchData,
            Detached::Frame(error) => Self::Frame(error),
        }
    }
}

/// A program to start.
pub enum Work {
    /// A process, whose spec has been checked.
    Process(ProcessSpec),
    /// A context.
    Context(ContextSpec),
}

/// Starts a program and attaches `connection` to it.
///
/// # Errors
/// If the host closes the connection or breaks the protocol.
pub async fn start(
    agent: &Arc<Agent>,
    connection: &mut Connection,
    work: Work,
) -> Result<(), ConnectionError> {
    let resident = Arc::new(Resident::new(agent.next_number()));
    agent.residents.add(Arc::clone(&resident));
    let (owner, own) = (Arc::clone(agent), Arc::clone(&resident));
    let task = tokio::spawn(async move {
        let mut line = Connection::new(Box::new(Line(Arc::clone(&own))), own.id);
        line.program = Some(Arc::clone(&own));
        let ran = match &work {
            Work::Process(spec) => exec::run(&owner, &mut line, spec, Mode::Process).await,
            Work::Context(spec) => context::run(&owner, &mut line, spec).await,
        };
        if ran.is_err() {
            owner.residents.delete(own.id);
        } else if !own.was_started() {
            owner.residents.forget(own.id);
        }
    });
    resident.runs_in(task.abort_handle());
    attach(&resident, connection, 0).await
}

/// Attaches `connection` to the program `id`, from event number `seq` on.
///
/// # Errors
/// If the host closes the connection or breaks the protocol.
pub async fn resume(
    agent: &Agent,
    connection: &mut Connection,
    id: u64,
    seq: u64,
) -> Result<(), ConnectionError> {
    if let Some(resident) = agent.residents.find(id) {
        return attach(&resident, connection, seq).await;
    }
    let message = "no such process or context".to_owned();
    connection.outgoing.refuse(RefusalCode::NotFound, message).await
}

/// Answers with all programs.
///
/// # Errors
/// If the host closes the connection.
pub async fn list(agent: &Agent, connection: &mut Connection) -> Result<(), ConnectionError> {
    for resident in agent.residents.all() {
        connection.outgoing.send(&GuestMessage::Program(resident.about())).await?;
    }
    connection.outgoing.send(&GuestMessage::Done).await
}

/// Moves frames between the host and the program until the program has ended.
async fn attach(
    resident: &Resident,
    connection: &mut Connection,
    seq: u64,
) -> Result<(), ConnectionError> {
    let Connection { incoming, outgoing, .. } = connection;
    let (attachment, answer) = resident.attach(seq);
    outgoing.push(&answer);
    let mut ended = false;
    while !ended || !outgoing.buffer.is_empty() {
        let has_room = outgoing.buffer.len() < BULK_BYTES_MAX;
        tokio::select! {
            biased;
            frame = incoming.frame() => attachment.hear(frame?)?,
            written = outgoing.write_some(), if !outgoing.buffer.is_empty() => written?,
            () = attachment.ready(), if has_room && !ended => {
                ended = attachment.tell(&mut outgoing.buffer)?;
            }
        }
    }
    Ok(())
}
