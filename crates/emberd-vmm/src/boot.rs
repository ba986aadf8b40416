//! Inputs of a boot, and its errors.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use crate::disk::DiskSpec;
use crate::template::MachineShape;

/// Description of a driver and its VMM, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VmmDescription {
    /// `qemu` or `firecracker`.
    pub driver: &'static str,
    /// Version of the VMM's binary, as it prints it.
    pub version: String,
    /// `kvm` or `tcg` (software emulation).
    pub accelerator: &'static str,
    /// Resources of each microVM that the host limits: `memory`, `cpu`, `pids`.
    pub limits: Vec<&'static str>,
    /// Why this driver and accelerator were chosen, in one sentence.
    pub reason: String,
}

impl VmmDescription {
    /// Whether the guest's processor is emulated in software.
    pub fn is_emulated(&self) -> bool {
        self.accelerator == "tcg"
    }
}

/// Everything one microVM is booted from.
#[derive(Debug, Clone)]
pub struct BootSpec {
    /// Directory the driver creates (mode 0700) for this microVM alone: sockets, log, the
    /// VMM's working directory. It must not exist yet. Its last component names the VM.
    pub dir: PathBuf,
    /// Uncompressed `x86_64` ELF kernel.
    pub kernel: PathBuf,
    /// Ticks per second of that kernel (`CONFIG_HZ`), where known; without it a software
    /// emulated guest may hang in delay calibration.
    pub kernel_hz: Option<u32>,
    /// Uncompressed newc cpio with `/init`.
    pub initramfs: PathBuf,
    /// Root image, attached read-only.
    pub rootfs: PathBuf,
    /// The guest's own disk, attached writable; without one it writes to its memory only.
    pub disk: Option<DiskSpec>,
    /// Words added to the driver's own kernel arguments.
    pub kernel_args: Vec<String>,
    /// Virtual processors, 1 to 32.
    pub vcpu_count: u8,
    /// Guest memory, in MiB.
    pub mem_size_mib: u32,
    /// Whether a template will be made from it: some VMMs must then keep the guest's memory in a
    /// file from the start.
    pub for_template: bool,
}

impl BootSpec {
    pub(crate) fn shape(&self) -> MachineShape {
        MachineShape {
            vcpu_count: self.vcpu_count,
            mem_size_mib: self.mem_size_mib,
            disk_size_mib: self.disk.as_ref().map_or(0, |disk| disk.size_mib),
            kernel_args: self.kernel_args.clone(),
        }
    }
}

/// Why a VMM could not be started.
#[derive(Debug, thiserror::Error)]
pub enum BootError {
    /// The VM's directory or a file in it could not be made.
    #[error("cannot prepare {}", path.display())]
    Prepare {
        /// The file or directory.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// The VMM's process could not be started.
    #[error("cannot start {}", program.display())]
    Spawn {
        /// The VMM's binary.
        program: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// The VMM ended before it could be used.
    #[error("the VMM {reason}; its log ends: {log_tail}")]
    Exited {
        /// How it ended.
        reason: crate::ExitReason,
        /// Last lines of its log.
        log_tail: String,
    },
    /// The VMM did not complete a step of the boot.
    #[error("the VMM did not complete {step}; its log ends: {log_tail}")]
    Step {
        /// The step, in the VMM's terms.
        step: String,
        /// Last lines of its log.
        log_tail: String,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The VMM did not open its channel in time.
    #[error("the VMM did not open its channel within {waited:?}")]
    NoChannel {
        /// Time waited.
        waited: Duration,
    },
}

/// Why a guest port can never be reached.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The VMM is gone, or closed its channel.
    #[error("the microVM's channel is closed")]
    Closed,
    /// The channel failed.
    #[error("the microVM's channel failed")]
    Channel(#[source] io::Error),
}

/// A directory that kill could not remove.
#[derive(Debug, thiserror::Error)]
#[error("cannot remove {}", dir.display())]
pub struct KillError {
    /// The microVM's directory.
    pub dir: PathBuf,
    /// Why it failed.
    pub source: io::Error,
}
