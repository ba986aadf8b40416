//! Boots a microVM until its guest answers, or removes it again.

use emberd_guest::Link;
use emberd_image::PackImage;
use emberd_vmm::{AnyMicroVm, MicroVm as _, Stream, Vmm as _};
use tokio::time::Instant;

use super::answer::{answer, connect};
use super::base::{Base, Boot};
use crate::boot_path::{BootPath, BootTimes};
use crate::error::CreateError;
use crate::id::SandboxId;
use crate::lifecycle::journal::Stage;
use crate::lifecycle::sandbox::Sandbox;

/// A microVM whose guest has answered.
pub(crate) struct Answered {
    pub vm: AnyMicroVm,
    pub link: Link<Stream>,
    pub boot_path: BootPath,
    pub boot: BootTimes,
}

/// Boots the microVM of `sandbox` and waits until its guest answers.
///
/// Dropping the future removes everything that was started.
pub(crate) async fn boot(
    base: &Base,
    sandbox: &Sandbox,
    image: &PackImage,
    kind: Boot,
) -> Result<Answered, CreateError> {
    let id = sandbox.id;
    let started = Instant::now();
    let spec = base.boot_spec(sandbox, image, kind);
    let vm = base.vmm.boot(spec).await.map_err(|source| CreateError::boot(id, source))?;
    let vmm_time = started.elapsed();
    sandbox
        .journal_as(Stage::Making)
        .map_err(|source| CreateError::record(&sandbox.dir, source))?;
    match answer(&vm, started, base.config.boot_timeout, connect(&vm)).await {
        Ok((link, welcome)) => {
            let guest_time = started.elapsed().saturating_sub(vmm_time);
            let boot = BootTimes::of_boot(vmm_time, guest_time, &welcome);
            Ok(Answered { vm, link, boot_path: BootPath::ColdBoot, boot })
        }
        Err(error) => {
            end(id, vm).await;
            Err(CreateError::unanswered(id, error))
        }
    }
}

/// Kills the microVM of a sandbox whose creation failed.
pub(crate) async fn end(id: SandboxId, vm: AnyMicroVm) {
    if let Err(error) = vm.kill().await {
        tracing::error!(%id, error = &error as &dyn std::error::Error, "not cleaned up");
    }
}
