//! Errors of processes.

use emberd_proto::SpecError;

use crate::error::GuestError;

/// Why an operation on a process failed.
#[derive(Debug, thiserror::Error)]
pub enum ProcessError {
    /// The guest did not complete the operation.
    #[error(transparent)]
    Guest(#[from] GuestError),
    /// The process does not exist, or its record has been dropped.
    #[error("sandbox {sandbox} has no process {pid}, or has dropped its record")]
    Unknown {
        /// Which sandbox.
        sandbox: String,
        /// The process id asked for.
        pid: u32,
    },
    /// The limit of running processes is reached.
    #[error("the limit of {0} running processes is reached")]
    TooMany(usize),
    /// The guest could not start the program.
    #[error("the program could not be started: {0}")]
    NotStarted(String),
    /// The process has ended.
    #[error("process {0} has ended")]
    Ended(u32),
    /// The standard input has already been ended.
    #[error("the standard input of process {0} is closed")]
    StdinEnded(u32),
    /// The process has no terminal whose size could change.
    #[error("process {0} has no terminal")]
    NoTerminal(u32),
    /// A value breaks a limit.
    #[error(transparent)]
    Invalid(#[from] SpecError),
}
