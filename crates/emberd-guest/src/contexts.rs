//! Contexts: interpreters in a guest that keep their variables between runs.
//!
//! ```text
//! open ─▶ Idle ◀──── done ────▶ Busy ── ends, is killed, is malformed ─▶ Dead
//!           ▲                                                              │
//!           └───────────────────────── restart ────────────────────────────┘
//! ```
//! Each context has its own connection to the guest, and a task that reads from it. Runs of one
//! context run one at a time, in the order of their requests.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use emberd_proto::context::CONTEXT_LINE_BYTES_MAX;
use emberd_proto::{ContextCall, ContextRun, ContextSpec, Program};
use parking_lot::Mutex;
use tokio::sync::Semaphore;

use crate::error::GuestError;
use crate::host::ByteStream;
use crate::note::ContextNote;
use crate::session::Session;

mod backlog;
mod error;
mod event;
mod id;
mod interpreter;
mod life;
mod lines;
mod log;
mod run;
mod running;
mod status;

pub use error::{CONTEXTS_MAX, ContextError};
pub use event::{NumberedEvent, RunEnd, RunEvent};
pub use id::{ContextId, ContextIdError};
use life::Life;
use log::Log;
pub use log::{CONTEXT_EVENTS_BYTES_MAX, CONTEXT_EVENTS_MAX, ContextEvents};
pub use run::Run;
pub use status::ContextState;

/// Most bytes of events over 64 KiB that all contexts of one sandbox hold at once (64 MiB): two of
/// the largest. Further ones wait in the guest until callers have read.
pub const CONTEXT_LINES_BYTES_MAX: usize = 2 * CONTEXT_LINE_BYTES_MAX;

/// One context as it is now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContextView {
    /// Identity of the context.
    pub id: ContextId,
    /// The specification that the context was opened with.
    pub spec: ContextSpec,
    /// State of the context.
    pub state: ContextState,
    /// How many runs its interpreter has begun.
    pub execution_count: u64,
    /// The lowest number that the next event may have.
    pub next_seq: u64,
    /// When the context was requested.
    pub created_at: SystemTime,
}

/// The contexts of one guest and their shared limits.
pub(crate) struct Registry {
    entries: Mutex<Entries>,
    /// Bytes of long events that may still be held.
    line_bytes: Arc<Semaphore>,
}

impl Default for Registry {
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
    /// How it was opened.
    note: ContextNote,
    created_at: SystemTime,
    /// Held while the context is restarted.
    restarting: tokio::sync::Mutex<()>,
    life: Mutex<Slot>,
}

/// Where a context's interpreter is.
struct Slot {
    life: Arc<Life>,
    /// Whether the context is deleted: no new interpreter may be placed here.
    closed: bool,
}

impl Context {
    fn life(&self) -> Arc<Life> {
        Arc::clone(&self.life.lock().life)
    }

    fn view(&self) -> ContextView {
        let life = self.life();
        let ((state, execution_count), next_seq) = (life.status(), life.log().next());
        let (id, spec, created_at) = (self.id, self.note.spec.clone(), self.created_at);
        ContextView { id, spec, state, execution_count, next_seq, created_at }
    }
}

impl Registry {
    fn enter(&self, id: ContextId, note: ContextNote, life: Life) -> Arc<Context> {
        let mut entries = self.entries.lock();
        let context = Arc::new(Context {
            id,
            serial: entries.next_serial,
            created_at: note.created_at(),
            note,
            restarting: tokio::sync::Mutex::new(()),
            life: Mutex::new(Slot { life: Arc::new(life), closed: false }),
        });
        entries.next_serial += 1;
        entries.by_id.insert(id, Arc::clone(&context));
        context
    }
}

/// A place for a context being opened, until dropped.
struct Place<'a>(&'a Registry);

impl<'a> Place<'a> {
    fn take(contexts: &'a Registry) -> Option<Self> {
        let mut entries = contexts.entries.lock();
        if entries.by_id.len() + entries.opening >= CONTEXTS_MAX {
            return None;
        }
        entries.opening += 1;
        Some(Self(contexts))
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.entries.lock().opening -= 1;
    }
}

/// The contexts of one guest.
pub struct Contexts<S> {
    session: Arc<Session<S>>,
    registry: Arc<Registry>,
}

impl<S: ByteStream> Contexts<S> {
    pub(crate) fn new(session: Arc<Session<S>>, registry: Arc<Registry>) -> Self {
        Self { session, registry }
    }

    /// Opens a context and waits until its interpreter is ready.
    ///
    /// Dropping the future ends the interpreter.
    ///
    /// # Errors
    /// [`ContextError`].
    pub async fn open(&self, mut spec: ContextSpec) -> Result<ContextView, ContextError> {
        self.session.add_env(&mut spec.env);
        spec.check().map_err(GuestError::from)?;
        self.session.host.stir();
        let too_many = || ContextError::TooMany(self.session.name.clone());
        let place = Place::take(&self.registry).ok_or_else(too_many)?;
        let id = ContextId::random();
        let note = ContextNote::new(id.to_string(), spec);
        let life = self.begin(note.clone(), Arc::new(Log::new(0))).await?;
        let context = self.registry.enter(id, note, life);
        drop(place);
        Ok(context.view())
    }

    async fn begin(&self, note: ContextNote, log: Arc<Log>) -> Result<Life, ContextError> {
        Life::begin(&self.session, note, log, Arc::clone(&self.registry.line_bytes)).await
    }

    /// Goes on with a context that was opened before; `false` if there are too many.
    pub(crate) async fn recover(
        &self,
        program: &Program,
        note: ContextNote,
    ) -> Result<bool, ContextError> {
        let known = note.id.parse().ok().filter(|_| note.is_ready);
        if known.is_some_and(|id| self.find(id).is_ok()) {
            return Ok(true);
        }
        let (Some(id), Some(place)) = (known, Place::take(&self.registry)) else {
            return Ok(false);
        };
        let line_bytes = Arc::clone(&self.registry.line_bytes);
        let life = Life::recover(&self.session, program, note.clone(), line_bytes).await?;
        self.registry.enter(id, note, life);
        drop(place);
        Ok(true)
    }

    /// Returns the present state of the contexts, oldest first.
    pub fn list(&self) -> Vec<ContextView> {
        let mut contexts: Vec<_> = self.registry.entries.lock().by_id.values().cloned().collect();
        contexts.sort_unstable_by_key(|context| context.serial);
        contexts.iter().map(|context| context.view()).collect()
    }

    /// Runs code in the context, after the runs before it. Dropping the returned [`Run`] before its
    /// end interrupts it.
    ///
    /// # Errors
    /// [`ContextError`]. However the code itself ends is an event.
    pub fn run(&self, context: ContextId, run: &ContextRun) -> Result<Run, ContextError> {
        self.run_below(context, run, None)
    }

    /// As [`Self::run`], as a part of the span `parent` (`traceparent` of W3C Trace Context), which
    /// the code has as the environment variable `TRACEPARENT`.
    ///
    /// # Errors
    /// As [`Self::run`].
    pub fn run_below(
        &self,
        context: ContextId,
        run: &ContextRun,
        parent: Option<String>,
    ) -> Result<Run, ContextError> {
        let context = self.find(context)?;
        run.check().map_err(GuestError::from)?;
        self.session.host.stir();
        let timeout = run.timeout_ms.map(Duration::from_millis);
        let max_image_bytes = run.max_image_bytes.map(|bytes| bytes.to_string());
        let code = run.code.clone();
        let call = ContextCall::Run { code, traceparent: parent, max_image_bytes };
        context.life().run(context.id, &call, timeout, self.session.host.mark())
    }

    /// Returns the events of all runs of the context from number `from` on, past and future ones.
    ///
    /// # Errors
    /// When the context does not exist.
    pub fn events(&self, context: ContextId, from: u64) -> Result<ContextEvents, ContextError> {
        let log = Arc::clone(self.find(context)?.life().log());
        Ok(ContextEvents::new(log, from, self.session.host.deleted()))
    }

    /// Interrupts the run under way; does nothing if the context is idle.
    ///
    /// # Errors
    /// When the context does not exist.
    pub fn interrupt(&self, context: ContextId) -> Result<(), ContextError> {
        self.find(context)?.life().interrupt();
        Ok(())
    }

    /// Kills the context's interpreter and starts another in its place.
    ///
    /// # Errors
    /// [`ContextError`]; the context is dead then.
    pub async fn restart(&self, context: ContextId) -> Result<ContextView, ContextError> {
        let unknown = self.unknown(context);
        let context = self.find(context)?;
        let _restart = context.restarting.lock().await;
        let before = context.life();
        before.end("it was restarted").await;
        let log = Arc::clone(before.log());
        let life = Arc::new(self.begin(context.note.fresh(log.next()), log).await?);
        {
            let mut slot = context.life.lock();
            if slot.closed {
                // Dropping the new life ends its interpreter.
                return Err(unknown);
            }
            slot.life = life;
        }
        Ok(context.view())
    }

    /// Kills the context's interpreter and removes the context.
    ///
    /// # Errors
    /// When the context does not exist.
    pub async fn delete(&self, context: ContextId) -> Result<(), ContextError> {
        let removed = self.registry.entries.lock().by_id.remove(&context);
        let removed = removed.ok_or_else(|| self.unknown(context))?;
        let life = {
            let mut slot = removed.life.lock();
            slot.closed = true;
            Arc::clone(&slot.life)
        };
        life.end("it was deleted").await;
        life.log().close();
        Ok(())
    }

    fn find(&self, context: ContextId) -> Result<Arc<Context>, ContextError> {
        let found = self.registry.entries.lock().by_id.get(&context).cloned();
        found.ok_or_else(|| self.unknown(context))
    }

    fn unknown(&self, context: ContextId) -> ContextError {
        ContextError::Unknown { sandbox: self.session.name.clone(), context }
    }
}
