//! Pausing microVMs, making templates of them, and starting microVMs from templates: what a
//! driver can do beyond [`Vmm`] and [`MicroVm`].

use std::future::Future;
use std::io;
use std::path::{Path, PathBuf};

use crate::{
    BootError, ExitWatch, ImageHashes, MachineShape, MicroVm, Template, TemplateError, TemplateKey,
    Vmm,
};

/// A driver that starts microVMs from templates.
///
/// ```text
/// template ── stand_by ─▶ Standby ── load ─▶ MicroVm
///             (process)              (guest runs)
/// ```
pub trait SnapshotVmm: Vmm<MicroVm: SnapshotMicroVm> {
    /// A VMM process that has nothing to do but load its template.
    type Standby: Standby<MicroVm = Self::MicroVm>;

    /// What a template made here of `images` on `machine` is valid with.
    ///
    /// # Errors
    /// [`RestoreError::Unsupported`].
    fn template_key(
        &self,
        images: ImageHashes,
        machine: MachineShape,
    ) -> Result<TemplateKey, RestoreError>;

    /// Starts a VMM that is ready to load `template`.
    ///
    /// Dropping the future kills whatever was started.
    ///
    /// # Errors
    /// [`RestoreError`]; nothing is left behind then, neither process nor directory.
    fn stand_by(
        &self,
        template: &Template,
        spec: RestoreSpec,
    ) -> impl Future<Output = Result<Self::Standby, RestoreError>> + Send;

    /// Starts a microVM from `template`: [`Self::stand_by`], then [`Standby::load`].
    ///
    /// # Errors
    /// Those of both.
    fn restore(
        &self,
        template: &Template,
        spec: RestoreSpec,
    ) -> impl Future<Output = Result<Self::MicroVm, RestoreError>> + Send {
        async { self.stand_by(template, spec).await?.load().await }
    }
}

/// A VMM started ahead of need. Dropping it ends it as it ends a [`MicroVm`].
pub trait Standby: Send + Sync + 'static {
    /// What it becomes.
    type MicroVm: MicroVm;

    /// Loads the template; the guest runs when this returns. It believes it is where the
    /// template was made: clock, random numbers and identity are the caller's to renew before
    /// anything else runs there.
    ///
    /// Dropping the future kills the VMM.
    ///
    /// # Errors
    /// [`RestoreError`]; nothing is left behind then, neither process nor directory.
    fn load(self) -> impl Future<Output = Result<Self::MicroVm, RestoreError>> + Send;

    /// Tells when the VMM process has ended, and why.
    fn exited(&self) -> ExitWatch;

    /// Process id of the VMM.
    fn process_id(&self) -> u32;
}

/// A microVM that can be paused and made a template of.
pub trait SnapshotMicroVm: MicroVm {
    /// Stops the guest's processors; no error if they are. Streams do not survive: close
    /// them before, and connect afresh after [`Self::resume`].
    ///
    /// # Errors
    /// [`PauseError`].
    fn pause(&self) -> impl Future<Output = Result<(), PauseError>> + Send;

    /// Lets the guest's processors run again; no error if they do.
    ///
    /// # Errors
    /// [`PauseError`].
    fn resume(&self) -> impl Future<Output = Result<(), PauseError>> + Send;

    /// Makes the template `into`, whose parent must exist and itself must not, from this
    /// microVM, which was booted from `images` with [`crate::BootSpec::for_template`]. It is
    /// paused for that and stays paused: kill it, or resume it. Streams do not survive: close
    /// them before. Dropping the future leaves no half-made template.
    ///
    /// # Errors
    /// [`SnapshotError`].
    fn snapshot(
        &self,
        into: &Path,
        images: ImageHashes,
    ) -> impl Future<Output = Result<Template, SnapshotError>> + Send;
}

/// What a microVM is started with, besides its template.
#[derive(Debug, Clone)]
pub struct RestoreSpec {
    /// Directory the driver creates for this microVM alone, as for [`crate::BootSpec`].
    pub dir: PathBuf,
    /// Root image; must be the one the template was booted from.
    pub rootfs: PathBuf,
    /// Hashes of what the caller would boot from now: the template must have been made from
    /// the same.
    pub images: ImageHashes,
    /// The machine the caller would boot now, likewise.
    pub machine: MachineShape,
}

/// Why a microVM could not be paused or resumed.
#[derive(Debug, thiserror::Error)]
pub enum PauseError {
    /// This VMM must not do that.
    #[error("{vmm} cannot pause a microVM without breaking it")]
    Unsupported {
        /// The VMM and its version.
        vmm: String,
    },
    /// The VMM did not do it.
    #[error("the VMM did not carry out {step}")]
    Step {
        /// The step, in the VMM's terms.
        step: String,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// Why no template was made.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// The microVM could not be paused.
    #[error("the microVM is not paused")]
    Pause(#[from] PauseError),
    /// The VMM did not write its files.
    #[error("the VMM did not write the snapshot")]
    Create(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The template could not be made of the VMM's files.
    #[error("cannot publish {}", template.display())]
    Publish {
        /// The template.
        template: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// Why no microVM was started from a template.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// The template does not fit; another must be made.
    #[error("the template cannot be used")]
    Template(#[from] TemplateError),
    /// This VMM must not do that.
    #[error("{vmm} breaks the microVMs it restores")]
    Unsupported {
        /// The VMM and its version.
        vmm: String,
    },
    /// The VMM could not be started, or could not load the template.
    #[error("the VMM did not start from the template")]
    Start(#[from] BootError),
}
