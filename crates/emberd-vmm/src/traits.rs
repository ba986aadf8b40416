//! The interface of a driver: starts microVMs, from images or from a template, and runs them.
//!
//! ```text
//! images ─── boot ─────────────────────────▶ MicroVm
//! template ─ stand_by ─▶ Standby ─ load ───▶ MicroVm ─ snapshot ─▶ template
//!            (process)                      (guest runs)
//! ```

use std::future::Future;
use std::path::Path;

use tokio::io::{AsyncRead, AsyncWrite};

use crate::{
    BootError, BootSpec, ConnectError, CpuLimits, ExitWatch, GrowError, ImageHashes, KillError,
    LimitError, MachineShape, NotAdopted, Orphan, PauseError, RestoreError, RestoreSpec,
    SnapshotError, Template, TemplateKey, VmmDescription,
};

/// A driver, which makes [`MicroVm`]s: one value per driver, for the lifetime of the daemon.
pub trait Vmm: Send + Sync + 'static {
    /// The running microVM this driver makes.
    type MicroVm: MicroVm;

    /// A VMM process that is ready to load its template.
    type Standby: Standby<MicroVm = Self::MicroVm>;

    /// Describes the driver for people: `/info`, the start-up log and doctor.
    fn description(&self) -> &VmmDescription;

    /// Starts a microVM and returns as soon as its VMM runs; the guest is still booting.
    ///
    /// Dropping the future kills whatever was started.
    ///
    /// # Errors
    /// [`BootError`]; nothing is left behind then, neither process nor directory.
    fn boot(&self, spec: BootSpec)
    -> impl Future<Output = Result<Self::MicroVm, BootError>> + Send;

    /// Limits the processor time of the microVM `id`, which is the last component of its directory.
    /// Blocks for some microseconds.
    ///
    /// # Errors
    /// [`LimitError`].
    fn limit_cpu(&self, id: &str, cpu: CpuLimits) -> Result<(), LimitError>;

    /// Returns the key of a template made here from `images` on `machine`.
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

    /// Keeps the user of an orphan's jail from other microVMs. Call it for each before the first
    /// microVM is made.
    fn reserve(&self, orphan: &mut Orphan);

    /// Takes over the microVM of an earlier daemon. Says nothing to it: whether its guest answers
    /// is seen when it is connected to. No template can be made of it.
    ///
    /// # Errors
    /// [`NotAdopted`].
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    fn adopt(&self, orphan: Orphan) -> Result<Self::MicroVm, Box<NotAdopted>>;
}

/// A VMM started ahead of need. Dropping it ends it as it ends a [`MicroVm`].
pub trait Standby: Send + Sync + 'static {
    /// The microVM that the standby becomes.
    type MicroVm: MicroVm;

    /// Loads what the driver has not loaded ahead; the guest runs when this returns. Its clock,
    /// random numbers and identity are those of the template: the caller must renew them before
    /// other code runs.
    ///
    /// Dropping the future kills the VMM.
    ///
    /// # Errors
    /// [`RestoreError`]; nothing is left behind then, neither process nor directory.
    fn load(self) -> impl Future<Output = Result<Self::MicroVm, RestoreError>> + Send;

    /// Returns a watch on the end of the VMM process and its reason.
    fn exited(&self) -> ExitWatch;

    /// Process id of the VMM.
    fn process_id(&self) -> u32;
}

/// A running microVM. Dropping it kills its VMM, waits for it and removes its directory;
/// [`Self::detach`] does not.
pub trait MicroVm: Send + Sync + 'static {
    /// A byte stream to a guest port.
    type Stream: AsyncRead + AsyncWrite + Send + Unpin + 'static;

    /// Opens a stream to `port` of the guest. While the guest still boots this waits, for as
    /// long as it takes: callers bound it with a deadline.
    ///
    /// # Errors
    /// [`ConnectError`] once no later attempt can succeed.
    fn connect(&self, port: u32)
    -> impl Future<Output = Result<Self::Stream, ConnectError>> + Send;

    /// Stops the guest's processors; succeeds if they are stopped. Streams stay open: what is sent
    /// waits for [`Self::resume`].
    ///
    /// # Errors
    /// [`PauseError`].
    fn pause(&self) -> impl Future<Output = Result<(), PauseError>> + Send;

    /// Resumes the guest's processors; succeeds if they run.
    ///
    /// # Errors
    /// [`PauseError`].
    fn resume(&self) -> impl Future<Output = Result<(), PauseError>> + Send;

    /// Makes the guest's own disk `bytes` large, which is more than it has; the guest's kernel is
    /// told. Its file system stays as it is.
    ///
    /// # Errors
    /// [`GrowError`].
    fn grow_disk(&self, bytes: u64) -> impl Future<Output = Result<(), GrowError>> + Send;

    /// Makes the template `into`, whose parent must exist and itself must not, from this
    /// microVM, which was booted from `images` with [`BootSpec::for_template`]. It is
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

    /// Returns a watch on the end of the VMM process and its reason.
    fn exited(&self) -> ExitWatch;

    /// Process id of the VMM.
    fn process_id(&self) -> u32;

    /// The bounded log of guest console and VMM: a file in the VM's directory.
    fn console_log(&self) -> &Path;

    /// Kills the VMM, waits until it is reaped and removes the VM's directory.
    ///
    /// # Errors
    /// [`KillError`] when the directory could not be removed; the process has ended in any case.
    fn kill(self) -> impl Future<Output = Result<(), KillError>> + Send;

    /// Lets the VMM run on and its directory be, for a later daemon. Streams end.
    fn detach(self);
}
