//! Events of a run in a context.

use std::time::Duration;

use bytes::Bytes;
use emberd_proto::{EgressDenials, Forms};

/// One event of a run, with its number.
#[derive(Debug, Clone, PartialEq)]
pub struct NumberedEvent {
    /// Number of the event, higher than that of the event before it.
    pub seq: u64,
    /// The event itself.
    pub event: RunEvent,
}

/// One event of a run.
#[derive(Debug, Clone, PartialEq)]
pub enum RunEvent {
    /// The run has started.
    Started {
        /// Number of runs so far, including this one.
        execution_count: u64,
    },
    /// The code wrote to standard output. UTF-8 characters are not split.
    Stdout(Bytes),
    /// The code wrote to standard error. UTF-8 characters are not split.
    Stderr(Bytes),
    /// The code displayed a value, in these forms by MIME type.
    Display(Forms),
    /// The value of its last expression, in these forms by MIME type.
    Result(Forms),
    /// The code failed.
    Error {
        /// Name of the exception's class; `ContextEnded` when the interpreter itself did.
        name: String,
        /// Its text.
        value: String,
        /// The traceback as printed.
        traceback: String,
    },
    /// The run has ended.
    End(RunEnd),
    /// Events from `first_missing` up to and including this one's number are not kept. Only
    /// followers of a context are told this, and not the caller of a run.
    Gap {
        /// Number of the first missing event.
        first_missing: u64,
    },
}

/// How a run ended.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RunEnd {
    /// Number of runs so far, including this one.
    pub execution_count: u64,
    /// Whether the run was ended at its time limit.
    pub timed_out: bool,
    /// Whether output or an event exceeded a limit and was dropped.
    pub truncated: bool,
    /// From its start to its end, by the host's clock.
    pub duration: Duration,
    /// Destinations that the network policy denied to the sandbox meanwhile.
    pub egress: EgressDenials,
}
