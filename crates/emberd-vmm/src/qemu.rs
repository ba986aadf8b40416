//! The QEMU driver: microVMs on its `microvm` board, on KVM or in software emulation.
//!
//! ```text
//! Qemu::find ─▶ Qemu ── boot ─▶ qemu-system-x86_64 in the VM's directory
//!                                 │ agent.sock ◀── one connection, many streams (mux)
//!                                 └ stdout, stderr ──▶ vm.log (guest console, VMM)
//! ```

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::dial::dial;
use crate::host::{self, KvmVerdict};
use crate::process::{self, VmDir, VmmProcess};
use crate::{
    BootError, BootSpec, ConnectError, ExitWatch, KillError, MicroVm, Vmm, VmmDescription,
};

mod arguments;
mod find;
mod mux;

pub use find::{AccelChoice, FindQemuError, QemuConfig};
pub use mux::MuxStream as QemuStream;

use arguments::{Accel, Arguments};
use mux::Mux;

/// Longest wait for QEMU to open its end of the channel; some 40 ms are usual.
const CHANNEL_WAIT_MAX: Duration = Duration::from_secs(10);

/// Makes [`QemuMicroVm`]s.
#[derive(Debug)]
pub struct Qemu {
    binary: PathBuf,
    accel: Accel,
    console: bool,
    description: VmmDescription,
}

impl Qemu {
    /// Finds QEMU, asks it for its version and decides on the accelerator. Blocks for some
    /// tens of milliseconds.
    ///
    /// # Errors
    /// [`FindQemuError`].
    pub fn find(config: QemuConfig) -> Result<Self, FindQemuError> {
        let binary = find::binary(config.binary)?;
        let version = find::version(&binary)?;
        let (accelerator, why) = find::accelerator(config.accel, KvmVerdict::of_this_host())?;
        let accel = match accelerator {
            find::Accelerator::Kvm => Accel::Kvm,
            find::Accelerator::Tcg => Accel::Tcg { tsc_khz: host::tsc_khz() },
        };
        let reasons = [config.reason, why];
        let reasons: Vec<_> = reasons.into_iter().filter(|reason| !reason.is_empty()).collect();
        let description = VmmDescription {
            driver: "qemu",
            version,
            accelerator: accelerator.name(),
            reason: reasons.join("; "),
        };
        Ok(Self { binary, accel, console: config.console, description })
    }

    fn command(&self, spec: &BootSpec) -> Result<Command, BootError> {
        let arguments = Arguments { accel: self.accel, console: self.console, spec };
        let mut command = process::command(&self.binary);
        command.args(arguments.words()?);
        Ok(command)
    }
}

impl Vmm for Qemu {
    type MicroVm = QemuMicroVm;

    fn description(&self) -> &VmmDescription {
        &self.description
    }

    async fn boot(&self, spec: BootSpec) -> Result<QemuMicroVm, BootError> {
        let command = self.command(&spec)?;
        let process = VmmProcess::spawn(command, VmDir::create(&spec.dir)?)?;
        let mut exit = process.exited();
        // QEMU listens once it has understood its arguments.
        let path = process.dir().join(arguments::CHANNEL);
        let channel = tokio::select! {
            channel = tokio::time::timeout(CHANNEL_WAIT_MAX, dial(&path)) => channel,
            reason = exit.wait() => return Err(process.exited_early(reason)),
        };
        let channel = channel
            .map_err(|_| BootError::NoChannel { waited: CHANNEL_WAIT_MAX })?
            .map_err(|source| BootError::Prepare { path, source })?;
        Ok(QemuMicroVm { mux: Mux::over(channel), process })
    }
}

/// A microVM in a QEMU process.
#[derive(Debug)]
pub struct QemuMicroVm {
    mux: Mux,
    process: VmmProcess,
}

impl MicroVm for QemuMicroVm {
    type Stream = QemuStream;

    /// As [`MicroVm::connect`], but returns at once: QEMU holds back what is written until
    /// the guest reads it. `port` is not transmitted: the guest serves one.
    async fn connect(&self, _port: u32) -> Result<QemuStream, ConnectError> {
        self.mux.open().await
    }

    fn exited(&self) -> ExitWatch {
        self.process.exited()
    }

    fn process_id(&self) -> u32 {
        self.process.process_id()
    }

    fn console_log(&self) -> &Path {
        self.process.console_log()
    }

    async fn kill(self) -> Result<(), KillError> {
        self.process.kill().await
    }
}
