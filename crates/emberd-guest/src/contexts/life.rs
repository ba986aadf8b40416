//! One life of a context: an interpreter from its start to its end.

use std::sync::Arc;
use std::time::Duration;

use emberd_proto::{ContextCall, HostMessage, Program};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::error::{ContextError, RUNS_WAITING_MAX};
use super::id::ContextId;
use super::interpreter::{Interpreter, Order, line_of};
use super::log::Log;
use super::run::Run;
use super::status::{ContextState, Status};
use crate::host::ByteStream;
use crate::note::{ContextNote, Note, RunNote};
use crate::session::Session;
use crate::tether::Tether;

/// Most events of one run that wait for their caller; [`super::lines`] bounds their size.
const EVENTS_WAITING_MAX: usize = 16;

/// See the module. Dropping it ends the interpreter.
pub(super) struct Life {
    status: Arc<Status>,
    log: Arc<Log>,
    orders: mpsc::Sender<Order>,
    /// Number of interrupts requested.
    interrupts: watch::Sender<u64>,
    ending: CancellationToken,
    /// Cancelled when the guest has forgotten the interpreter.
    ended: CancellationToken,
}

impl Life {
    /// Starts an interpreter and waits until it is ready. Its events go into `log`.
    pub async fn begin<S: ByteStream>(
        session: &Arc<Session<S>>,
        note: ContextNote,
        log: Arc<Log>,
        line_bytes: Arc<Semaphore>,
    ) -> Result<Self, ContextError> {
        let message = HostMessage::Context(note.spec.clone());
        let text = Note::Context(note.clone()).text();
        let tether = Tether::start(Arc::clone(session), message, text).await?;
        let (life, mut interpreter, ordered) = Self::of(tether, note, log, line_bytes);
        interpreter.started().await?;
        interpreter.ready().await?;
        interpreter.is_ready().await?;
        life.go_on(interpreter, None, ordered);
        Ok(life)
    }

    /// Goes on with an interpreter that was started before, and with its run if that has not
    /// ended.
    pub async fn recover<S: ByteStream>(
        session: &Arc<Session<S>>,
        program: &Program,
        note: ContextNote,
        line_bytes: Arc<Semaphore>,
    ) -> Result<Self, ContextError> {
        // A run that never arrived is none.
        let run = note.run.clone().filter(|run| program.received > run.sent);
        // The last event is the end.
        let next = program.next.saturating_sub(u64::from(program.ended));
        let seq = run.as_ref().map_or(next, |run| run.seq);
        let (tether, _) = Tether::attach(Arc::clone(session), program.id, seq).await?;
        let execution_count = note.execution_count;
        let first = if note.is_first_run() { 0 } else { note.number(seq) };
        let log = Arc::new(Log::new(first));
        let (life, mut interpreter, ordered) = Self::of(tether, note, log, line_bytes);
        life.status.count(execution_count);
        interpreter.expect(seq);
        life.status.set_busy(run.is_some());
        life.go_on(interpreter, run, ordered);
        Ok(life)
    }

    fn of<S: ByteStream>(
        tether: Tether<S>,
        note: ContextNote,
        log: Arc<Log>,
        line_bytes: Arc<Semaphore>,
    ) -> (Self, Interpreter<S>, mpsc::Receiver<Order>) {
        let status = Arc::new(Status::new());
        let (interrupts, interrupted) = watch::channel(0);
        let (orders, ordered) = mpsc::channel(RUNS_WAITING_MAX);
        let (of_status, of_log) = (Arc::clone(&status), Arc::clone(&log));
        let interpreter =
            Interpreter::new(tether, of_status, of_log, interrupted, line_bytes, note);
        let (ending, ended) = (CancellationToken::new(), CancellationToken::new());
        (Self { status, log, orders, interrupts, ending, ended }, interpreter, ordered)
    }

    /// Runs the task of the interpreter. The guest keeps one that has ended until this life does.
    fn go_on<S: ByteStream>(
        &self,
        mut interpreter: Interpreter<S>,
        run: Option<RunNote>,
        ordered: mpsc::Receiver<Order>,
    ) {
        let (status, log) = (Arc::clone(&self.status), Arc::clone(&self.log));
        let ending = self.ending.clone();
        let last = self.ended.clone().drop_guard();
        tokio::spawn(async move {
            let served = interpreter.serve_after(run, ordered);
            if let Some(reason) = ending.run_until_cancelled(served).await {
                status.die(&reason);
                interpreter.hang_up();
                ending.cancelled().await;
            }
            // A guest that has failed has no interpreter, and neither has one that was left.
            interpreter.delete().await.ok();
            log.cut(&status.last_words().0);
            drop(last);
        });
    }

    /// The events of the context.
    pub fn log(&self) -> &Arc<Log> {
        &self.log
    }

    /// Returns the state, and the number of runs begun.
    pub fn status(&self) -> (ContextState, u64) {
        self.status.now()
    }

    /// Queues `call` to run after the runs before it.
    pub fn run(
        &self,
        id: ContextId,
        call: &ContextCall,
        timeout: Option<Duration>,
        mark: u64,
    ) -> Result<Run, ContextError> {
        if let (ContextState::Dead(reason), _) = self.status() {
            return Err(ContextError::Dead { context: id, reason });
        }
        let line = line_of(call);
        let (events, received) = mpsc::channel(EVENTS_WAITING_MAX);
        match self.orders.try_send(Order { line, timeout, events, mark }) {
            Ok(()) => Ok(Run::new(received, Arc::clone(&self.status), Arc::clone(&self.log))),
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

    /// Ends the interpreter, and returns when the guest has forgotten it.
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
