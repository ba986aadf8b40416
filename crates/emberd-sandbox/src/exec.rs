//! One exec in one sandbox: a connection, a time limit, and an end for every case.

use std::time::Duration;

use emberd_proto::exec::STDIN_BYTES_MAX;
use emberd_proto::{ExecOutcome, ExecSpec, SpecError};
use emberd_vmm::{ExitReason, MicroVm};

use crate::SandboxId;
use crate::channel::ChannelError;
use crate::sandbox::{Ready, Sandbox, ended};

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
) -> Result<ExecOutcome, ExecError> {
    let id = sandbox.record.id;
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
) -> Result<ExecOutcome, ExecError> {
    let id = sandbox.record.id;
    let _turn = ready.turns.acquire().await.expect("the semaphore is never closed");
    let waited = Duration::from_millis(spec.timeout_ms) + grace;
    match tokio::time::timeout(waited, converse(sandbox, ready, spec, stdin)).await {
        Ok(Ok(outcome)) => Ok(outcome),
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
) -> Result<ExecOutcome, ChannelError> {
    let mut connection = sandbox.connection(ready).await?;
    let outcome = connection.exec(spec, stdin).await;
    if connection.is_idle() {
        ready.keep(connection);
    }
    outcome
}
