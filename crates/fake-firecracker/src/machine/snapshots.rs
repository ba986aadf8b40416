//! Creating and loading snapshots. reference §3.

use std::fs::File;
use std::path::Path;

use super::configure::open_drive;
use super::{Machine, Phase, Refusal};
use crate::resources::{CreateSnapshot, LoadSnapshot, MemoryBackendType, SnapshotType};
use crate::snapshot::{self, State};
use crate::vsock::Device;

impl Machine {
    pub(super) fn create_snapshot(&mut self, create: &CreateSnapshot) -> Result<(), Refusal> {
        let refusal = |reason: &str| Refusal::new(format!("Create snapshot error: {reason}"));
        if self.phase != Phase::Paused {
            return Err(refusal(
                "Cannot save the microVM state: Operation not allowed: save/restore unavailable \
                 while running",
            ));
        }
        if create.snapshot_type == SnapshotType::Diff {
            return Err(refusal("fake-firecracker does not imitate Diff"));
        }
        let host_port_last = self.vsock.as_ref().map_or(0, Device::host_port_last);
        let since_1_15 = self.config.version.since(1, 15);
        let state = State {
            resources: self.resources.clone(),
            host_port_last: if since_1_15 { host_port_last } else { 0 },
        };
        let format = self.config.version.snapshot_format();
        snapshot::create(&state, format, &create.snapshot_path, &create.mem_file_path)
            .map_err(|reason| refusal(&reason))?;
        if let Some(vsock) = &self.vsock {
            vsock.reset();
        }
        self.snapshot_made = true;
        Ok(())
    }

    /// A failed load ends the process, unless it was refused as too late. reference §1.4.
    pub(super) fn load_snapshot(&mut self, load: &LoadSnapshot) -> Result<(), Refusal> {
        let refusal = |reason: String| Refusal::new(format!("Load snapshot error: {reason}"));
        if self.boot_path {
            return Err(refusal(
                "Loading a microVM snapshot not allowed after configuring boot-specific \
                 resources."
                    .to_owned(),
            ));
        }
        let loaded = self.restore(load).and_then(|()| {
            if load.resume_vm {
                self.resume().map_err(|error| format!("Failed to resume microVM: {error}"))?;
            }
            Ok(())
        });
        loaded.map_err(|reason| Refusal { fatal: Some(1), ..refusal(reason) })
    }

    fn restore(&mut self, load: &LoadSnapshot) -> Result<(), String> {
        let failed = |reason: String| format!("Failed to restore from snapshot: {reason}");
        let of_state =
            |reason: String| failed(format!("Failed to get snapshot state from file: {reason}"));
        let of_device = |reason: &str| {
            failed(format!(
                "Failed to build microVM from snapshot: Failed to restore devices: Error \
                 restoring MMIO devices: {reason}"
            ))
        };
        let format = self.config.version.snapshot_format();
        let mut state = snapshot::load(&load.snapshot_path, format)
            .map_err(|error| of_state(error.to_string()))?;
        if !load.network_overrides.is_empty() {
            return Err(of_state("Unknown Network Device.".to_owned()));
        }
        if let Some(other) = &load.vsock_override {
            let vsock = state.resources.vsock.as_mut();
            let vsock = vsock.ok_or_else(|| of_state("Unknown Vsock Device.".to_owned()))?;
            vsock.uds_path.clone_from(&other.uds_path);
        }
        let memory = load.mem_backend.as_ref();
        if memory.is_some_and(|memory| memory.backend_type == MemoryBackendType::Uffd) {
            return Err(failed("fake-firecracker does not imitate Uffd".to_owned()));
        }
        let path = memory.map(|memory| &memory.backend_path).or(load.mem_file_path.as_ref());
        let path = path.ok_or_else(|| failed("no memory file".to_owned()))?;
        check_memory(path, state.resources.machine_config.mem_size_mib).map_err(|reason| {
            failed(format!(
                "Failed to load guest memory: Error creating guest memory from file: {reason}"
            ))
        })?;
        for drive in &state.resources.drives {
            open_drive(drive).map_err(|reason| of_device(&format!("Block: {reason}")))?;
        }
        if let Some(vsock) = &state.resources.vsock {
            let device = self.bind(vsock, state.host_port_last);
            let wrong = "VsockUnixBackend: Error binding to the host-side Unix socket";
            let device = device.map_err(|error| of_device(&format!("{wrong}: {error}")))?;
            self.vsock = Some(device);
        }
        self.resources = state.resources;
        self.phase = Phase::Paused;
        // The guest's driver was notified of the reset when the snapshot was created.
        self.snapshot_made = true;
        self.restored = true;
        Ok(())
    }
}

/// A file that is too short is refused. A file that is truncated later ends the real VMM by
/// SIGBUS (149), but not the double, which maps no memory. reference §3.
fn check_memory(path: &Path, mem_size_mib: u32) -> Result<(), String> {
    let memory = File::open(path).and_then(|file| file.metadata());
    let memory = memory.map_err(|error| format!("Failed to load guest memory: {error}"))?;
    if memory.len() < u64::from(mem_size_mib) << 20 {
        return Err("Failed to restore guest memory: Total sum of memory regions exceeds \
                    largest possible file offset"
            .to_owned());
    }
    Ok(())
}
