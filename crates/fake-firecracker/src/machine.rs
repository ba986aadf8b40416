//! The VM and what may be done with it when. reference §1.4 (firecracker's
//! `vmm/src/rpc_interface.rs`).
//!
//! ```text
//! not started ──InstanceStart──▶ running ◀─Resumed── paused ◀── snapshot/load
//!   configured                      └─────Paused──────▶ └─ snapshot/create
//! ```

use std::fs::File;
use std::io;
use std::sync::Arc;

use serde_json::{Value, json};

use crate::api::request::Call;
use crate::cli::Config;
use crate::exits::Exits;
use crate::guest::{Guest, GuestDir};
use crate::log::Log;
use crate::resources::{Resources, VmState};
use crate::vsock::Device;

mod boot;
mod configure;
mod snapshots;

/// What a call is answered with: nothing (204) or JSON (200).
pub type Answer = Option<Value>;

/// Why a call is refused; the text is Firecracker's `fault_message`.
#[derive(Debug)]
pub struct Refusal {
    /// For people.
    pub message: String,
    /// Exit code of the process once the refusal is sent.
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
    /// The kernel, open since it was named.
    kernel: Option<File>,
    /// Whether anything was configured that a snapshot would bring along.
    boot_path: bool,
    /// Whether the guest comes from a snapshot.
    restored: bool,
    /// Whether a snapshot was made since the VM was paused.
    snapshot_made: bool,
    vsock: Option<Device>,
    // Before the directory: it is in use until the guest has ended.
    guest: Option<Guest>,
    guest_dir: GuestDir,
}

const PRE_BOOT_ONLY: &str = "The requested operation is not supported after starting the microVM.";
const POST_BOOT_ONLY: &str =
    "The requested operation is not supported before starting the microVM.";

impl Machine {
    /// A VM that is not started.
    ///
    /// # Errors
    /// When the directory for the guest's sockets cannot be made.
    pub fn new(config: Arc<Config>, log: Arc<Log>, exits: Exits) -> io::Result<Self> {
        Ok(Self {
            guest_dir: GuestDir::new()?,
            config,
            log,
            exits,
            phase: Phase::NotStarted,
            resources: Resources::default(),
            kernel: None,
            boot_path: false,
            restored: false,
            snapshot_made: false,
            vsock: None,
            guest: None,
        })
    }

    /// Does what `call` asks for.
    ///
    /// # Errors
    /// [`Refusal`], answered with status 400.
    pub fn handle(&mut self, call: Call) -> Result<Answer, Refusal> {
        match call {
            Call::GetInstance => Ok(Some(self.instance())),
            Call::GetVersion => {
                Ok(Some(json!({ "firecracker_version": self.config.version.to_string() })))
            }
            Call::GetConfig => Ok(Some(json!(self.resources))),
            Call::GetMachineConfig => Ok(Some(json!(self.resources.machine_config))),
            Call::NotImitated(what) => {
                Err(Refusal::new(format!("fake-firecracker does not imitate {what}")))
            }
            Call::PutDrive(drive) => self.put_drive(drive),
            call if self.phase == Phase::NotStarted => self.handle_before_boot(call),
            call => self.handle_after_boot(call),
        }
    }

    fn instance(&self) -> Value {
        let state = match self.phase {
            Phase::NotStarted => "Not started",
            Phase::Running => "Running",
            Phase::Paused => "Paused",
        };
        json!({
            "id": self.config.id,
            "state": state,
            "vmm_version": self.config.version.to_string(),
            "app_name": "Firecracker",
        })
    }

    fn handle_before_boot(&mut self, call: Call) -> Result<Answer, Refusal> {
        match call {
            Call::PutLogger(logger) => self.put_logger(&logger)?,
            Call::PutMetrics(metrics) => {
                let wrong = |error| {
                    Refusal::new(format!("Metrics error: Unable to initialize metrics: {error}"))
                };
                self.open_to_write(&metrics.metrics_path).map_err(wrong)?;
            }
            Call::PutSerial(_) => {}
            Call::LoadSnapshot(load) => self.load_snapshot(&load)?,
            Call::Start => self.start()?,
            Call::PatchDrive(_)
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
            // There are no metrics to flush, and no keyboard driver in the guest to hear it.
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
        if let Some(vsock) = &self.vsock {
            vsock.set_running(true);
            if was_paused && !self.snapshot_made && self.config.version.bare_resume_deafens() {
                vsock.deafen();
            }
        }
        Ok(())
    }
}
