//! Contexts: interpreters that keep their variables between runs.
//!
//! A context is a process with an additional channel. `Data` frames from the host are lines of
//! JSON for the interpreter, [`ContextCall`]; `Data` frames from the guest are lines of JSON from
//! it, [`ContextEvent`]. Output of a run comes as `Stdout` and `Stderr` frames, before the event
//! that ends the run.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::exec::{IMAGE_BYTES_MAX, SpecError, TIMEOUT_MS_MAX, check_words};
use crate::forms::{Forms, FormsError};
use crate::json::{self, JsonLimits};
use crate::process::check_user;

/// Maximum length of a line of JSON from an interpreter, in bytes (32 MiB): a figure in several
/// formats.
pub const CONTEXT_LINE_BYTES_MAX: usize = 32 << 20;

/// Limits of a line of JSON from an interpreter: the depth that most JSON readers support, and
/// the length of numbers that Python reads. The number of values is not limited, because they are
/// not parsed into a tree.
pub const CONTEXT_LINE_LIMITS: JsonLimits =
    JsonLimits { depth_max: 128, values_max: usize::MAX, number_bytes_max: 4300 };

/// Maximum size of unread [`ContextCall`]s of an interpreter, in bytes (64 MiB): one with the
/// largest code, JSON-escaped.
pub const CONTEXT_CALLS_BYTES_MAX: usize = 64 << 20;

/// The context to create.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct ContextSpec {
    /// Language of the context. The sandbox's own when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub language: Option<String>,
    /// First working directory. The user's home when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cwd: Option<String>,
    /// Environment variables added to the sandbox's own.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// Name of the user to run as. Root when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
}

impl ContextSpec {
    /// Checks this spec against its limits.
    ///
    /// # Errors
    /// The first limit that is broken.
    pub fn check(&self) -> Result<(), SpecError> {
        let language = self.language.iter();
        check_words("", language, &self.env, self.cwd.as_deref())?;
        check_user(self.user.as_deref())
    }
}

/// The code that a context runs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct ContextRun {
    /// Program text, at most 8 MiB.
    pub code: String,
    /// Time limit in milliseconds, 1 to 3,600,000, counted from `started`. At the limit, the run is
    /// interrupted, and killed with its context if that has no effect. No limit when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_ms: Option<u64>,
    /// Largest PNG or JPEG image of a figure in bytes, 1 to 8,388,608: a Python context draws a
    /// larger figure again, with fewer dots per inch, and says so in its text. As large as a value
    /// may be when absent. Other images, and other languages, are left as they are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_image_bytes: Option<u64>,
}

impl ContextRun {
    /// Checks the run against its limits.
    ///
    /// # Errors
    /// The first limit that is broken.
    pub fn check(&self) -> Result<(), SpecError> {
        check_words(&self.code, std::iter::empty(), &BTreeMap::new(), None)?;
        match self.timeout_ms {
            Some(timeout_ms) if timeout_ms == 0 || timeout_ms > TIMEOUT_MS_MAX => {
                return Err(SpecError::Timeout(timeout_ms));
            }
            _ => {}
        }
        match self.max_image_bytes {
            Some(bytes) if bytes == 0 || bytes > IMAGE_BYTES_MAX => Err(SpecError::Image(bytes)),
            _ => Ok(()),
        }
    }
}

/// A call to an interpreter, one line of JSON each.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "call", rename_all = "snake_case")]
pub enum ContextCall {
    /// Runs code. The interpreter answers with events, from [`ContextEvent::Started`] to
    /// [`ContextEvent::Done`], and handles interrupts only between the two.
    Run {
        /// The code.
        code: String,
        /// The span that the run belongs to (`traceparent` of W3C Trace Context), which the
        /// interpreter has as the environment variable `TRACEPARENT` until its next run, unless
        /// it has one of its own. Interpreters of older packs ignore it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        traceparent: Option<String>,
        /// Largest image of a figure, in bytes: as text, because interpreters of packs that exist
        /// read no other values.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        max_image_bytes: Option<String>,
    },
    /// Ends the current run; sent to interpreters with [`InterruptedBy::Call`].
    Interrupt,
}

/// How a run is interrupted. In each case, SIGINT is sent to the interpreter's process group, as
/// by a terminal, so that programs started by the run get it too.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum InterruptedBy {
    /// SIGINT once, which is never lost.
    #[default]
    Signal,
    /// SIGINT, repeated until the run ends, because one may be lost.
    RepeatedSignals,
    /// [`ContextCall::Interrupt`], and repeated signals, because a program that the run is just
    /// starting may miss one.
    Call,
}

/// An event from an interpreter, one line of JSON each: an object whose `event` is the name of a
/// variant in lower case, and whose other members are its fields.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ContextEvent {
    /// The interpreter is ready: the first line, sent once.
    Ready,
    /// A run has started, and can be interrupted from now on.
    Started {
        /// Number of runs so far, including this one.
        execution_count: u64,
        /// How the run is interrupted.
        interrupted_by: InterruptedBy,
    },
    /// The value of the last expression.
    Result {
        /// The value in its forms, by MIME type.
        data: Forms,
    },
    /// A value that the run displayed.
    Display {
        /// The value in its forms, by MIME type.
        data: Forms,
    },
    /// The error that ended the run.
    Error {
        /// Name of the exception's class.
        name: String,
        /// Message of the exception.
        value: String,
        /// The traceback as printed.
        traceback: String,
    },
    /// The run has ended.
    Done {
        /// Number of runs so far, including this one.
        execution_count: u64,
    },
}

/// Why a line is not passed on as an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LineError {
    /// The line is over [`CONTEXT_LINE_LIMITS`], or the limits of [`Forms`].
    #[error("a line is over a limit")]
    Excess,
    /// The line is not an event.
    #[error("a line is not an event")]
    NoEvent,
}

/// Names of events.
#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum EventName {
    Ready,
    Started,
    Result,
    Display,
    Error,
    Done,
}

/// The fields of all events.
#[derive(Deserialize)]
struct Line<'a> {
    event: EventName,
    execution_count: Option<u64>,
    #[serde(default)]
    interrupted_by: InterruptedBy,
    #[serde(borrow)]
    data: Option<&'a RawValue>,
    name: Option<String>,
    value: Option<String>,
    traceback: Option<String>,
}

impl ContextEvent {
    /// Parses a line without its newline, after [`json::tame`]. The forms of a value share the
    /// line's memory.
    ///
    /// # Errors
    /// [`LineError`].
    pub fn parse(line: &Bytes) -> Result<Self, LineError> {
        json::check(line, CONTEXT_LINE_LIMITS).map_err(|_| LineError::Excess)?;
        let read: Line<'_> = serde_json::from_slice(line).map_err(|_| LineError::NoEvent)?;
        let execution_count = read.execution_count.ok_or(LineError::NoEvent);
        let data = || {
            let data = read.data.ok_or(LineError::NoEvent)?;
            Forms::parse(line.slice_ref(data.get().as_bytes())).map_err(|error| match error {
                FormsError::Excess => LineError::Excess,
                FormsError::Json(_) => LineError::NoEvent,
            })
        };
        Ok(match read.event {
            EventName::Ready => Self::Ready,
            EventName::Started => {
                let execution_count = execution_count?;
                Self::Started { execution_count, interrupted_by: read.interrupted_by }
            }
            EventName::Result => Self::Result { data: data()? },
            EventName::Display => Self::Display { data: data()? },
            EventName::Error => Self::Error {
                name: read.name.ok_or(LineError::NoEvent)?,
                value: read.value.ok_or(LineError::NoEvent)?,
                traceback: read.traceback.ok_or(LineError::NoEvent)?,
            },
            EventName::Done => Self::Done { execution_count: execution_count? },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_what_interpreters_read_and_write() {
        let run = |traceparent, max_image_bytes| ContextCall::Run {
            code: "a\n\"".into(),
            traceparent,
            max_image_bytes,
        };
        let line = serde_json::to_string(&run(None, None)).unwrap();
        assert_eq!(line, r#"{"call":"run","code":"a\n\""}"#);
        let line = serde_json::to_string(&run(Some("00-1".into()), Some("9".into()))).unwrap();
        let more = r#""traceparent":"00-1","max_image_bytes":"9""#;
        assert_eq!(line, format!(r#"{{"call":"run","code":"a\n\"",{more}}}"#));
        let line = r#"{"event":"started","execution_count":3}"#;
        let interrupted_by = InterruptedBy::Signal;
        assert_eq!(parse(line), Ok(ContextEvent::Started { execution_count: 3, interrupted_by }));
        let line = r#"{"data":{"text/plain": "a"},"event":"result","more":[{}]}"#;
        let Ok(ContextEvent::Result { data }) = parse(line) else { panic!("no result") };
        assert_eq!(&data.json()[..], br#"{"text/plain": "a"}"#);
        let line = r#"{"event":"error","name":"E","value":"\u00e9","traceback":"t"}"#;
        let Ok(ContextEvent::Error { value, .. }) = parse(line) else { panic!("no error") };
        assert_eq!(value, "é");
    }

    fn parse(line: &str) -> Result<ContextEvent, LineError> {
        ContextEvent::parse(&Bytes::copy_from_slice(line.as_bytes()))
    }

    #[test]
    fn what_is_no_event_is_told_from_what_is_too_much() {
        for line in [
            "",
            "{}",
            "[]",
            r#"{"event":"sing"}"#,
            r#"{"event":"done"}"#,
            r#"{"event":"done","execution_count":-1}"#,
            r#"{"event":"display"}"#,
            r#"{"event":"display","data":[]}"#,
            r#"{"event":"display","data":{"a":NaN}}"#,
            r#"{"event":"display","data":{"a":1}}}"#,
            r#"{"event":"display","data":{"a":1},"data":{}}"#,
            r#"{"event":"ready","event":"ready"}"#,
            r#"{"event":"error","name":"a","value":1,"traceback":""}"#,
            "{\"event\":\"display\",\"data\":{\"a\":\"\t\"}}",
        ] {
            assert_eq!(parse(line), Err(LineError::NoEvent), "{line}");
        }
        let of = |form: &str| format!(r#"{{"event":"display","data":{{"a":{form}}}}}"#);
        let nested = |depth: usize| of(&("[".repeat(depth) + &"]".repeat(depth)));
        assert!(parse(&nested(126)).is_ok());
        assert_eq!(parse(&nested(127)), Err(LineError::Excess));
        assert!(parse(&of(&"1".repeat(4300))).is_ok());
        assert_eq!(parse(&of(&"1".repeat(1_000_000))), Err(LineError::Excess));
        let name = "x".repeat(1 << 20);
        let line = format!(r#"{{"event":"display","data":{{"{name}":0}}}}"#);
        assert_eq!(parse(&line), Err(LineError::Excess));
    }

    #[test]
    fn forms_are_memory_of_their_line() {
        let line = Bytes::from_static(br#"{"event":"display","data":{"a":[1,2]}}"#);
        let Ok(ContextEvent::Display { data }) = ContextEvent::parse(&line) else { panic!() };
        assert!(line.as_ptr_range().contains(&data.json().as_ptr()));
    }

    #[test]
    fn limits_are_held() {
        let language = Some("py\0".to_owned());
        assert!(ContextSpec { language, ..ContextSpec::default() }.check().is_err());
        assert!(ContextSpec::default().check().is_ok());
        for (timeout_ms, valid) in [(0, false), (1, true), (TIMEOUT_MS_MAX + 1, false)] {
            let run = ContextRun {
                code: String::new(),
                timeout_ms: Some(timeout_ms),
                ..ContextRun::default()
            };
            assert_eq!(run.check().is_ok(), valid, "{timeout_ms}");
        }
        for (bytes, valid) in [(0, false), (1, true), (IMAGE_BYTES_MAX + 1, false)] {
            let run = ContextRun { max_image_bytes: Some(bytes), ..ContextRun::default() };
            assert_eq!(run.check().is_ok(), valid, "{bytes}");
        }
    }
}
