//! Errors of connections to a guest and of operations in it.

use std::error::Error;
use std::io;
use std::time::Duration;

use emberd_proto::exec::STDIN_BYTES_MAX;
use emberd_proto::{FrameError, Refusal, SpecError};

/// Why communication with a guest failed.
#[derive(Debug, thiserror::Error)]
pub enum ChannelError {
    /// The connection could not be opened.
    #[error("no connection to the guest")]
    Connect(#[source] Box<dyn Error + Send + Sync>),
    /// The guest ended the connection in the middle of an operation.
    #[error("the guest closed its connection")]
    Closed,
    /// The connection failed.
    #[error("the connection to the guest failed")]
    Io(#[source] io::Error),
    /// The guest sent bytes that are not a sequence of frames.
    #[error("the guest sent a malformed frame")]
    Frame(#[source] FrameError),
    /// The guest sent an unexpected frame, or exceeded a limit.
    #[error("the guest broke the protocol: {0}")]
    Protocol(&'static str),
    /// The guest refused the operation.
    #[error("the guest refused the operation")]
    Refused(#[source] Refusal),
}

/// Why the programs of a guest are not limited.
#[derive(Debug, thiserror::Error)]
pub enum LimitsError {
    /// The guest cannot hold a limit, or its agent is older than such limits.
    #[error("{}", .0.message)]
    Unavailable(Refusal),
    /// The guest failed.
    #[error(transparent)]
    Guest(#[from] GuestError),
}

/// Why an operation in a guest failed. How a program itself ended is never an error.
/// `guest` is the name of the sandbox.
#[derive(Debug, thiserror::Error)]
pub enum GuestError {
    /// The spec breaks a limit.
    #[error(transparent)]
    Invalid(#[from] SpecError),
    /// Standard input is too large.
    #[error("stdin is {0} bytes, over the limit of {STDIN_BYTES_MAX}")]
    StdinTooLarge(usize),
    /// The sandbox was deleted during the operation.
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
    /// The guest did not answer in time; the operation may or may not have been carried out.
    #[error("the guest of sandbox {guest} did not answer within {waited:?}")]
    Unresponsive {
        /// Which guest.
        guest: String,
        /// How long was waited.
        waited: Duration,
    },
    /// The guest refused the operation, or could not carry it out.
    #[error("{}", .0.message)]
    Refused(Refusal),
    /// Communication with the guest failed; the operation may or may not have been carried out.
    #[error("the guest of sandbox {guest} failed")]
    Failed {
        /// Which guest.
        guest: String,
        /// How the guest failed.
        source: ChannelError,
    },
}
