//! Size of a sandbox, and templates of a size.

use serde::{Deserialize, Serialize};

/// Size of a sandbox. What is absent is the daemon's default.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(default)]
pub struct Resources {
    /// Number of virtual processors: 1 to as many as the host has, at most 32.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vcpus: Option<u64>,
    /// Memory, in MiB: an even number from 64 to the limit of the daemon.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_mib: Option<u64>,
    /// Most processor time, in per cent of one processor: 1 to 100 for each virtual processor,
    /// which is the default. It can be changed later.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_percent: Option<u64>,
    /// Share of processor time beside other sandboxes when processors are short: 1 to 10,000, by
    /// default 100. It can be changed later.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_weight: Option<u64>,
    /// Size of its own disk, in MiB: 64 to the limit of the daemon (`--disk-max-mib`). A sandbox
    /// with a smaller one than the default (`--disk-mib`) boots cold.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disk_mib: Option<u64>,
    /// Most processes and threads of all programs together: 16 to 65,536, by default 4,096. Beyond
    /// it programs cannot start others. An exec has a limit of its own besides (`limits.pids`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pids: Option<u64>,
}

impl Resources {
    /// Whether everything is the daemon's default.
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }
}

/// A template to build and to keep. A size that is absent is the daemon's default.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(default)]
pub struct BuildTemplate {
    /// Number of virtual processors.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vcpus: Option<u64>,
    /// Memory, in MiB.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_mib: Option<u64>,
    /// Number of microVMs of this size to keep ready: 0 to 256. As before when absent, and 0 at
    /// first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pool_size: Option<u64>,
}
