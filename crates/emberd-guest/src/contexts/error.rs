//! Errors of contexts.

use super::id::ContextId;
use crate::error::GuestError;

/// Most contexts of one sandbox. Each holds a connection, and memory of the guest.
pub const CONTEXTS_MAX: usize = 16;

/// Most runs of one context that wait to start.
pub(super) const RUNS_WAITING_MAX: usize = 16;

/// Why an operation on a context failed.
#[derive(Debug, thiserror::Error)]
pub enum ContextError {
    /// The guest did not complete the operation.
    #[error(transparent)]
    Guest(#[from] GuestError),
    /// The sandbox has no such context.
    #[error("sandbox {sandbox} has no context {context}")]
    Unknown {
        /// Which sandbox.
        sandbox: String,
        /// Which context.
        context: ContextId,
    },
    /// The limit of contexts is reached.
    #[error("sandbox {0} has reached the limit of {CONTEXTS_MAX} contexts")]
    TooMany(String),
    /// The limit of waiting runs is reached.
    #[error("context {0} has reached the limit of {RUNS_WAITING_MAX} waiting runs")]
    Busy(ContextId),
    /// The context's interpreter has ended.
    #[error("context {context} is dead: {reason}")]
    Dead {
        /// Which context.
        context: ContextId,
        /// How it ended.
        reason: String,
    },
    /// The interpreter did not become ready.
    #[error("the interpreter did not start: {0}")]
    Start(String),
}
