//! What happens during a run in a context.

use std::time::Duration;

use bytes::Bytes;
use emberd_proto::Forms;

/// What happens during a run.
#[derive(Debug, Clone, PartialEq)]
pub enum RunEvent {
    /// Its turn came.
    Started {
        /// How many runs there were, this one included.
        execution_count: u64,
    },
    /// It wrote to standard output. No character is cut in two.
    Stdout(Bytes),
    /// It wrote to standard error, likewise.
    Stderr(Bytes),
    /// It displayed something, in these forms by MIME type.
    Display(Forms),
    /// The value of its last expression, in these forms by MIME type.
    Result(Forms),
    /// It failed.
    Error {
        /// Name of the exception's class; `ContextEnded` when the interpreter itself did.
        name: String,
        /// Its text.
        value: String,
        /// The traceback as printed.
        traceback: String,
    },
    /// It is over.
    End(RunEnd),
}

/// How a run ended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RunEnd {
    /// How many runs there were, this one included.
    pub execution_count: u64,
    /// Whether it was ended at its time limit.
    pub timed_out: bool,
    /// Whether something of what it said was over a limit, and was dropped.
    pub truncated: bool,
    /// From its turn to its end, by the host's clock.
    pub duration: Duration,
}
