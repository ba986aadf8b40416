//! Bodies of Firecracker's API calls, in its own field names.
//!
//! Firecracker refuses a whole call for one field it does not know, so what is optional is
//! left out rather than sent as null, and what is newer than the oldest release emberd runs
//! is set only by [`super::super::version::Features`]. `fields.json` lists what each release
//! takes, from the definitions of its API description.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// `PUT /boot-source`. Firecracker opens the paths during the call.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct BootSource {
    pub(crate) kernel_image_path: PathBuf,
    pub(crate) initrd_path: PathBuf,
    /// At most 2,048 bytes with what Firecracker adds.
    pub(crate) boot_args: String,
}

/// `PUT /machine-config`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(crate) struct MachineConfig {
    pub(crate) vcpu_count: u8,
    pub(crate) mem_size_mib: u32,
}

/// `PUT /drives/{drive_id}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[expect(clippy::struct_field_names, reason = "the field is Firecracker's")]
pub(crate) struct Drive {
    pub(crate) drive_id: &'static str,
    pub(crate) path_on_host: PathBuf,
    pub(crate) is_root_device: bool,
    pub(crate) is_read_only: bool,
    pub(crate) io_engine: &'static str,
}

/// `PATCH /drives/{drive_id}`: Firecracker opens the file again, and tells the guest its size.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct DriveUpdate {
    pub(crate) drive_id: &'static str,
    pub(crate) path_on_host: &'static str,
}

/// `PUT /vsock`. Firecracker binds the socket during the call.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Vsock {
    pub(crate) guest_cid: u32,
    pub(crate) uds_path: &'static str,
}

/// `PUT /entropy`: a device without limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(crate) struct Entropy {}

/// `PUT /serial`, with a limiter since 1.16; what a guest writes faster is dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(crate) struct Serial {
    pub(crate) rate_limiter: TokenBucket,
}

/// So many tokens, refilled in so many milliseconds, after an initial burst.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(crate) struct TokenBucket {
    pub(crate) size: u64,
    pub(crate) refill_time: u64,
    pub(crate) one_time_burst: u64,
}

/// `PUT /actions`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(tag = "action_type")]
pub(crate) enum Action {
    InstanceStart,
}

/// `PATCH /vm`; requesting the present state succeeds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(tag = "state")]
pub(crate) enum VmState {
    Paused,
    Resumed,
}

/// `PUT /snapshot/create`, of a paused microVM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct SnapshotCreate {
    pub(crate) snapshot_type: &'static str,
    pub(crate) snapshot_path: &'static str,
    pub(crate) mem_file_path: &'static str,
}

/// `PUT /snapshot/load`, before any other configuration; the process exits when it fails.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct SnapshotLoad {
    pub(crate) snapshot_path: &'static str,
    pub(crate) mem_backend: MemoryBackend,
    pub(crate) resume_vm: bool,
}

/// Where a loaded microVM's memory comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct MemoryBackend {
    pub(crate) backend_type: &'static str,
    pub(crate) backend_path: &'static str,
}

/// Body of every refusal.
#[derive(Debug, Deserialize)]
pub(crate) struct Fault {
    pub(crate) fault_message: String,
}
