//! The resources of a microVM, with Firecracker's field names. Request bodies, the configuration
//! file, `GET /vm/config` and the state file all use these types.
//!
//! Unknown fields are refused where firecracker's `vmm_config/` refuses them
//! (`deny_unknown_fields`), which is almost everywhere. reference §1.1.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::log::Level;

/// Everything that is saved in a snapshot, in the format of `GET /vm/config`. Devices that the
/// double does not emulate are listed as absent.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Resources {
    balloon: Absent,
    /// Block devices in guest order.
    pub drives: Vec<Drive>,
    /// Kernel, initrd and arguments; the path is empty before it is set.
    pub boot_source: BootSource,
    cpu_config: Absent,
    logger: Absent,
    /// Processors and memory.
    pub machine_config: MachineConfig,
    metrics: Absent,
    mmds_config: Absent,
    network_interfaces: [(); 0],
    /// The guest's socket device.
    pub vsock: Option<Vsock>,
    /// The random number device.
    pub entropy: Option<Entropy>,
    pmem: [(); 0],
    memory_hotplug: Absent,
}

/// Always null.
type Absent = Option<()>;

/// `PUT /boot-source`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BootSource {
    /// ELF kernel.
    pub kernel_image_path: PathBuf,
    /// Initial root file system.
    pub initrd_path: Option<PathBuf>,
    /// Kernel arguments, at most 2,048 bytes.
    pub boot_args: Option<String>,
}

/// `PUT /machine-config`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MachineConfig {
    /// 1 to 32.
    pub vcpu_count: u8,
    /// Guest memory in MiB.
    pub mem_size_mib: u32,
    /// Whether there are two threads per core.
    #[serde(default)]
    pub smt: bool,
    /// Deprecated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_template: Option<String>,
    /// Whether snapshots can be differences.
    #[serde(default)]
    pub track_dirty_pages: bool,
    /// Size of the pages of guest memory.
    #[serde(default)]
    pub huge_pages: HugePages,
}

impl Default for MachineConfig {
    fn default() -> Self {
        Self {
            vcpu_count: 1,
            mem_size_mib: 128,
            smt: false,
            track_dirty_pages: false,
            huge_pages: HugePages::None,
            cpu_template: None,
        }
    }
}

/// `PATCH /machine-config`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MachineConfigUpdate {
    vcpu_count: Option<u8>,
    mem_size_mib: Option<u32>,
    smt: Option<bool>,
    track_dirty_pages: Option<bool>,
    huge_pages: Option<HugePages>,
    cpu_template: Option<String>,
}

impl MachineConfigUpdate {
    /// Returns whether no field is set.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Returns `config` with the given fields replaced.
    pub fn applied_to(self, config: &MachineConfig) -> MachineConfig {
        MachineConfig {
            vcpu_count: self.vcpu_count.unwrap_or(config.vcpu_count),
            mem_size_mib: self.mem_size_mib.unwrap_or(config.mem_size_mib),
            smt: self.smt.unwrap_or(config.smt),
            track_dirty_pages: self.track_dirty_pages.unwrap_or(config.track_dirty_pages),
            huge_pages: self.huge_pages.unwrap_or(config.huge_pages),
            cpu_template: self.cpu_template.or_else(|| config.cpu_template.clone()),
        }
    }
}

/// Size of the pages of guest memory.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum HugePages {
    /// 4 KiB.
    #[default]
    None,
    /// 2 MiB if the host has them; since 1.17.
    Transparent,
    /// 2 MiB from the host's pool.
    #[serde(rename = "2M")]
    Hugetlbfs2M,
}

/// `PUT /drives/{id}`.
#[allow(clippy::struct_field_names, reason = "the fields are Firecracker's")]
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Drive {
    /// Letters, digits and underscores; the same as in the path.
    pub drive_id: String,
    /// Partition to boot from.
    pub partuuid: Option<String>,
    /// Whether it is `/dev/vda` and the root device on the kernel's command line.
    pub is_root_device: bool,
    /// Handling of the guest's flushes.
    #[serde(default)]
    pub cache_type: CacheType,
    /// Whether the drive is read-only.
    pub is_read_only: Option<bool>,
    /// Path of the file.
    pub path_on_host: Option<PathBuf>,
    /// Rate limits.
    pub rate_limiter: Option<RateLimiter>,
    /// I/O engine.
    pub io_engine: Option<IoEngine>,
    /// Socket of a vhost-user backend, instead of a file.
    pub socket: Option<PathBuf>,
}

/// Handling of the guest's flushes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum CacheType {
    /// Ignored.
    #[default]
    Unsafe,
    /// Executed.
    Writeback,
}

/// I/O engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum IoEngine {
    /// `io_uring`.
    Async,
    /// Synchronous, in the VMM's thread.
    Sync,
}

/// `PATCH /drives/{id}`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DriveUpdate {
    /// The same as in the path.
    pub drive_id: String,
    /// New path.
    pub path_on_host: Option<PathBuf>,
    /// New rate limits.
    pub rate_limiter: Option<RateLimiter>,
}

/// Rate limits of a device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RateLimiter {
    bandwidth: Option<TokenBucket>,
    ops: Option<TokenBucket>,
}

/// One limit; unknown fields are ignored here, in Firecracker too.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenBucket {
    size: u64,
    one_time_burst: Option<u64>,
    refill_time: u64,
}

/// `PUT /vsock`.
#[allow(clippy::struct_field_names, reason = "the fields are Firecracker's")]
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Vsock {
    /// Deprecated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vsock_id: Option<String>,
    /// The guest's CID; not visible on the host.
    pub guest_cid: u32,
    /// Path of the host's socket.
    pub uds_path: PathBuf,
}

/// `PUT /entropy`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entropy {
    rate_limiter: Option<RateLimiter>,
}

/// `PUT /logger`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Logger {
    /// Path of the log.
    pub log_path: Option<PathBuf>,
    /// Level.
    pub level: Option<Level>,
    /// Whether a line shows its level.
    pub show_level: Option<bool>,
    /// Accepted without effect.
    pub show_log_origin: Option<bool>,
    /// Accepted without effect.
    pub module: Option<String>,
}

/// `PUT /metrics`; unknown fields are ignored here, in Firecracker too.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Metrics {
    /// Path of the file, which is opened but never written.
    pub metrics_path: PathBuf,
}

/// `PUT /serial`, since 1.14.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Serial {
    /// Accepted; the double's guest has no serial console.
    pub serial_out_path: Option<PathBuf>,
    /// Since 1.16.
    pub rate_limiter: Option<TokenBucket>,
}

/// `PUT /snapshot/create`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CreateSnapshot {
    /// Full or differential.
    #[serde(default)]
    pub snapshot_type: SnapshotType,
    /// State file to write.
    pub snapshot_path: PathBuf,
    /// Memory file to write.
    pub mem_file_path: PathBuf,
    /// Since 1.18.
    #[serde(default)]
    pub sync_snapshot_files: Option<bool>,
}

/// Which part of the memory a snapshot contains.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
pub enum SnapshotType {
    /// Changed pages.
    Diff,
    /// All pages.
    #[default]
    Full,
}

/// `PUT /snapshot/load`.
#[allow(clippy::struct_excessive_bools, reason = "the fields are Firecracker's")]
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LoadSnapshot {
    /// State file.
    pub snapshot_path: PathBuf,
    /// Deprecated.
    pub mem_file_path: Option<PathBuf>,
    /// Source of the memory.
    pub mem_backend: Option<MemoryBackend>,
    /// Deprecated.
    #[serde(default)]
    pub enable_diff_snapshots: bool,
    /// Whether later snapshots can be differences.
    #[serde(default)]
    pub track_dirty_pages: bool,
    /// Whether to resume the guest at once.
    #[serde(default)]
    pub resume_vm: bool,
    /// Replacements of tap devices.
    #[serde(default)]
    pub network_overrides: Vec<NetworkOverride>,
    /// Replacement of the host's socket; since 1.16.
    pub vsock_override: Option<VsockOverride>,
    /// Whether to set the guest's wall clock; since 1.16.
    #[serde(default)]
    pub clock_realtime: bool,
    /// Size of the pages of guest memory; since 1.17.
    pub huge_pages: Option<LoadHugePages>,
}

/// Source of the memory.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MemoryBackend {
    /// The memory file, or the socket of a page fault handler.
    pub backend_path: PathBuf,
    /// The type of the source.
    pub backend_type: MemoryBackendType,
}

/// Type of a memory source.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub enum MemoryBackendType {
    /// A memory file.
    File,
    /// A page fault handler in another process.
    Uffd,
}

/// Replacement of an interface's tap device.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct NetworkOverride {
    /// The interface.
    pub iface_id: String,
    /// Its tap device.
    pub host_dev_name: String,
}

/// Replacement of the host's socket.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct VsockOverride {
    /// The socket.
    pub uds_path: PathBuf,
}

/// Size of the pages of a restored guest's memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub enum LoadHugePages {
    /// As in the snapshot.
    Snapshot,
    /// 4 KiB.
    None,
    /// 2 MiB if the host has them.
    Transparent,
    /// 2 MiB from the host's pool.
    #[serde(rename = "2M")]
    Hugetlbfs2M,
}

/// `PATCH /vm`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VmUpdate {
    /// The new state.
    pub state: VmState,
}

/// State of a guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub enum VmState {
    /// Stop.
    Paused,
    /// Running.
    Resumed,
}

/// `PUT /actions`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ActionBody {
    /// The action.
    pub action_type: ActionType,
}

/// An action.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub enum ActionType {
    /// Flushes the metrics.
    FlushMetrics,
    /// Starts the guest.
    InstanceStart,
    /// Sends Ctrl-Alt-Del.
    SendCtrlAltDel,
}
