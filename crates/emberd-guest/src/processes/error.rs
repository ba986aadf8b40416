//! Why a process was not started, or not reached.

use emberd_proto::SpecError;

use crate::error::GuestError;

/// Why a process was not started, or not reached.
#[derive(Debug, thiserror::Error)]
pub enum ProcessError {
    /// The guest did not do it.
    #[error(transparent)]
    Guest(#[from] GuestError),
    /// The sandbox has no such process, or no longer remembers it.
    #[error("sandbox {sandbox} has no process {pid}, or has dropped its record")]
    Unknown {
        /// Which sandbox.
        sandbox: String,
        /// The process id asked for.
        pid: u32,
    },
    /// As many run as may.
    #[error("the limit of {0} running processes is reached")]
    TooMany(usize),
    /// The guest could not start the program.
    #[error("the program could not be started: {0}")]
    NotStarted(String),
    /// It has ended.
    #[error("process {0} has ended")]
    Ended(u32),
    /// Its standard input was ended before.
    #[error("the standard input of process {0} is closed")]
    StdinEnded(u32),
    /// It has no terminal whose size could change.
    #[error("process {0} has no terminal")]
    NoTerminal(u32),
    /// A value breaks a limit.
    #[error(transparent)]
    Invalid(#[from] SpecError),
}
