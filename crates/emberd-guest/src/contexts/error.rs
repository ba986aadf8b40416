//! Why a context was not opened, or did not run.

use super::id::ContextId;
use crate::error::GuestError;

/// Most contexts of one sandbox. Each holds a connection, and memory of the guest.
pub const CONTEXTS_MAX: usize = 16;

/// Most runs of one context that wait for their turn.
pub(super) const RUNS_WAITING_MAX: usize = 16;

/// Why a context was not opened, or did not run.
#[derive(Debug, thiserror::Error)]
pub enum ContextError {
    /// The guest did not do it.
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
    /// The sandbox has as many contexts as it may.
    #[error("sandbox {0} has reached the limit of {CONTEXTS_MAX} contexts")]
    TooMany(String),
    /// As many runs as may wait do.
    #[error("context {0} has reached the limit of {RUNS_WAITING_MAX} waiting runs")]
    Busy(ContextId),
    /// Its interpreter has ended.
    #[error("context {context} is dead: {reason}")]
    Dead {
        /// Which context.
        context: ContextId,
        /// How it ended.
        reason: String,
    },
    /// Its interpreter did not get ready.
    #[error("the interpreter did not start: {0}")]
    Start(String),
}
