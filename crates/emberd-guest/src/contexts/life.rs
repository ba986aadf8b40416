//! One life of a context: an interpreter from its start to its end.

use std::sync::Arc;
use std::time::Duration;

use emberd_proto::{ContextCall, ContextSpec, GuestMessage, HostMessage};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::error::{ContextError, RUNS_WAITING_MAX};
use super::id::ContextId;
use super::interpreter::{Interpreter, Order, line_of};
use super::run::Run;
use super::status::{ContextState, Status};
use crate::host::ByteStream;
use crate::line::Line;
use crate::session::Session;

/// Most events of one run that wait for their caller; [`super::lines`] bounds their size.
const EVENTS_WAITING_MAX: usize = 16;

/// See the module. Dropping it ends the interpreter.
pub(super) struct Life {
    status: Arc<Status>,
    orders: mpsc::Sender<Order>,
    /// Number of interrupts requested.
    interrupts: watch::Sender<u64>,
    ending: CancellationToken,
    /// Cancelled when the connection to the interpreter is closed.
    ended: CancellationToken,
}

impl Life {
    /// Starts an interpreter and waits until it is ready.
    pub async fn begin<S: ByteStream>(
        session: &Arc<Session<S>>,
        spec: &ContextSpec,
        line_bytes: Arc<Semaphore>,
    ) -> Result<Self, ContextError> {
        let mut link = Line::open(Arc::clone(session)).await?;
        let answer = link.ask(&HostMessage::Context(spec.clone())).await?;
        let (mut reader, writer) = link.split();
        if !matches!(answer, GuestMessage::Started { .. }) {
            let rule = "unexpected answer to a context";
            return Err(reader.broken(rule).await.into());
        }
        let status = Arc::new(Status::new());
        let (interrupts, interrupted) = watch::channel(0);
        let (orders, ordered) = mpsc::channel(RUNS_WAITING_MAX);
        let mut interpreter =
            Interpreter::new(reader, writer, Arc::clone(&status), interrupted, line_bytes);
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

    /// Returns the state, and the number of runs begun.
    pub fn status(&self) -> (ContextState, u64) {
        self.status.now()
    }

    /// Queues `code` to run after the runs before it.
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
