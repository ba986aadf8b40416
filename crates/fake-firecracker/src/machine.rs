//! The VM, and the calls that are allowed in each state. reference §1.4 (firecracker's
//! `vmm/src/rpc_interface.rs`).
//!
//! ```text
//! not started ──InstanceStart──▶ running ◀─Resumed── paused ◀── snapshot/load
//!   configured                      └─────Paused──────▶ └─ snapshot/create
//! ```

use std::fs::File;
use std::io;
use std::sync::Arc;

use serde::Serialize;
use serde_json::json;

use crate::api::request::Call;
use crate::cli::Config;
use crate::exits::Exits;
use crate::guest::{Guest, GuestDir};
use crate::log::Log;
use crate::marks;
use crate::resources::{Resources, VmState};
use crate::vsock::Device;

mod boot;
mod configure;
mod snapshots;

/// The answer to a call: nothing (204) or JSON (200).
pub type Answer = Option<String>;

/// The answer to `GET /`.
#[derive(Debug, Serialize)]
struct Instance<'a> {
    id: &'a str,
    state: &'static str,
    vmm_version: String,
    app_name: &'static str,
}

/// Why a call is refused; the text is Firecracker's `fault_message`.
#[derive(Debug)]
pub struct Refusal {
    /// The message.
    pub message: String,
    /// Exit code of the process after the refusal was sent.
    pub fatal: Option<u8>,
}

impl Refusal {
    fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), fatal: None }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    NotStarted,
    Running,
    Paused,
}

/// The VM of this process.
#[derive(Debug)]
pub struct Machine {
    config: Arc<Config>,
    log: Arc<Log>,
    exits: Exits,
    phase: Phase,
    resources: Resources,
    /// The metrics file, if one was set.
    metrics: Option<File>,
    /// The kernel, which is opened when it is set.
    kernel: Option<File>,
    /// Whether anything was configured that a snapshot would include.
    boot_path: bool,
    /// Whether the guest was restored from a snapshot.
    restored: bool,
    /// Whether a snapshot was created since the VM was paused.
    snapshot_made: bool,
    vsock: Option<Device>,
    // Declared before the directory, which is in use until the guest has ended.
    guest: Option<Guest>,
    guest_dir: GuestDir,
}

const PRE_BOOT_ONLY: &str = "The requested operation is not supported after starting the microVM.";
/// Devices can be hot-plugged only with `--enable-pci`.
const PCI_ONLY: &str = "PCI is not enabled";
const POST_BOOT_ONLY: &str =
    "The requested operation is not supported before starting the microVM.";

impl Machine {
    /// Returns a VM that is not started.
    ///
    /// # Errors
    /// If the directory for the guest's sockets cannot be created.
    pub fn new(config: Arc<Config>, log: Arc<Log>, exits: Exits) -> io::Result<Self> {
        Ok(Self {
            guest_dir: GuestDir::new()?,
            config,
            log,
            exits,
            phase: Phase::NotStarted,
            resources: Resources::default(),
            metrics: None,
            kernel: None,
            boot_path: false,
            restored: false,
            snapshot_made: false,
            vsock: None,
            guest: None,
        })
    }

    /// Executes `call`.
    ///
    /// # Errors
    /// [`Refusal`], answered with status 400.
    pub fn handle(&mut self, call: Call) -> Result<Answer, Refusal> {
        match call {
            Call::GetInstance => Ok(Some(to_json(&self.instance()))),
            Call::GetVersion => {
                let version = self.config.version.to_string();
                Ok(Some(to_json(&json!({ "firecracker_version": version }))))
            }
            Call::GetConfig => Ok(Some(to_json(&self.resources))),
            Call::GetMachineConfig => Ok(Some(to_json(&self.resources.machine_config))),
            Call::NotImitated(what) => {
                Err(Refusal::new(format!("fake-firecracker does not imitate {what}")))
            }
            Call::PutDrive(drive) => self.put_drive(drive),
            call if self.phase == Phase::NotStarted => self.handle_before_boot(call),
            call => self.handle_after_boot(call),
        }
    }

    fn instance(&self) -> Instance<'_> {
        let state = match self.phase {
            Phase::NotStarted => "Not started",
            Phase::Running => "Running",
            Phase::Paused => "Paused",
        };
        let vmm_version = self.config.version.to_string();
        Instance { id: &self.config.id, state, vmm_version, app_name: "Firecracker" }
    }

    fn handle_before_boot(&mut self, call: Call) -> Result<Answer, Refusal> {
        match call {
            Call::PutLogger(logger) => self.put_logger(&logger)?,
            Call::PutMetrics(metrics) => self.put_metrics(&metrics)?,
            Call::PutSerial(_) => {}
            Call::LoadSnapshot(load) => self.load_snapshot(&load)?,
            Call::Start => self.start()?,
            Call::PatchDrive(_)
            | Call::UnplugDrive
            | Call::FlushMetrics
            | Call::SendCtrlAltDel
            | Call::PatchVm(_)
            | Call::CreateSnapshot(_) => return Err(Refusal::new(POST_BOOT_ONLY)),
            call => self.configure(call)?,
        }
        Ok(None)
    }

    fn handle_after_boot(&mut self, call: Call) -> Result<Answer, Refusal> {
        match call {
            Call::PatchVm(VmState::Paused) => self.pause(),
            Call::PatchVm(VmState::Resumed) => self.resume().map_err(|error| {
                Refusal::new(format!("Internal VMM error: cannot start the agent: {error}"))
            })?,
            Call::CreateSnapshot(create) => self.create_snapshot(&create)?,
            Call::PatchDrive(update) => self.patch_drive(update)?,
            Call::UnplugDrive => return Err(Refusal::new(PCI_ONLY)),
            // There are no metrics to flush, and no keyboard driver in the guest to react.
            Call::FlushMetrics | Call::SendCtrlAltDel => {}
            _ => return Err(Refusal::new(PRE_BOOT_ONLY)),
        }
        Ok(None)
    }

    fn pause(&mut self) {
        if self.phase == Phase::Paused {
            return;
        }
        if let Some(vsock) = &self.vsock {
            vsock.set_running(false);
        }
        if let Some(guest) = &self.guest {
            guest.pause();
        }
        self.phase = Phase::Paused;
        self.snapshot_made = false;
    }

    fn resume(&mut self) -> io::Result<()> {
        let was_paused = self.phase == Phase::Paused;
        self.phase = Phase::Running;
        let Some(guest) = &self.guest else { return self.run_guest() };
        guest.resume();
        marks::add("resumed");
        if let Some(vsock) = &self.vsock {
            vsock.set_running(true);
            if was_paused && !self.snapshot_made && self.config.version.bare_resume_deafens() {
                vsock.deafen();
            }
        }
        Ok(())
    }
}

fn to_json(answer: &impl Serialize) -> String {
    serde_json::to_string(answer).expect("answers are plain data")
}
