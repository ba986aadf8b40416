//! What a guest uses of its machine.

use serde::{Deserialize, Serialize};

/// What the guest uses at the moment, by its own account.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Metrics {
    /// When, in milliseconds since the Unix epoch, by the guest's clock.
    pub time_ms: u64,
    /// Its processors.
    pub cpu_count: u32,
    /// Share of all its processors in use since the last time somebody asked, or since it
    /// started, 0 to 100.
    pub cpu_used_percent: f64,
    /// All its memory, in bytes.
    pub memory_total_bytes: u64,
    /// Memory that programs could not have, in bytes.
    pub memory_used_bytes: u64,
    /// Memory that holds cached files, in bytes.
    pub memory_cached_bytes: u64,
    /// Room for files, in bytes.
    pub disk_total_bytes: u64,
    /// Of it in use, in bytes.
    pub disk_used_bytes: u64,
    /// Processes.
    pub process_count: u32,
    /// Time since the guest's kernel started, in milliseconds.
    pub uptime_ms: u64,
}
