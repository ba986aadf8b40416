//! One exec in one sandbox: a connection, a time limit, and an end for every case.

use std::time::{Duration, Instant};

use emberd_proto::exec::STDIN_BYTES_MAX;
use emberd_proto::{ExecOutcome, ExecSpec, SpecError};
use emberd_vmm::{ExitReason, MicroVm};

use crate::SandboxId;
use crate::answer::ended;
use crate::channel::ChannelError;
use crate::sandbox::{Ready, Sandbox};

/// How long after an exec's own time limit its guest may take to say so.
pub const EXEC_GRACE_DEFAULT: Duration = Duration::from_secs(10);

/// Why an exec has no outcome. How the program itself ended is never an error.
#[derive(Debug, thiserror::Error)]
pub enum ExecError {
    /// No such sandbox.
    #[error("unknown sandbox {0}")]
    Unknown(SandboxId),
    /// The spec breaks a limit.
    #[error(transparent)]
    Invalid(#[from] SpecError),
    /// Standard input is too large.
    #[error("stdin is {0} bytes, over the limit of {STDIN_BYTES_MAX}")]
    StdinTooLarge(usize),
    /// The sandbox is still being created.
    #[error("sandbox {0} is still being created")]
    NotReady(SandboxId),
    /// The sandbox was deleted while the program ran.
    #[error("sandbox {0} was deleted while the program ran")]
    Deleted(SandboxId),
    /// The sandbox's microVM ended by itself.
    #[error("the microVM of sandbox {id} is gone: its VMM {reason}")]
    Gone {
        /// Which sandbox.
        id: SandboxId,
        /// How the VMM ended.
        reason: ExitReason,
    },
    /// The guest did not answer in time; the program may or may not have run.
    #[error("the guest of sandbox {id} did not answer within {waited:?}")]
    Unresponsive {
        /// Which sandbox.
        id: SandboxId,
        /// The program's time limit and the grace after it.
        waited: Duration,
    },
    /// The guest could not be talked to; the program may or may not have run.
    #[error("exec in sandbox {id} failed")]
    Guest {
        /// Which sandbox.
        id: SandboxId,
        /// What the guest did.
        source: ChannelError,
    },
}

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
pub(crate) fn check(spec: &ExecSpec, stdin: &[u8]) -> Result<(), ExecError> {
    spec.check()?;
    if stdin.len() > STDIN_BYTES_MAX {
        return Err(ExecError::StdinTooLarge(stdin.len()));
    }
    Ok(())
}

/// Runs a checked `spec` in `sandbox`. Dropping the future ends the program.
pub(crate) async fn exec<M: MicroVm>(
    sandbox: &Sandbox<M>,
    spec: ExecSpec,
    stdin: &[u8],
    grace: Duration,
) -> Result<Executed, ExecError> {
    let id = sandbox.id;
    let ready = sandbox.ready.get().ok_or(ExecError::NotReady(id))?;
    let mut exit = ready.exit.clone();
    tokio::select! {
        biased;
        () = sandbox.ending.cancelled() => Err(ExecError::Deleted(id)),
        reason = exit.wait() => Err(ExecError::Gone { id, reason }),
        outcome = in_turn(sandbox, ready, spec, stdin, grace) => outcome,
    }
}

async fn in_turn<M: MicroVm>(
    sandbox: &Sandbox<M>,
    ready: &Ready<M::Stream>,
    spec: ExecSpec,
    stdin: &[u8],
    grace: Duration,
) -> Result<Executed, ExecError> {
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
        Err(_) => Err(ExecError::Unresponsive { id, waited }),
        Ok(Err(source)) => match ended(&mut ready.exit.clone()).await {
            Some(reason) => Err(ExecError::Gone { id, reason }),
            None => Err(ExecError::Guest { id, source }),
        },
    }
}

async fn converse<M: MicroVm>(
    sandbox: &Sandbox<M>,
    ready: &Ready<M::Stream>,
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
