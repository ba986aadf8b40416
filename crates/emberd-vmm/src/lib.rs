//! Boots microVMs: two traits, and one driver per VMM.
//!
//! ```text
//! Vmm::boot(BootSpec) ──▶ MicroVm ── connect(port) ─▶ stream
//!                            ├─ exited() ─▶ ExitWatch ─▶ ExitReason
//!                            └─ kill() or drop: process killed, reaped, directory gone
//! ```
//!
//! This crate knows no other emberd crate and nothing of what is said on a stream.

use std::future::Future;
use std::path::Path;

use tokio::io::{AsyncRead, AsyncWrite};

mod boot;
mod dial;
mod exit;
pub mod firecracker;
mod holdings;
mod host;
mod jail;
mod log;
mod orphans;
mod process;
mod qemu;
mod record;
mod root;
mod select;
mod snapshot;
mod sparse;
mod sys;
mod template;

pub use boot::{BootError, BootSpec, ConnectError, KillError, VmmDescription};
pub use exit::{ExitReason, ExitWatch};
pub use host::{KvmTrial, KvmVerdict};
pub use jail::{IdRange, JailChoice, JailConfig};
pub use log::{ConsoleReader, LOG_BYTES_MAX, tail as console_tail};
pub use orphans::{OrphanError, OrphanVmm, Removed, remove_orphans};
pub use qemu::{
    AccelChoice, FindQemuError, QEMU_BINARY, Qemu, QemuConfig, QemuMicroVm, QemuStandby, QemuStream,
};
pub use select::{Driver, HostFacts, SelectError, Selection, VmmChoice, select};
pub use snapshot::{
    PauseError, RestoreError, RestoreSpec, SnapshotError, SnapshotMicroVm, SnapshotVmm, Standby,
};
pub use sys::close_on_exec;
pub use template::{
    ImageHashes, MachineShape, Template, TemplateError, TemplateKey, UNFINISHED_SUFFIX,
};

/// What [`MicroVm`]s are made with: one value per driver, alive as long as the daemon.
pub trait Vmm: Send + Sync + 'static {
    /// The running microVM this driver makes.
    type MicroVm: MicroVm;

    /// What this driver runs, for people: `/info`, the start-up log and doctor.
    fn description(&self) -> &VmmDescription;

    /// Starts a microVM and returns as soon as its VMM runs; the guest is still booting.
    ///
    /// Dropping the future kills whatever was started.
    ///
    /// # Errors
    /// [`BootError`]; nothing is left behind then, neither process nor directory.
    fn boot(&self, spec: BootSpec)
    -> impl Future<Output = Result<Self::MicroVm, BootError>> + Send;
}

/// A running microVM. Dropping it kills its VMM, waits for it and removes its directory.
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

    /// Tells when the VMM process has ended, and why.
    fn exited(&self) -> ExitWatch;

    /// Process id of the VMM.
    fn process_id(&self) -> u32;

    /// The bounded log of guest console and VMM: a file in the VM's directory.
    fn console_log(&self) -> &Path;

    /// Kills the VMM, waits until it is reaped and removes the VM's directory.
    ///
    /// # Errors
    /// [`KillError`] when the directory could not be removed; the process is gone even then.
    fn kill(self) -> impl Future<Output = Result<(), KillError>> + Send;
}
