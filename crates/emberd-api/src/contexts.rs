//! Contexts: interpreters that keep their variables between runs.

use std::borrow::Cow;

use emberd_proto::{EgressDenials, EgressDenied, Forms};
use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize};

/// State of a context.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum ContextState {
    /// The context waits for code to run.
    Idle,
    /// The context runs code.
    Busy,
    /// The interpreter has ended. A restart gives the context a new one, without its variables.
    Dead,
}

/// One context of a sandbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Context {
    /// Id of the context: `ctx_` and 12 hexadecimal digits.
    pub id: String,
    /// Language that the request named. Absent when it is the sandbox's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub language: Option<String>,
    /// First working directory that the request named. Absent when it is the user's home.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cwd: Option<String>,
    /// State of the context.
    pub state: ContextState,
    /// Why the interpreter has ended. Absent unless `state` is `dead`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Number of runs that the interpreter has begun.
    pub execution_count: u64,
    /// The next event of its runs has this number or a higher one.
    pub next_event: u64,
    /// When the request to create it arrived, in milliseconds since the Unix epoch.
    pub created_at_ms: u64,
}

/// All contexts of a sandbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct ContextList {
    /// All contexts, oldest first.
    pub contexts: Vec<Context>,
}

/// One event of a run: a line of JSON, or the data of a server-sent event whose name is the value
/// of `event`. The last event is `end`.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum RunEvent {
    /// The run began.
    #[cfg_attr(feature = "schema", schema(title = "RunStarted"))]
    Started {
        /// Number of runs of the interpreter, this one included.
        execution_count: u64,
    },
    /// The code wrote to standard output.
    #[cfg_attr(feature = "schema", schema(title = "RunStdout"))]
    Stdout {
        /// The output, with every invalid UTF-8 sequence replaced by U+FFFD.
        text: String,
    },
    /// The code wrote to standard error.
    #[cfg_attr(feature = "schema", schema(title = "RunStderr"))]
    Stderr {
        /// The output, with every invalid UTF-8 sequence replaced by U+FFFD.
        text: String,
    },
    /// The code displayed a value.
    #[cfg_attr(feature = "schema", schema(title = "RunDisplay"))]
    Display {
        /// The value in each of its forms, by MIME type. Text is a string, an image is base64,
        /// JSON is JSON.
        #[cfg_attr(feature = "schema", schema(value_type = BTreeMap<String, Value>))]
        data: Forms,
    },
    /// The last expression had a value.
    #[cfg_attr(feature = "schema", schema(title = "RunResult"))]
    Result {
        /// The value in each of its forms, by MIME type. Text is a string, an image is base64,
        /// JSON is JSON.
        #[cfg_attr(feature = "schema", schema(value_type = BTreeMap<String, Value>))]
        data: Forms,
    },
    /// The code failed.
    #[cfg_attr(feature = "schema", schema(title = "RunError"))]
    Error {
        /// Name of the exception's class. `ExitCode` for a shell. `ContextEnded` when the
        /// interpreter itself has ended, so that the context is dead.
        name: String,
        /// Message of the exception.
        value: String,
        /// The traceback as it is printed.
        traceback: String,
    },
    /// The run has ended.
    #[cfg_attr(feature = "schema", schema(title = "RunEnd"))]
    End {
        /// Number of runs of the interpreter, this one included.
        execution_count: u64,
        /// Whether the run reached its time limit.
        timed_out: bool,
        /// Whether output over 64 MiB, or a value over another limit, was dropped.
        truncated: bool,
        /// Time from `started` to the end, in microseconds.
        duration_us: u64,
        /// Denials of the network policy meanwhile.
        #[serde(flatten)]
        egress: EgressDenials,
    },
    /// The events from `first_missing` to this event's number are not kept any more. The stream of
    /// a run has none.
    #[cfg_attr(feature = "schema", schema(title = "RunGap"))]
    Gap {
        /// Number of the first event that is not kept any more.
        first_missing: u64,
    },
    /// An event that this version does not know.
    #[cfg_attr(feature = "schema", schema(title = "RunOther"))]
    Other,
}

impl RunEvent {
    /// Name of the event, as in JSON.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Started { .. } => "started",
            Self::Stdout { .. } => "stdout",
            Self::Stderr { .. } => "stderr",
            Self::Display { .. } => "display",
            Self::Result { .. } => "result",
            Self::Error { .. } => "error",
            Self::End { .. } => "end",
            Self::Gap { .. } => "gap",
            Self::Other => "other",
        }
    }
}

/// One event of a context's runs: a line of JSON, or the data of a server-sent event whose `id` is
/// the event's number.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct ContextEvent {
    /// Number of the event, higher than that of the event before it.
    pub id: u64,
    /// The event.
    #[serde(flatten)]
    pub event: RunEvent,
}

/// The fields of every kind of event. A derived `Deserialize` would read an event twice, by way of
/// a tree.
#[derive(Deserialize)]
struct Fields<'a> {
    id: Option<u64>,
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
    first_missing: Option<u64>,
    #[serde(default)]
    egress_denied: Vec<EgressDenied>,
    hint: Option<String>,
}

impl<'de> Deserialize<'de> for RunEvent {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Fields::deserialize(deserializer)?.event()
    }
}

impl<'de> Deserialize<'de> for ContextEvent {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let fields = Fields::deserialize(deserializer)?;
        let id = fields.id.ok_or_else(|| D::Error::missing_field("id"))?;
        Ok(Self { id, event: fields.event()? })
    }
}

impl Fields<'_> {
    fn event<E: Error>(self) -> Result<RunEvent, E> {
        let fields = self;
        let missing = E::missing_field;
        let execution_count = fields.execution_count.ok_or_else(|| missing("execution_count"));
        let text = fields.text.ok_or_else(|| missing("text"));
        let data = fields.data.ok_or_else(|| missing("data"));
        Ok(match &*fields.event {
            "started" => RunEvent::Started { execution_count: execution_count? },
            "stdout" => RunEvent::Stdout { text: text? },
            "stderr" => RunEvent::Stderr { text: text? },
            "display" => RunEvent::Display { data: data? },
            "result" => RunEvent::Result { data: data? },
            "error" => RunEvent::Error {
                name: fields.name.ok_or_else(|| missing("name"))?,
                value: fields.value.ok_or_else(|| missing("value"))?,
                traceback: fields.traceback.ok_or_else(|| missing("traceback"))?,
            },
            "end" => RunEvent::End {
                execution_count: execution_count?,
                timed_out: fields.timed_out.ok_or_else(|| missing("timed_out"))?,
                truncated: fields.truncated.ok_or_else(|| missing("truncated"))?,
                duration_us: fields.duration_us.ok_or_else(|| missing("duration_us"))?,
                egress: EgressDenials { egress_denied: fields.egress_denied, hint: fields.hint },
            },
            "gap" => RunEvent::Gap {
                first_missing: fields.first_missing.ok_or_else(|| missing("first_missing"))?,
            },
            _ => RunEvent::Other,
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
                    egress: EgressDenials::default(),
                },
                [
                    r#"{"event":"end","execution_count":1,"timed_out":true,"#,
                    r#""truncated":false,"#,
                ]
                .concat()
                    + r#""duration_us":2}"#,
            ),
            (RunEvent::Gap { first_missing: 3 }, r#"{"event":"gap","first_missing":3}"#.to_owned()),
        ] {
            assert_eq!(serde_json::to_string(&event).unwrap(), json);
            assert_eq!(serde_json::from_str::<RunEvent>(&json).unwrap(), event);
            let numbered = ContextEvent { id: 7, event };
            let json = format!("{{\"id\":7,{}", &json[1..]);
            assert_eq!(serde_json::to_string(&numbered).unwrap(), json);
            assert_eq!(serde_json::from_str::<ContextEvent>(&json).unwrap(), numbered);
        }
        assert!(
            serde_json::from_str::<ContextEvent>(r#"{"event":"gap","first_missing":3}"#).is_err()
        );
        let later = r#"{"event":"sing","data":{"a":1}}"#;
        assert_eq!(serde_json::from_str::<RunEvent>(later).unwrap(), RunEvent::Other);
        for json in [r#"{"event":"end"}"#, r#"{"event":"result","data":1}"#, r#"{"data":{}}"#] {
            assert!(serde_json::from_str::<RunEvent>(json).is_err(), "{json}");
        }
    }
}
