//! Contexts: interpreters that keep their variables between runs.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

/// What a context is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ContextState {
    /// It waits for something to run.
    Idle,
    /// It runs.
    Busy,
    /// Its interpreter has ended; it can be restarted, with nothing of what it knew.
    Dead,
}

/// One context of a sandbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Context {
    /// `ctx_` and 12 hexadecimal digits.
    pub id: String,
    /// The language it was opened with; absent when it is the sandbox's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub language: Option<String>,
    /// The working directory it was opened with; absent when it is the user's home.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cwd: Option<String>,
    /// What it is doing.
    pub state: ContextState,
    /// Why its interpreter has ended; absent unless `state` is `dead`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// How many runs its interpreter has begun.
    pub execution_count: u64,
    /// When it was asked for, in milliseconds since the Unix epoch.
    pub created_at_ms: u64,
}

/// Answer to `GET /sandboxes/{id}/contexts`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ContextList {
    /// Every context, oldest first.
    pub contexts: Vec<Context>,
}

/// What happens during a run: one line of JSON each, or the data of one server-sent event, whose
/// name is then that of `event`. The last is `end`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum RunEvent {
    /// Its turn came.
    Started {
        /// How many runs there were, this one included.
        execution_count: u64,
    },
    /// It wrote to standard output.
    Stdout {
        /// What, with every invalid UTF-8 sequence replaced by U+FFFD.
        text: String,
    },
    /// It wrote to standard error.
    Stderr {
        /// What, with every invalid UTF-8 sequence replaced by U+FFFD.
        text: String,
    },
    /// It displayed something.
    Display {
        /// That in each of its forms, by MIME type: text as it is, images as base64, JSON as
        /// JSON.
        data: BTreeMap<String, Value>,
    },
    /// The value of its last expression.
    Result {
        /// That in each of its forms, by MIME type: text as it is, images as base64, JSON as
        /// JSON.
        data: BTreeMap<String, Value>,
    },
    /// It failed.
    Error {
        /// Name of the exception's class; `ExitCode` for a shell; `ContextEnded` when the
        /// interpreter itself has ended, and the context is dead.
        name: String,
        /// Its text.
        value: String,
        /// The traceback as printed.
        traceback: String,
    },
    /// It is over.
    End {
        /// How many runs there were, this one included.
        execution_count: u64,
        /// Whether it was ended at its time limit.
        timed_out: bool,
        /// Whether it said more than 64 MiB, and the rest was dropped.
        truncated: bool,
        /// From its turn to its end, in microseconds.
        duration_us: u64,
    },
    /// A kind of event newer than this code.
    #[serde(other)]
    Other,
}
