//! Contexts: interpreters that keep their variables between runs.
//!
//! A context is a process with one channel more: `Data` frames from the host are lines of JSON
//! for the interpreter, [`ContextCall`]; `Data` frames from the guest are its lines of JSON,
//! [`ContextEvent`]. What a run prints comes as `Stdout` and `Stderr` frames, in front of the
//! event that ends the run.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::exec::{SpecError, check_words};
use crate::process::check_user;

/// Longest line of JSON from an interpreter, in bytes (32 MiB): a figure in several formats.
pub const CONTEXT_LINE_BYTES_MAX: usize = 32 << 20;

/// What a context is opened with.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct ContextSpec {
    /// Its language; the sandbox's own when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub language: Option<String>,
    /// Its first working directory; the user's home when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cwd: Option<String>,
    /// Environment variables added to the sandbox's own.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// Who it runs as, by name; root when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
}

impl ContextSpec {
    /// Holds this spec against its limits.
    ///
    /// # Errors
    /// The first limit broken.
    pub fn check(&self) -> Result<(), SpecError> {
        let language = self.language.iter();
        check_words("", language, &self.env, self.cwd.as_deref())?;
        check_user(self.user.as_deref())
    }
}

/// What an interpreter is told, one line of JSON each. It is interrupted by SIGINT.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "call", rename_all = "snake_case")]
pub enum ContextCall {
    /// Runs code and answers with events, the last of them [`ContextEvent::Done`].
    Run {
        /// The code.
        code: String,
    },
}

/// What an interpreter says, one line of JSON each.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum ContextEvent {
    /// It is there: the first line, once.
    Ready,
    /// The value of the last expression.
    Result {
        /// The value in each of its forms, by MIME type.
        data: BTreeMap<String, serde_json::Value>,
    },
    /// What a run displayed.
    Display {
        /// It in each of its forms, by MIME type.
        data: BTreeMap<String, serde_json::Value>,
    },
    /// What ended the run early.
    Error {
        /// Name of the exception's class.
        name: String,
        /// Its text.
        value: String,
        /// The traceback as printed.
        traceback: String,
    },
    /// The run is over.
    Done {
        /// How many runs there were, this one included.
        execution_count: u64,
    },
}
