//! From a template to a microVM whose guest is itself.
//!
//! ```text
//! stand_by ─▶ Standby ─▶ load ─▶ guest answers ─▶ renewed ─▶ (warmed up) ─▶ ready
//!             waits in the standby pool, or goes on at once
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
use super::record;
use crate::boot_path::{BootPath, BootTimes};
use crate::id::SandboxId;
use crate::lifecycle::sandbox::Sandbox;

/// Longest wait for the first answer and the renewal of a restored guest, which need some
/// milliseconds: a hundred times what a busy host without hardware virtualisation takes.
const ANSWER_WAIT_MAX: Duration = Duration::from_secs(10);

/// Time limit of one warm-up, in milliseconds: a busy emulated guest takes a second or two.
const WARM_UP_MS: u64 = 60_000;

/// How long after a warm-up's own time limit its guest may take to say so.
const WARM_UP_GRACE: Duration = Duration::from_secs(10);

/// Why a microVM was not restored. Nothing of it is left behind.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RestoreFailure {
    /// The VMM did not do it.
    #[error("cannot restore from {}", template.display())]
    Vmm { template: PathBuf, source: RestoreError },
    /// Its record could not be written.
    #[error("cannot write to {}", dir.display())]
    Record { dir: PathBuf, source: io::Error },
    /// The guest did not wake up.
    #[error("the guest restored from {} did not become ready", template.display())]
    Guest { template: PathBuf, source: AnswerError },
}

/// Whose fault a failed restore is, as far as its error tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Blame {
    /// The template's: nothing can be restored from it.
    Template,
    /// The template's or the host's.
    Unclear,
    /// The host's: the template was not looked at.
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

/// A VMM that has its template before it, and the sandbox it will be.
pub(crate) struct Standby {
    pub sandbox: Arc<Sandbox>,
    pub template: Arc<Template>,
    vmm: AnyStandby,
    /// What starting it took whoever waits for it.
    vmm_time: Duration,
}

impl Standby {
    /// The same, with nobody waiting for it yet.
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
/// Dropping the future removes whatever was started.
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
    record::write(&sandbox)
        .map_err(|source| RestoreFailure::Record { dir: sandbox.dir.clone(), source })?;
    Ok(Standby { sandbox, template, vmm, vmm_time: started.elapsed() })
}

/// Loads the template into `standby` and makes its guest itself. One for the pool is warmed up,
/// too; who waits for the other kind warms it up by using it.
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

/// What a clone for the pool runs before it is handed out, if its pack has a warm-up. An emulated
/// processor has yet to translate all the code that the template has run; a real one has not, and
/// the shortest program takes the way that every program takes. The pages it writes are the
/// clone's own from then on, so it writes as few as it can.
fn rehearsal<'a>(image: &'a PackImage, vmm: &VmmDescription) -> Option<&'a str> {
    let warm_up = image.warm_up.as_deref()?;
    Some(if vmm.is_emulated() { warm_up } else { "" })
}

/// Connects to a guest that has just been restored, and makes it itself.
async fn wake(vm: &AnyMicroVm, id: SandboxId) -> Result<(Link<Stream>, Instant), ChannelError> {
    let stream =
        vm.connect(AGENT_PORT).await.map_err(|error| ChannelError::Connect(error.into()))?;
    renewal::greet(stream, &id.to_string()).await
}

/// Runs a warm-up once. How it ends is the pack's affair; that the guest answers is not.
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
        };
        let vmm = |accelerator| VmmDescription {
            driver: "qemu",
            version: String::new(),
            accelerator,
            reason: String::new(),
        };
        assert_eq!(rehearsal(&image(Some("sort")), &vmm("tcg")), Some("sort"));
        assert_eq!(rehearsal(&image(Some("sort")), &vmm("kvm")), Some(""));
        assert_eq!(rehearsal(&image(None), &vmm("tcg")), None);
    }
}
