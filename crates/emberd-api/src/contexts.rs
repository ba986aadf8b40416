//! Contexts: interpreters that keep their variables between runs.

use std::borrow::Cow;

use emberd_proto::Forms;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};
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
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
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
        #[schema(value_type = BTreeMap<String, Value>)]
        data: Forms,
    },
    /// The value of its last expression.
    Result {
        /// That in each of its forms, by MIME type: text as it is, images as base64, JSON as
        /// JSON.
        #[schema(value_type = BTreeMap<String, Value>)]
        data: Forms,
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
        /// Whether it said more than 64 MiB, or something that is over another limit, and that was
        /// dropped.
        truncated: bool,
        /// From its turn to its end, in microseconds.
        duration_us: u64,
    },
    /// A kind of event newer than this code.
    Other,
}

/// An event of any kind. Not the derived way, which reads an event twice, by way of a tree.
#[derive(Deserialize)]
struct Fields<'a> {
    #[serde(borrow)]
    event: Cow<'a, str>,
    execution_count: Option<u64>,
    text: Option<String>,
    data: Option<Forms>,
    name: Option<String>,
    value: Option<String>,
    traceback: Option<String>,
    timed_out: Option<bool>,
    truncated: Option<bool>,
    duration_us: Option<u64>,
}

impl<'de> Deserialize<'de> for RunEvent {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let fields = Fields::deserialize(deserializer)?;
        let missing = D::Error::missing_field;
        let execution_count = fields.execution_count.ok_or_else(|| missing("execution_count"));
        let text = fields.text.ok_or_else(|| missing("text"));
        let data = fields.data.ok_or_else(|| missing("data"));
        Ok(match &*fields.event {
            "started" => Self::Started { execution_count: execution_count? },
            "stdout" => Self::Stdout { text: text? },
            "stderr" => Self::Stderr { text: text? },
            "display" => Self::Display { data: data? },
            "result" => Self::Result { data: data? },
            "error" => Self::Error {
                name: fields.name.ok_or_else(|| missing("name"))?,
                value: fields.value.ok_or_else(|| missing("value"))?,
                traceback: fields.traceback.ok_or_else(|| missing("traceback"))?,
            },
            "end" => Self::End {
                execution_count: execution_count?,
                timed_out: fields.timed_out.ok_or_else(|| missing("timed_out"))?,
                truncated: fields.truncated.ok_or_else(|| missing("truncated"))?,
                duration_us: fields.duration_us.ok_or_else(|| missing("duration_us"))?,
            },
            _ => Self::Other,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_read_as_they_were_written() {
        let data: Forms = serde_json::from_str(r#"{"text/plain": "a", "b": [1, {}]}"#).unwrap();
        let text = || "é\n".to_owned();
        for (event, json) in [
            (
                RunEvent::Started { execution_count: 1 },
                r#"{"event":"started","execution_count":1}"#.to_owned(),
            ),
            (RunEvent::Stdout { text: text() }, r#"{"event":"stdout","text":"é\n"}"#.to_owned()),
            (RunEvent::Stderr { text: text() }, r#"{"event":"stderr","text":"é\n"}"#.to_owned()),
            (
                RunEvent::Display { data: data.clone() },
                r#"{"event":"display","data":{"text/plain": "a", "b": [1, {}]}}"#.to_owned(),
            ),
            (
                RunEvent::Result { data },
                r#"{"event":"result","data":{"text/plain": "a", "b": [1, {}]}}"#.to_owned(),
            ),
            (
                RunEvent::Error { name: "E".into(), value: "v".into(), traceback: "t".into() },
                r#"{"event":"error","name":"E","value":"v","traceback":"t"}"#.to_owned(),
            ),
            (
                RunEvent::End {
                    execution_count: 1,
                    timed_out: true,
                    truncated: false,
                    duration_us: 2,
                },
                [
                    r#"{"event":"end","execution_count":1,"timed_out":true,"#,
                    r#""truncated":false,"#,
                ]
                .concat()
                    + r#""duration_us":2}"#,
            ),
        ] {
            assert_eq!(serde_json::to_string(&event).unwrap(), json);
            assert_eq!(serde_json::from_str::<RunEvent>(&json).unwrap(), event);
        }
        let later = r#"{"event":"sing","data":{"a":1}}"#;
        assert_eq!(serde_json::from_str::<RunEvent>(later).unwrap(), RunEvent::Other);
        for json in [r#"{"event":"end"}"#, r#"{"event":"result","data":1}"#, r#"{"data":{}}"#] {
            assert!(serde_json::from_str::<RunEvent>(json).is_err(), "{json}");
        }
    }
}
