//! From nothing to a microVM whose guest answers, or back to nothing.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use emberd_image::{PackImage, PackName};
use emberd_vmm::{AnyMicroVm, BootError, ExitReason, MicroVm as _, Stream, Vmm as _};
use tokio::time::Instant;

use crate::SandboxId;
use crate::answer::{AnswerError, Console, answer, connect};
use crate::base::Base;
use crate::boot_path::{BootPath, BootTimes};
use crate::channel::{ChannelError, GuestConnection};
use crate::record;
use crate::sandbox::{Ready, Sandbox};

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

impl CreateError {
    fn unanswered(id: SandboxId, error: AnswerError) -> Self {
        match error {
            AnswerError::Died { reason, console } => Self::Died { id, reason, console },
            AnswerError::Late { waited, console } => Self::NotReady { id, waited, console },
            AnswerError::Wrong { source, console } => Self::Guest { id, source, console },
        }
    }
}

/// A sandbox that was just created.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Created {
    /// Who it is.
    pub id: SandboxId,
    /// How its microVM came to be.
    pub boot_path: BootPath,
    /// Where the time of its making went.
    pub boot: BootTimes,
}

/// A microVM whose guest has answered.
pub(crate) struct Answered {
    pub vm: AnyMicroVm,
    pub connection: GuestConnection<Stream>,
    pub boot_path: BootPath,
    pub boot: BootTimes,
}

/// Boots the microVM of `sandbox` and waits until its guest answers.
///
/// Dropping the future removes whatever was started.
pub(crate) async fn boot(
    base: &Base,
    sandbox: &Sandbox,
    image: &PackImage,
    for_template: bool,
) -> Result<Answered, CreateError> {
    let id = sandbox.id;
    let started = Instant::now();
    let spec = base.boot_spec(sandbox, image, for_template);
    let vm = base.vmm.boot(spec).await.map_err(|source| CreateError::Boot { id, source })?;
    let vmm_time = started.elapsed();
    record::write(sandbox)
        .map_err(|source| CreateError::Record { dir: sandbox.dir.clone(), source })?;
    match answer(&vm, started, base.config.boot_timeout, connect(&vm)).await {
        Ok((connection, welcome)) => {
            let guest_time = started.elapsed().saturating_sub(vmm_time);
            let boot = BootTimes::of_boot(vmm_time, guest_time, &welcome);
            Ok(Answered { vm, connection, boot_path: BootPath::ColdBoot, boot })
        }
        Err(error) => {
            end(id, vm).await;
            Err(CreateError::unanswered(id, error))
        }
    }
}

/// Lets `making` make the microVM of `sandbox`, unless the sandbox is to end before.
///
/// Cancelled by that and by being dropped; whatever was started is gone then.
pub(crate) async fn fulfil<E>(
    sandbox: &Sandbox,
    making: impl Future<Output = Result<Answered, E>>,
) -> Option<Result<Created, E>> {
    // Held until the end: whoever deletes the sandbox waits for that.
    let mut slot = sandbox.vm.write().await;
    let made = tokio::select! {
        biased;
        () = sandbox.ending.cancelled() => return None,
        made = making => made,
    };
    Some(made.map(|made| {
        let Answered { vm, connection, boot_path, boot } = made;
        let ready = Ready::new(vm.process_id(), boot_path, boot, vm.exited(), connection);
        sandbox.ready.set(ready).unwrap_or_else(|_| unreachable!("a sandbox is made once"));
        *slot = Some(vm);
        Created { id: sandbox.id, boot_path, boot }
    }))
}

/// Kills the microVM of a sandbox that did not come about.
pub(crate) async fn end(id: SandboxId, vm: AnyMicroVm) {
    if let Err(error) = vm.kill().await {
        tracing::error!(%id, error = &error as &dyn std::error::Error, "not cleaned up");
    }
}
