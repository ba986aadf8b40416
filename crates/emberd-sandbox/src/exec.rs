//! One exec in one sandbox: a connection, a time limit, and an end for every case.

use std::sync::Arc;
use std::time::{Duration, Instant};

use emberd_proto::exec::STDIN_BYTES_MAX;
use emberd_proto::{ExecOutcome, ExecSpec};

use crate::channel::ChannelError;
use crate::operation::{OperationError, failed, guarded};
use crate::sandbox::{Ready, Sandbox};

/// How long after an exec's own time limit its guest may take to say so.
pub const EXEC_GRACE_DEFAULT: Duration = Duration::from_secs(10);

/// A program that has run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Executed {
    /// How it ended.
    pub outcome: ExecOutcome,
    /// Where the time went.
    pub times: ExecTimes,
}

/// Where the time of an exec went.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ExecTimes {
    /// All of it.
    pub total: Duration,
    /// Waiting for a turn among the sandbox's own execs.
    pub turn: Duration,
    /// Until there was a connection to the guest.
    pub connection: Duration,
    /// By the guest's own clock, from the request's arrival until the program had its work.
    pub launch: Duration,
    /// By the guest's own clock, from then until the program's end.
    pub run: Duration,
}

impl ExecTimes {
    /// What none of the parts accounts for: the way to the guest and back, and the daemon's
    /// own work.
    pub fn rest(&self) -> Duration {
        self.total.saturating_sub(self.turn + self.connection + self.launch + self.run)
    }
}

/// Holds a request against its limits, before anything else is done with it.
pub(crate) fn check(spec: &ExecSpec, stdin: &[u8]) -> Result<(), OperationError> {
    spec.check()?;
    if stdin.len() > STDIN_BYTES_MAX {
        return Err(OperationError::StdinTooLarge(stdin.len()));
    }
    Ok(())
}

/// Runs a checked `spec` in `sandbox`. Dropping the future ends the program.
pub(crate) async fn exec(
    sandbox: &Arc<Sandbox>,
    spec: ExecSpec,
    stdin: &[u8],
    grace: Duration,
) -> Result<Executed, OperationError> {
    let ready = sandbox.ready.get().ok_or(OperationError::NotReady(sandbox.id))?;
    guarded(sandbox, in_turn(sandbox, ready, spec, stdin, grace)).await
}

async fn in_turn(
    sandbox: &Arc<Sandbox>,
    ready: &Ready,
    spec: ExecSpec,
    stdin: &[u8],
    grace: Duration,
) -> Result<Executed, OperationError> {
    let id = sandbox.id;
    let asked = Instant::now();
    let _turn = ready.turns.acquire().await.expect("the semaphore is never closed");
    let turn = asked.elapsed();
    let waited = Duration::from_millis(spec.timeout_ms) + grace;
    match tokio::time::timeout(waited, converse(sandbox, ready, spec, stdin)).await {
        Ok(Ok((outcome, connection))) => {
            let launch = Duration::from_micros(outcome.exit.launch_us);
            let run = Duration::from_micros(outcome.exit.duration_us).saturating_sub(launch);
            let total = asked.elapsed();
            Ok(Executed { outcome, times: ExecTimes { total, turn, connection, launch, run } })
        }
        Err(_) => Err(OperationError::Unresponsive { id, waited }),
        Ok(Err(source)) => Err(failed(sandbox, source).await),
    }
}

async fn converse(
    sandbox: &Arc<Sandbox>,
    ready: &Ready,
    spec: ExecSpec,
    stdin: &[u8],
) -> Result<(ExecOutcome, Duration), ChannelError> {
    let asked = Instant::now();
    let mut connection = sandbox.connection(ready).await?;
    let connected = asked.elapsed();
    let outcome = connection.exec(spec, stdin).await;
    if connection.is_idle() {
        ready.keep(connection);
    }
    Ok((outcome?, connected))
}
