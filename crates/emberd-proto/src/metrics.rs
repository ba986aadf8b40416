//! Metrics of a guest.

use serde::{Deserialize, Serialize};

/// Current use of a sandbox's machine, by its guest's own account.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Metrics {
    /// Time of the measurement by the guest's clock, in milliseconds since the Unix epoch.
    pub time_ms: u64,
    /// Number of processors.
    pub cpu_count: u32,
    /// Share of all processors that was in use since the previous request, or since the start, 0 to
    /// 100.
    pub cpu_used_percent: f64,
    /// Memory of the machine, in bytes.
    pub memory_total_bytes: u64,
    /// Memory that is not available to programs, in bytes.
    pub memory_used_bytes: u64,
    /// Memory for cached files, in bytes.
    pub memory_cached_bytes: u64,
    /// Space for files, in bytes.
    pub disk_total_bytes: u64,
    /// Space for files that is in use, in bytes.
    pub disk_used_bytes: u64,
    /// Number of processes.
    pub process_count: u32,
    /// Number of processes of callers: programs that run, and what they left behind. Interpreters
    /// of contexts, and what the language pack keeps ready, do not count; what a context started
    /// does. Absent where the agent of the image is older.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub program_count: Option<u32>,
    /// Time since the start of the guest's kernel, in milliseconds.
    pub uptime_ms: u64,
}
