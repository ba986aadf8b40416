//! Why a scenario failed.

use std::io;

use super::connection::CallError;
use super::daemon::StartError;
use super::interrupt::Interrupted;
use super::programs::ProgramError;

/// Why a scenario failed.
#[derive(Debug, thiserror::Error)]
pub enum MeasureError {
    /// There is no daemon to measure.
    #[error("no daemon to measure")]
    Start(#[from] StartError),
    /// A call failed.
    #[error("a call failed")]
    Call(#[from] CallError),
    /// A program cannot be measured.
    #[error(transparent)]
    Program(#[from] ProgramError),
    /// A step had an unexpected result.
    #[error("{what}: expected {expected}, not {seen}")]
    Unexpected {
        /// The step.
        what: String,
        /// The expected result.
        expected: String,
        /// The actual result.
        seen: String,
    },
    /// The daemon did not become idle between two iterations.
    #[error("the daemon did not become idle: {seen}")]
    Busy {
        /// The daemon's activity.
        seen: String,
    },
    /// The scenario cannot run here.
    #[error("{0}")]
    NotHere(&'static str),
    /// The run was interrupted.
    #[error(transparent)]
    Interrupted(#[from] Interrupted),
    /// The system refused an operation.
    #[error("cannot inspect the host")]
    Host(#[from] io::Error),
}
