//! Restores a microVM from a template and gives its guest an identity of its own.
//!
//! ```text
//! stand_by ─▶ Standby ─▶ load ─▶ guest answers ─▶ renewed ─▶ (warmed up) ─▶ ready
//!             waits in the standby pool, or continues at once
//! ```

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use emberd_guest::{ChannelError, Link, renewal};
use emberd_image::PackImage;
use emberd_proto::ExecSpec;
use emberd_proto::message::AGENT_PORT;
use emberd_vmm::{
    AnyMicroVm, AnyStandby, BootError, MicroVm as _, RestoreError, Standby as _, Stream, Template,
    Vmm as _, VmmDescription,
};
use tokio::time::Instant;

use super::answer::{AnswerError, answer};
use super::base::Base;
use super::boot::{Answered, end};
use crate::boot_path::{BootPath, BootTimes};
use crate::id::SandboxId;
use crate::lifecycle::sandbox::Sandbox;

/// Longest wait for the first answer and the renewal of a restored guest, which need some
/// milliseconds: a hundred times what a busy host without hardware virtualisation takes.
const ANSWER_WAIT_MAX: Duration = Duration::from_secs(10);

/// Time limit of one warm-up, in milliseconds: a busy emulated guest takes a second or two.
const WARM_UP_MS: u64 = 60_000;

/// Time that the guest may take after a warm-up's own time limit to report it.
const WARM_UP_GRACE: Duration = Duration::from_secs(10);

/// Why a microVM was not restored. Nothing of it is left behind.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RestoreFailure {
    /// The VMM could not restore the template.
    #[error("cannot restore from {}", template.display())]
    Vmm { template: PathBuf, source: RestoreError },
    /// The sandbox's record could not be written.
    #[error("cannot write to {}", dir.display())]
    Record { dir: PathBuf, source: io::Error },
    /// The guest did not become ready.
    #[error("the guest restored from {} did not become ready", template.display())]
    Guest { template: PathBuf, source: AnswerError },
}

/// Cause of a failed restore, as far as the error shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Blame {
    /// The template: nothing can be restored from it.
    Template,
    /// The template or the host.
    Unclear,
    /// The host: the template was not read.
    Host,
}

impl RestoreFailure {
    pub fn blame(&self) -> Blame {
        match self {
            Self::Vmm { source: RestoreError::Template(_), .. } => Blame::Template,
            Self::Record { .. }
            | Self::Vmm {
                source:
                    RestoreError::Unsupported { .. }
                    | RestoreError::Start(
                        BootError::Prepare { .. }
                        | BootError::Spawn { .. }
                        | BootError::NoChannel { .. },
                    ),
                ..
            } => Blame::Host,
            Self::Vmm { .. } | Self::Guest { .. } => Blame::Unclear,
        }
    }
}

/// A standby: a VMM that has not loaded its template yet, and its future sandbox.
pub(crate) struct Standby {
    pub sandbox: Arc<Sandbox>,
    pub template: Arc<Template>,
    vmm: AnyStandby,
    /// Time that the waiting creation spent on starting the VMM.
    vmm_time: Duration,
}

impl Standby {
    /// Marks the standby as started ahead: no creation waits for it.
    pub fn ahead(self) -> Self {
        Self { vmm_time: Duration::ZERO, ..self }
    }

    /// Whether its VMM still runs.
    pub fn is_alive(&self) -> bool {
        self.vmm.exited().reason().is_none()
    }
}

/// Starts a VMM for `sandbox` that is ready to load `template`.
///
/// Dropping the future removes everything that was started.
pub(crate) async fn stand_by(
    base: &Base,
    template: Arc<Template>,
    sandbox: Arc<Sandbox>,
    image: &PackImage,
) -> Result<Standby, RestoreFailure> {
    let started = Instant::now();
    let spec = base.restore_spec(&sandbox, image);
    let vmm = base.vmm.stand_by(&template, spec).await;
    let vmm =
        vmm.map_err(|source| RestoreFailure::Vmm { template: template.dir().into(), source })?;
    let digest = template.key().digest();
    sandbox
        .journal
        .write(|entry| entry.template = Some(digest))
        .map_err(|source| RestoreFailure::Record { dir: sandbox.dir.clone(), source })?;
    Ok(Standby { sandbox, template, vmm, vmm_time: started.elapsed() })
}

/// Loads the template into `standby` and renews its guest. A microVM for the pool also runs the
/// warm-up; one that a creation waits for is warmed by its first use.
///
/// Dropping the future removes the microVM.
pub(crate) async fn load(
    base: &Base,
    standby: Standby,
    image: &PackImage,
    boot_path: BootPath,
) -> Result<Answered, RestoreFailure> {
    let warm_up =
        rehearsal(image, base.vmm.description()).filter(|_| boot_path == BootPath::WarmPool);
    let Standby { sandbox, template, vmm, vmm_time } = standby;
    let template = || template.dir().to_owned();
    let wait_max = ANSWER_WAIT_MAX.min(base.config.boot_timeout);
    let started = Instant::now();
    let vm = vmm.load().await;
    let vm = vm.map_err(|source| RestoreFailure::Vmm { template: template(), source })?;
    let loaded = Instant::now();
    let woken = async {
        let waking = wake(&vm, sandbox.id);
        let (mut link, answered) = answer(&vm, loaded, wait_max, waking).await?;
        let renewed = Instant::now();
        if let Some(code) = warm_up {
            run_warm_up(&vm, &mut link, code).await?;
        }
        let boot = BootTimes {
            vmm: vmm_time,
            load: Some(loaded - started),
            guest: answered - loaded,
            renew: Some(renewed - answered),
            warm_up: warm_up.map(|_| renewed.elapsed()),
            kernel: None,
            init: None,
        };
        Ok((link, boot))
    };
    match woken.await {
        Ok((link, boot)) => Ok(Answered { vm, link, boot_path, boot }),
        Err(source) => {
            end(sandbox.id, vm).await;
            Err(RestoreFailure::Guest { template: template(), source })
        }
    }
}

/// Returns the code that a clone for the pool runs before it is handed out, if its pack has a
/// warm-up. An emulated processor must translate again all the code that the template has run, so
/// it runs the whole warm-up. On a real processor the shortest program is enough. The pages that
/// the code writes become the clone's own, so it writes as few as possible.
fn rehearsal<'a>(image: &'a PackImage, vmm: &VmmDescription) -> Option<&'a str> {
    let warm_up = image.warm_up.as_deref()?;
    Some(if vmm.is_emulated() { warm_up } else { "" })
}

/// Connects to a guest that has just been restored, and renews it.
async fn wake(vm: &AnyMicroVm, id: SandboxId) -> Result<(Link<Stream>, Instant), ChannelError> {
    let stream =
        vm.connect(AGENT_PORT).await.map_err(|error| ChannelError::Connect(error.into()))?;
    renewal::greet(stream, &id.to_string()).await
}

/// Runs a warm-up once. A warm-up that fails is logged; a guest that does not answer is an error.
pub(crate) async fn run_warm_up(
    vm: &AnyMicroVm,
    link: &mut Link<Stream>,
    code: &str,
) -> Result<(), AnswerError> {
    let spec = ExecSpec { timeout_ms: WARM_UP_MS, ..ExecSpec::new(code) };
    let wait_max = Duration::from_millis(WARM_UP_MS) + WARM_UP_GRACE;
    let outcome = answer(vm, Instant::now(), wait_max, link.exec(spec, b"")).await?;
    if outcome.exit.exit_code != 0 {
        let (code, stderr) = (outcome.exit.exit_code, outcome.stderr.trim_end());
        tracing::warn!(code, stderr, error = outcome.exit.error, "warm-up failed");
    }
    Ok(())
}

#[cfg(test)]
mod tests {

    use emberd_image::Digest;

    use super::*;

    #[test]
    fn only_emulated_clones_run_all_of_the_warm_up() {
        let image = |warm_up: Option<&str>| PackImage {
            rootfs: PathBuf::new(),
            sha256: Digest::of(b""),
            description: String::new(),
            warm_up: warm_up.map(str::to_owned),
            profiles: emberd_image::Profiles::new(),
        };
        let vmm = |accelerator| VmmDescription {
            driver: "qemu",
            version: String::new(),
            accelerator,
            limits: Vec::new(),
            reason: String::new(),
        };
        assert_eq!(rehearsal(&image(Some("sort")), &vmm("tcg")), Some("sort"));
        assert_eq!(rehearsal(&image(Some("sort")), &vmm("kvm")), Some(""));
        assert_eq!(rehearsal(&image(None), &vmm("tcg")), None);
    }
}
