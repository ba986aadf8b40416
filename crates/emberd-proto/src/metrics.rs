//! Resource usage of a guest.

use serde::{Deserialize, Serialize};

/// Current resource usage, as reported by the guest.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Metrics {
    /// Time of the measurement, in milliseconds since the Unix epoch, by the guest's clock.
    pub time_ms: u64,
    /// Number of processors.
    pub cpu_count: u32,
    /// Share of all processors used since the last request for metrics, or since the guest
    /// started, in percent, 0 to 100.
    pub cpu_used_percent: f64,
    /// Total memory, in bytes.
    pub memory_total_bytes: u64,
    /// Memory that is not available to programs, in bytes.
    pub memory_used_bytes: u64,
    /// Memory for cached files, in bytes.
    pub memory_cached_bytes: u64,
    /// Space for files, in bytes.
    pub disk_total_bytes: u64,
    /// Used space, in bytes.
    pub disk_used_bytes: u64,
    /// Number of processes.
    pub process_count: u32,
    /// Time since the guest's kernel started, in milliseconds.
    pub uptime_ms: u64,
}
