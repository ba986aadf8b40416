//! Why a guest could not be talked to, and why an operation in it has no result.

use std::error::Error;
use std::io;
use std::time::Duration;

use emberd_proto::exec::STDIN_BYTES_MAX;
use emberd_proto::{FrameError, Refusal, SpecError};

/// Why a guest could not be talked to.
#[derive(Debug, thiserror::Error)]
pub enum ChannelError {
    /// No connection came about.
    #[error("no connection to the guest")]
    Connect(#[source] Box<dyn Error + Send + Sync>),
    /// The guest ended the connection in the middle of an operation.
    #[error("the guest closed its connection")]
    Closed,
    /// The connection failed.
    #[error("the connection to the guest failed")]
    Io(#[source] io::Error),
    /// What the guest sent is not a sequence of frames.
    #[error("the guest sent a malformed frame")]
    Frame(#[source] FrameError),
    /// The guest sent a frame that had no place there, or more than it may.
    #[error("the guest broke the protocol: {0}")]
    Protocol(&'static str),
    /// The guest answered that it will not.
    #[error("the guest refused the operation")]
    Refused(#[source] Refusal),
}

/// Why an operation in a guest has no result. How a program itself ended is never an error.
/// `guest` is the name of the sandbox.
#[derive(Debug, thiserror::Error)]
pub enum GuestError {
    /// The spec breaks a limit.
    #[error(transparent)]
    Invalid(#[from] SpecError),
    /// Standard input is too large.
    #[error("stdin is {0} bytes, over the limit of {STDIN_BYTES_MAX}")]
    StdinTooLarge(usize),
    /// The sandbox was deleted meanwhile.
    #[error("sandbox {guest} was deleted during the operation")]
    Deleted {
        /// Which guest.
        guest: String,
    },
    /// The microVM ended by itself.
    #[error("the microVM of sandbox {guest} is gone: {reason}")]
    Gone {
        /// Which guest.
        guest: String,
        /// How it ended.
        reason: String,
    },
    /// The guest did not answer in time; what was asked may or may not have been done.
    #[error("the guest of sandbox {guest} did not answer within {waited:?}")]
    Unresponsive {
        /// Which guest.
        guest: String,
        /// How long was waited.
        waited: Duration,
    },
    /// The guest said that it will not, or cannot.
    #[error("{}", .0.message)]
    Refused(Refusal),
    /// The guest could not be talked to; what was asked may or may not have been done.
    #[error("the guest of sandbox {guest} failed")]
    Failed {
        /// Which guest.
        guest: String,
        /// What it did.
        source: ChannelError,
    },
}
