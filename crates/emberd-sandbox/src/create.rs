//! From nothing to a sandbox whose guest answers, or back to nothing.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use emberd_image::PackName;
use emberd_proto::Welcome;
use emberd_vmm::{BootError, BootSpec, ExitReason, ExitWatch, MicroVm, Vmm, console_tail};
use tokio::time::{Instant, timeout_at};

use crate::SandboxId;
use crate::channel::{ChannelError, GuestConnection};
use crate::sandbox::{BootTimes, Ready, Sandbox, connect, ended};

/// Lines of console log an error quotes.
const TAIL_LINES: usize = 20;

/// Why a sandbox could not be created. Nothing of it is left behind.
#[derive(Debug, thiserror::Error)]
pub enum CreateError {
    /// No such language pack is installed.
    #[error("unknown language pack `{0}`")]
    UnknownPack(PackName),
    /// As many sandboxes exist as may.
    #[error("{0} sandboxes exist, and no more are allowed")]
    TooMany(usize),
    /// [`shutdown`](crate::Sandboxes::shutdown) has begun.
    #[error("the daemon is shutting down")]
    ShuttingDown,
    /// It was deleted before it was ready.
    #[error("sandbox {0} was deleted while it was created")]
    Deleted(SandboxId),
    /// The VMM could not be started.
    #[error("sandbox {id} could not be started")]
    Boot {
        /// Which sandbox.
        id: SandboxId,
        /// Why.
        source: BootError,
    },
    /// Its record could not be written.
    #[error("cannot write to {}", dir.display())]
    Record {
        /// Its directory.
        dir: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The VMM ended before the guest answered.
    #[error("the VMM of sandbox {id} {reason} before its guest answered; {console}")]
    Died {
        /// Which sandbox.
        id: SandboxId,
        /// How the VMM ended.
        reason: ExitReason,
        /// The end of the guest's console.
        console: Console,
    },
    /// The guest did not answer in time.
    #[error("the guest of sandbox {id} did not answer within {waited:?}; {console}")]
    NotReady {
        /// Which sandbox.
        id: SandboxId,
        /// How long was waited.
        waited: Duration,
        /// The end of the guest's console.
        console: Console,
    },
    /// The guest answered, but not as an agent does.
    #[error("the guest of sandbox {id} did not greet; {console}")]
    Guest {
        /// Which sandbox.
        id: SandboxId,
        /// What it did.
        source: ChannelError,
        /// The end of the guest's console.
        console: Console,
    },
}

/// Last lines of a guest's console.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Console(String);

impl std::fmt::Display for Console {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0.as_str() {
            "" => f.write_str("its console is empty"),
            lines => write!(f, "its console ends:\n{lines}"),
        }
    }
}

/// Boots `sandbox` and waits until its guest answers.
///
/// Cancelled by `sandbox.ending` and by being dropped; whatever was started is gone then.
pub(crate) async fn create<V: Vmm>(
    sandbox: &Sandbox<V::MicroVm>,
    vmm: &V,
    spec: BootSpec,
    boot_timeout: Duration,
) -> Result<(), CreateError> {
    let id = sandbox.record.id;
    // Held until the end: whoever deletes the sandbox waits for that.
    let mut slot = sandbox.vm.write().await;
    let started = Instant::now();
    let vm = tokio::select! {
        biased;
        () = sandbox.ending.cancelled() => return Err(CreateError::Deleted(id)),
        vm = vmm.boot(spec) => vm.map_err(|source| CreateError::Boot { id, source })?,
    };
    let vmm_time = started.elapsed();
    sandbox
        .record
        .write(&sandbox.dir)
        .map_err(|source| CreateError::Record { dir: sandbox.dir.clone(), source })?;
    let mut exit = vm.exited();
    let greeting = tokio::select! {
        biased;
        () = sandbox.ending.cancelled() => Err(CreateError::Deleted(id)),
        greeting = first_answer(id, &vm, &mut exit, started, boot_timeout) => greeting,
    };
    match greeting {
        Ok((connection, welcome)) => {
            let guest_time = started.elapsed().saturating_sub(vmm_time);
            let boot = BootTimes::new(vmm_time, guest_time, &welcome);
            let ready = Ready::new(vm.process_id(), boot, exit, connection);
            sandbox.ready.set(ready).unwrap_or_else(|_| unreachable!("a sandbox boots once"));
            *slot = Some(vm);
            Ok(())
        }
        Err(error) => {
            if let Err(left) = vm.kill().await {
                tracing::error!(%id, error = &left as &dyn std::error::Error, "not cleaned up");
            }
            Err(error)
        }
    }
}

async fn first_answer<M: MicroVm>(
    id: SandboxId,
    vm: &M,
    exit: &mut ExitWatch,
    started: Instant,
    boot_timeout: Duration,
) -> Result<(GuestConnection<M::Stream>, Welcome), CreateError> {
    let died = |reason| CreateError::Died { id, reason, console: console(vm) };
    let mut watch = exit.clone();
    let source = tokio::select! {
        biased;
        reason = watch.wait() => return Err(died(reason)),
        answer = timeout_at(started + boot_timeout, connect(vm)) => match answer {
            Ok(Ok(answer)) => return Ok(answer),
            Ok(Err(error)) => error,
            Err(_) => {
                let console = console(vm);
                return Err(CreateError::NotReady { id, waited: boot_timeout, console });
            }
        },
    };
    match ended(exit).await {
        Some(reason) => Err(died(reason)),
        None => Err(CreateError::Guest { id, source, console: console(vm) }),
    }
}

fn console(vm: &impl MicroVm) -> Console {
    Console(console_tail(vm.console_log(), TAIL_LINES))
}
