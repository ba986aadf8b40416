//! Contexts: interpreters that keep their variables between runs.
//!
//! A context is a process with one channel more: `Data` frames from the host are lines of JSON
//! for the interpreter, [`ContextCall`]; `Data` frames from the guest are its lines of JSON,
//! [`ContextEvent`]. What a run prints comes as `Stdout` and `Stderr` frames, in front of the
//! event that ends the run.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::exec::{SpecError, TIMEOUT_MS_MAX, check_words};
use crate::process::check_user;

/// Longest line of JSON from an interpreter, in bytes (32 MiB): a figure in several formats.
pub const CONTEXT_LINE_BYTES_MAX: usize = 32 << 20;

/// Most bytes of [`ContextCall`]s an interpreter may leave unread (64 MiB): one of the largest
/// code, JSON-escaped.
pub const CONTEXT_CALLS_BYTES_MAX: usize = 64 << 20;

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

/// What a context is asked to run.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct ContextRun {
    /// The code, at most 8 MiB.
    pub code: String,
    /// Time limit in milliseconds, 1 to 3,600,000, from its turn on; then it is interrupted, and
    /// killed with its context where that does not help. None when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_ms: Option<u64>,
}

impl ContextRun {
    /// Holds it against its limits.
    ///
    /// # Errors
    /// The first limit broken.
    pub fn check(&self) -> Result<(), SpecError> {
        check_words(&self.code, std::iter::empty(), &BTreeMap::new(), None)?;
        match self.timeout_ms {
            Some(timeout_ms) if timeout_ms == 0 || timeout_ms > TIMEOUT_MS_MAX => {
                Err(SpecError::Timeout(timeout_ms))
            }
            _ => Ok(()),
        }
    }
}

/// What an interpreter is told, one line of JSON each.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "call", rename_all = "snake_case")]
pub enum ContextCall {
    /// Runs code and answers with events, from [`ContextEvent::Started`] to
    /// [`ContextEvent::Done`]. Only between the two does it heed an interrupt.
    Run {
        /// The code.
        code: String,
    },
    /// Ends the run under way; said to an interpreter that is [`InterruptedBy::Call`].
    Interrupt,
}

/// What ends a run early. SIGINT goes to the interpreter's process group in each case, as from
/// a terminal: a program that the run has started is to hear of it, too.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum InterruptedBy {
    /// SIGINT, which never goes amiss.
    #[default]
    Signal,
    /// SIGINT, which may go amiss and is repeated until the run is over.
    RepeatedSignals,
    /// [`ContextCall::Interrupt`], beside signals that are repeated: a program that the run has
    /// just begun to start may not hear of one.
    Call,
}

/// What an interpreter says, one line of JSON each.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum ContextEvent {
    /// It is there: the first line, once.
    Ready,
    /// A run begins; from here on it can be interrupted.
    Started {
        /// How many runs there were, this one included.
        execution_count: u64,
        /// What ends it early.
        #[serde(default)]
        interrupted_by: InterruptedBy,
    },
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_what_interpreters_read_and_write() {
        let call = ContextCall::Run { code: "a\n\"".into() };
        let line = serde_json::to_string(&call).unwrap();
        assert_eq!(line, r#"{"call":"run","code":"a\n\""}"#);
        let line = r#"{"event":"started","execution_count":3}"#;
        let event: ContextEvent = serde_json::from_str(line).unwrap();
        let interrupted_by = InterruptedBy::Signal;
        assert_eq!(event, ContextEvent::Started { execution_count: 3, interrupted_by });
        assert!(serde_json::from_str::<ContextEvent>(r#"{"event":"sing"}"#).is_err());
    }

    #[test]
    fn limits_are_held() {
        let language = Some("py\0".to_owned());
        assert!(ContextSpec { language, ..ContextSpec::default() }.check().is_err());
        assert!(ContextSpec::default().check().is_ok());
        for (timeout_ms, valid) in [(0, false), (1, true), (TIMEOUT_MS_MAX + 1, false)] {
            let run = ContextRun { code: String::new(), timeout_ms: Some(timeout_ms) };
            assert_eq!(run.check().is_ok(), valid, "{timeout_ms}");
        }
    }
}
