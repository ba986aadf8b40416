//! One life of a context: an interpreter from its start to its end.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use emberd_proto::{ContextCall, ContextSpec, GuestMessage, HostMessage};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::interpreter::{Interpreter, Order, line_of};
use super::run::{Run, RunEnd};
use super::{ContextError, RUNS_WAITING_MAX};
use crate::ContextId;
use crate::operation::Line;
use crate::sandbox::Sandbox;

/// Events of one run that wait for their caller; [`super::lines`] bounds their size.
const EVENTS_WAITING_MAX: usize = 16;

/// What a context is doing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ContextState {
    /// It waits for something to run.
    Idle,
    /// It runs.
    Busy,
    /// Its interpreter has ended, in this way; it can be restarted.
    Dead(String),
}

/// What is known of a life; shared by all who ask, and by the one who knows.
#[derive(Debug)]
pub(super) struct Status(Mutex<Known>);

#[derive(Debug)]
struct Known {
    state: ContextState,
    execution_count: u64,
    /// What the run that is lost last was.
    end: RunEnd,
}

impl Status {
    pub fn new() -> Self {
        let (state, execution_count, end) = (ContextState::Idle, 0, RunEnd::default());
        Self(Mutex::new(Known { state, execution_count, end }))
    }

    /// A run begins, or is over.
    pub fn set_busy(&self, busy: bool) {
        let mut known = self.lock();
        if !matches!(known.state, ContextState::Dead(_)) {
            known.state = if busy { ContextState::Busy } else { ContextState::Idle };
        }
    }

    /// The interpreter has said how many runs there were.
    pub fn count(&self, execution_count: u64) {
        self.lock().execution_count = execution_count;
    }

    /// The run under way ends with the interpreter.
    pub fn lose(&self, end: RunEnd) {
        self.lock().end = end;
    }

    /// It has ended, or is to; the first reason stays.
    pub fn die(&self, reason: &str) {
        let mut known = self.lock();
        if !matches!(known.state, ContextState::Dead(_)) {
            known.state = ContextState::Dead(reason.to_owned());
        }
    }

    /// Why it has ended, and how the run ended that was lost with it.
    pub fn last_words(&self) -> (String, RunEnd) {
        let known = self.lock();
        let reason = match &known.state {
            ContextState::Dead(reason) => reason.clone(),
            ContextState::Idle | ContextState::Busy => "its interpreter is gone".to_owned(),
        };
        (reason, RunEnd { execution_count: known.execution_count, ..known.end })
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// See the module. Dropping it ends the interpreter.
pub(super) struct Life {
    status: Arc<Status>,
    orders: mpsc::Sender<Order>,
    /// Counts the interrupts asked for.
    interrupts: watch::Sender<u64>,
    ending: CancellationToken,
    /// Cancelled when the connection to the interpreter is closed.
    ended: CancellationToken,
}

impl Life {
    /// Starts an interpreter and waits until it is ready.
    pub async fn begin(sandbox: &Arc<Sandbox>, spec: &ContextSpec) -> Result<Self, ContextError> {
        let mut connection = Line::open(Arc::clone(sandbox)).await?;
        let answer = connection.ask(&HostMessage::Context(spec.clone())).await?;
        let (mut reader, writer) = connection.split();
        if !matches!(answer, GuestMessage::Started { .. }) {
            let rule = "it answered a context with something else";
            return Err(reader.broken(rule).await.into());
        }
        let status = Arc::new(Status::new());
        let (interrupts, interrupted) = watch::channel(0);
        let (orders, ordered) = mpsc::channel(RUNS_WAITING_MAX);
        let mut interpreter = Interpreter::new(
            reader,
            writer,
            Arc::clone(&status),
            interrupted,
            sandbox.contexts.line_bytes(),
        );
        interpreter.ready().await?;
        let (ending, ended) = (CancellationToken::new(), CancellationToken::new());
        let life = Self { status, orders, interrupts, ending, ended };
        let (status, ending) = (Arc::clone(&life.status), life.ending.clone());
        let last = life.ended.clone().drop_guard();
        tokio::spawn(async move {
            if let Some(reason) = ending.run_until_cancelled(interpreter.serve(ordered)).await {
                status.die(&reason);
            }
            drop(last);
        });
        Ok(life)
    }

    /// What it is doing, and how many runs it has begun.
    pub fn status(&self) -> (ContextState, u64) {
        let known = self.status.lock();
        (known.state.clone(), known.execution_count)
    }

    /// Has `code` run when its turn comes.
    pub fn run(
        &self,
        id: ContextId,
        code: &str,
        timeout: Option<Duration>,
    ) -> Result<Run, ContextError> {
        if let (ContextState::Dead(reason), _) = self.status() {
            return Err(ContextError::Dead { context: id, reason });
        }
        let line = line_of(&ContextCall::Run { code: code.to_owned() });
        let (events, received) = mpsc::channel(EVENTS_WAITING_MAX);
        match self.orders.try_send(Order { line, timeout, events }) {
            Ok(()) => Ok(Run::new(received, Arc::clone(&self.status))),
            Err(mpsc::error::TrySendError::Full(_)) => Err(ContextError::Busy(id)),
            Err(mpsc::error::TrySendError::Closed(_)) => {
                let (reason, _) = self.status.last_words();
                Err(ContextError::Dead { context: id, reason })
            }
        }
    }

    /// Interrupts the run under way, if there is one.
    pub fn interrupt(&self) {
        self.interrupts.send_modify(|count| *count += 1);
    }

    /// Ends the interpreter, and returns when its connection is closed: the guest kills it.
    pub async fn end(&self, reason: &str) {
        self.status.die(reason);
        self.ending.cancel();
        self.ended.cancelled().await;
    }
}

impl Drop for Life {
    fn drop(&mut self) {
        self.ending.cancel();
    }
}
