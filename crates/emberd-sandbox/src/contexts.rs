//! Contexts: interpreters in a sandbox that keep their variables between runs.
//!
//! ```text
//! open ─▶ Idle ◀──── done ────▶ Busy ── ends, is killed, talks nonsense ─▶ Dead
//!           ▲                                                               │
//!           └───────────────────────── restart ─────────────────────────────┘
//! ```
//! Each has a connection to the guest of its own, and a task that listens to it. Runs of one
//! context take turns, first come, first served.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use emberd_proto::context::CONTEXT_LINE_BYTES_MAX;
use emberd_proto::{ContextRun, ContextSpec};
use tokio::sync::Semaphore;

use crate::operation::OperationError;
use crate::sandbox::Sandbox;
use crate::{ContextId, SandboxId, Sandboxes};

mod backlog;
mod interpreter;
mod life;
mod lines;
mod run;

pub use life::ContextState;
use life::Life;
pub use run::{Run, RunEnd, RunEvent};

/// Most contexts of one sandbox. Each holds a connection, and memory of the guest.
pub const CONTEXTS_MAX: usize = 16;

/// Most runs of one context that wait for their turn.
const RUNS_WAITING_MAX: usize = 16;

/// Most bytes of events over 64 KiB that all contexts of one sandbox hold at once (64 MiB): two of
/// the largest. Further ones wait in the guest until callers have read.
pub const CONTEXT_LINES_BYTES_MAX: usize = 2 * CONTEXT_LINE_BYTES_MAX;

/// Why a context was not opened, or did not run.
#[derive(Debug, thiserror::Error)]
pub enum ContextError {
    /// The sandbox could not be talked to.
    #[error(transparent)]
    Operation(#[from] OperationError),
    /// The sandbox has no such context.
    #[error("sandbox {sandbox} has no context {context}")]
    Unknown {
        /// Which sandbox.
        sandbox: SandboxId,
        /// Which context.
        context: ContextId,
    },
    /// The sandbox has as many contexts as it may.
    #[error("sandbox {0} has {CONTEXTS_MAX} contexts, as many as one may have")]
    TooMany(SandboxId),
    /// As many runs as may wait do.
    #[error("{RUNS_WAITING_MAX} runs of context {0} wait for their turn already")]
    Busy(ContextId),
    /// Its interpreter has ended.
    #[error("context {context} is dead: {reason}")]
    Dead {
        /// Which context.
        context: ContextId,
        /// How it ended.
        reason: String,
    },
    /// Its interpreter did not get ready.
    #[error("the interpreter did not start: {0}")]
    Start(String),
}

/// One context as it is now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContextView {
    /// Who it is.
    pub id: ContextId,
    /// What it was opened with.
    pub spec: ContextSpec,
    /// What it is doing.
    pub state: ContextState,
    /// How many runs its interpreter has begun.
    pub execution_count: u64,
    /// When it was asked for.
    pub created_at: SystemTime,
}

/// The contexts of one sandbox.
pub(crate) struct Contexts {
    entries: Mutex<Entries>,
    /// Bytes of long events that may still be held.
    line_bytes: Arc<Semaphore>,
}

impl Default for Contexts {
    fn default() -> Self {
        let line_bytes = Arc::new(Semaphore::new(CONTEXT_LINES_BYTES_MAX));
        Self { entries: Mutex::default(), line_bytes }
    }
}

#[derive(Default)]
struct Entries {
    by_id: HashMap<ContextId, Arc<Context>>,
    /// Being opened.
    opening: usize,
    next_serial: u64,
}

struct Context {
    id: ContextId,
    /// Grows with every context: the order of opening.
    serial: u64,
    spec: ContextSpec,
    created_at: SystemTime,
    /// Held while it is restarted.
    restarting: tokio::sync::Mutex<()>,
    life: Mutex<Slot>,
}

/// Where a context's interpreter is.
struct Slot {
    life: Arc<Life>,
    /// Whether the context is deleted: nothing new may come here.
    closed: bool,
}

impl Context {
    fn slot(&self) -> MutexGuard<'_, Slot> {
        self.life.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn life(&self) -> Arc<Life> {
        Arc::clone(&self.slot().life)
    }

    fn view(&self) -> ContextView {
        let (state, execution_count) = self.life().status();
        let (id, spec, created_at) = (self.id, self.spec.clone(), self.created_at);
        ContextView { id, spec, state, execution_count, created_at }
    }
}

impl Contexts {
    /// No code that could panic half-way through a change runs under this lock.
    fn lock(&self) -> MutexGuard<'_, Entries> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the events of all contexts share.
    fn line_bytes(&self) -> Arc<Semaphore> {
        Arc::clone(&self.line_bytes)
    }
}

/// A place for a context being opened, until dropped.
struct Place<'a>(&'a Contexts);

impl<'a> Place<'a> {
    fn take(contexts: &'a Contexts) -> Option<Self> {
        let mut entries = contexts.lock();
        if entries.by_id.len() + entries.opening >= CONTEXTS_MAX {
            return None;
        }
        entries.opening += 1;
        Some(Self(contexts))
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.lock().opening -= 1;
    }
}

impl Sandboxes {
    /// Opens a context in the sandbox and waits until its interpreter is ready.
    ///
    /// Dropping the future ends the interpreter.
    ///
    /// # Errors
    /// [`ContextError`].
    pub async fn open_context(
        &self,
        id: SandboxId,
        spec: ContextSpec,
    ) -> Result<ContextView, ContextError> {
        let sandbox = self.holder(id)?;
        spec.check().map_err(OperationError::from)?;
        self.0.activity.stir();
        let place = Place::take(&sandbox.contexts).ok_or(ContextError::TooMany(id))?;
        let created_at = SystemTime::now();
        let life = Life::begin(&sandbox, &spec).await?;
        let mut entries = sandbox.contexts.lock();
        let context = Arc::new(Context {
            id: ContextId::random(),
            serial: entries.next_serial,
            spec,
            created_at,
            restarting: tokio::sync::Mutex::new(()),
            life: Mutex::new(Slot { life: Arc::new(life), closed: false }),
        });
        entries.next_serial += 1;
        entries.by_id.insert(context.id, Arc::clone(&context));
        drop(entries);
        drop(place);
        Ok(context.view())
    }

    /// The contexts of the sandbox as they are now, oldest first.
    ///
    /// # Errors
    /// When there is no such sandbox.
    pub fn contexts(&self, id: SandboxId) -> Result<Vec<ContextView>, ContextError> {
        let sandbox = self.holder(id)?;
        let mut contexts: Vec<_> = sandbox.contexts.lock().by_id.values().cloned().collect();
        contexts.sort_unstable_by_key(|context| context.serial);
        Ok(contexts.iter().map(|context| context.view()).collect())
    }

    /// Runs code in the context, when its turn comes. Dropping what is returned before its end
    /// interrupts the run.
    ///
    /// # Errors
    /// [`ContextError`]. However the code itself ends is an event.
    pub fn run_context(
        &self,
        id: SandboxId,
        context: ContextId,
        run: &ContextRun,
    ) -> Result<Run, ContextError> {
        let context = self.context(id, context)?;
        run.check().map_err(OperationError::from)?;
        self.0.activity.stir();
        let timeout = run.timeout_ms.map(Duration::from_millis);
        context.life().run(context.id, &run.code, timeout)
    }

    /// Interrupts the run under way; does nothing when there is none.
    ///
    /// # Errors
    /// When there is no such context.
    pub fn interrupt_context(&self, id: SandboxId, context: ContextId) -> Result<(), ContextError> {
        self.context(id, context)?.life().interrupt();
        Ok(())
    }

    /// Kills the context's interpreter, whatever it is doing, and starts another in its place.
    ///
    /// # Errors
    /// [`ContextError`]; the context is dead then.
    pub async fn restart_context(
        &self,
        id: SandboxId,
        context: ContextId,
    ) -> Result<ContextView, ContextError> {
        let sandbox = self.holder(id)?;
        let unknown = ContextError::Unknown { sandbox: id, context };
        let context = self.context(id, context)?;
        let _turn = context.restarting.lock().await;
        context.life().end("it was restarted").await;
        let life = Arc::new(Life::begin(&sandbox, &context.spec).await?);
        let mut slot = context.slot();
        if slot.closed {
            // What is dropped ends its interpreter.
            return Err(unknown);
        }
        slot.life = life;
        drop(slot);
        Ok(context.view())
    }

    /// Kills the context's interpreter and forgets the context.
    ///
    /// # Errors
    /// When there is no such context.
    pub async fn delete_context(
        &self,
        id: SandboxId,
        context: ContextId,
    ) -> Result<(), ContextError> {
        let sandbox = self.holder(id)?;
        let removed = sandbox.contexts.lock().by_id.remove(&context);
        let removed = removed.ok_or(ContextError::Unknown { sandbox: id, context })?;
        let life = {
            let mut slot = removed.slot();
            slot.closed = true;
            Arc::clone(&slot.life)
        };
        life.end("it was deleted").await;
        Ok(())
    }

    fn holder(&self, id: SandboxId) -> Result<Arc<Sandbox>, OperationError> {
        self.0.table.find(id).ok_or(OperationError::Unknown(id))
    }

    fn context(&self, id: SandboxId, context: ContextId) -> Result<Arc<Context>, ContextError> {
        let found = self.holder(id)?.contexts.lock().by_id.get(&context).cloned();
        found.ok_or(ContextError::Unknown { sandbox: id, context })
    }
}
