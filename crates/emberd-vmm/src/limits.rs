//! Limits of a running microVM that can be changed while it runs.

use std::io;
use std::path::PathBuf;

/// Processor time of one microVM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CpuLimits {
    /// Most processor time, in per cent of one processor: 1 to 100 for each virtual processor.
    pub percent: u32,
    /// Share beside other microVMs when processors are short: 1 to 10,000; 100 is usual
    /// (`cpu.weight` of `Documentation/admin-guide/cgroup-v2.rst`).
    pub weight: u32,
}

/// Why a limit is not in force.
#[derive(Debug, thiserror::Error)]
pub enum LimitError {
    /// The host, or the way in which VMMs are started, has no such limit.
    #[error("the processor time of sandboxes cannot be limited here: {0}")]
    Unavailable(String),
    /// The kernel refused it.
    #[error("cannot write {}", path.display())]
    Refused {
        /// File of the limit.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}
