//! One run in a context, as its caller sees it: events, the last of them [`RunEvent::End`].

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde_json::Value;
use tokio::sync::mpsc;

use super::life::Status;

/// Name of the error a run has that lost its interpreter.
const CONTEXT_ENDED: &str = "ContextEnded";

/// What happens during a run.
#[derive(Debug, Clone, PartialEq)]
pub enum RunEvent {
    /// Its turn came.
    Started {
        /// How many runs there were, this one included.
        execution_count: u64,
    },
    /// It wrote to standard output.
    Stdout(Bytes),
    /// It wrote to standard error.
    Stderr(Bytes),
    /// It displayed something, in these forms by MIME type.
    Display(BTreeMap<String, Value>),
    /// The value of its last expression, in these forms by MIME type.
    Result(BTreeMap<String, Value>),
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
    /// Whether what it said was more than a run may say, and the rest was dropped.
    pub truncated: bool,
    /// From its turn to its end, by the host's clock.
    pub duration: Duration,
}

/// A run under way, or waiting for its turn. Dropping it before its end interrupts it.
pub struct Run {
    events: mpsc::Receiver<RunEvent>,
    status: Arc<Status>,
    /// What is left to tell once the interpreter is lost.
    end: Option<RunEnd>,
    over: bool,
}

impl Run {
    pub(super) fn new(events: mpsc::Receiver<RunEvent>, status: Arc<Status>) -> Self {
        Self { events, status, end: None, over: false }
    }

    /// The next event; `None` after [`RunEvent::End`]. Cancel safe.
    pub async fn next(&mut self) -> Option<RunEvent> {
        if self.over {
            return None;
        }
        if let Some(end) = self.end.take() {
            self.over = true;
            return Some(RunEvent::End(end));
        }
        if let Some(event) = self.events.recv().await {
            self.over = matches!(event, RunEvent::End(_));
            return Some(event);
        }
        // The interpreter is gone, and with it whoever would have said how the run ended.
        let (reason, end) = self.status.last_words();
        self.end = Some(end);
        let (name, traceback) = (CONTEXT_ENDED.to_owned(), format!("{CONTEXT_ENDED}: {reason}"));
        Some(RunEvent::Error { name, value: reason, traceback })
    }
}
