//! Processes: their state, their events, and the messages to them.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use emberd_proto::process::{SignalName, TtySize};
use emberd_proto::{ExecExit, ProcessSpec};
use serde::{Deserialize, Serialize};

/// Largest WebSocket message a client may send, in bytes (1 MiB).
pub const WEBSOCKET_MESSAGE_BYTES_MAX: usize = 1 << 20;

/// Body of `POST /sandboxes/{id}/processes`.
pub type StartProcess = ProcessSpec;

/// A process of a sandbox, running or ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Process {
    /// Process id in the sandbox.
    pub pid: u32,
    /// Program and arguments. Arguments only, if the process was started from code.
    pub argv: Vec<String>,
    /// User that the request named. Absent for root.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Whether the process has a terminal.
    pub tty: bool,
    /// When the process was started, in milliseconds since the Unix epoch.
    pub started_at_ms: u64,
    /// Number of the next event.
    pub next_event: u64,
    /// How the process ended. Absent while it runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit: Option<ExecExit>,
}

/// Processes of a sandbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct ProcessList {
    /// Processes that run, and those that ended recently, sorted by process id.
    pub processes: Vec<Process>,
}

/// The signal to send.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct SignalProcess {
    /// Name of the signal.
    pub signal: SignalName,
}

/// One event of a process: the data of a server-sent event whose `id` is the event's number, or a
/// WebSocket message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct ProcessEvent {
    /// Number of the event: one more than that of the event before it.
    pub id: u64,
    /// Kind of the event, with its data.
    #[serde(flatten)]
    pub kind: ProcessEventKind,
}

/// Kind of an event.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum ProcessEventKind {
    /// The process runs.
    #[cfg_attr(feature = "schema", schema(title = "ProcessStarted"))]
    Started {
        /// Process id in the sandbox.
        pid: u32,
    },
    /// The process wrote to standard output, or to its terminal.
    #[cfg_attr(feature = "schema", schema(title = "ProcessStdout"))]
    Stdout(Text),
    /// The process wrote to standard error.
    #[cfg_attr(feature = "schema", schema(title = "ProcessStderr"))]
    Stderr(Text),
    /// The process ended, or its sandbox did. No event follows.
    #[cfg_attr(feature = "schema", schema(title = "ProcessExit"))]
    Exit(ExecExit),
    /// The events from `first_missing` to this event's number are not kept any more.
    #[cfg_attr(feature = "schema", schema(title = "ProcessGap"))]
    Gap {
        /// Number of the first event that is not kept any more.
        first_missing: u64,
    },
    /// An event that this version does not know.
    #[serde(other)]
    #[cfg_attr(feature = "schema", schema(title = "ProcessOther"))]
    Other,
}

impl ProcessEventKind {
    /// Name of the kind, as in JSON.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Started { .. } => "started",
            Self::Stdout(_) => "stdout",
            Self::Stderr(_) => "stderr",
            Self::Exit(_) => "exit",
            Self::Gap { .. } => "gap",
            Self::Other => "other",
        }
    }
}

/// Bytes in JSON, which is Unicode. `text` has every invalid UTF-8 sequence replaced by U+FFFD;
/// exactly when that changed something, `base64` has the bytes themselves. A character is never
/// cut in two between events.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Text {
    /// The bytes as text.
    pub text: String,
    /// The bytes as base64. Absent when they are valid UTF-8.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base64: Option<String>,
}

impl Text {
    /// The text of `bytes`.
    pub fn new(bytes: &[u8]) -> Self {
        let (text, base64) = match std::str::from_utf8(bytes) {
            Ok(text) => (text.to_owned(), None),
            Err(_) => (String::from_utf8_lossy(bytes).into_owned(), Some(BASE64.encode(bytes))),
        };
        Self { text, base64 }
    }

    /// The bytes; those of the text if the base64 is damaged, as the daemon never sends it.
    pub fn bytes(&self) -> Vec<u8> {
        let decoded = self.base64.as_deref().and_then(|base64| BASE64.decode(base64).ok());
        decoded.unwrap_or_else(|| self.text.clone().into_bytes())
    }
}

/// A text message to a process over its WebSocket. A binary message is standard input,
/// unchanged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(tag = "say", rename_all = "snake_case")]
pub enum ProcessMessage {
    /// Writes text to standard input.
    #[cfg_attr(feature = "schema", schema(title = "ProcessMessageStdin"))]
    Stdin {
        /// The text.
        text: String,
    },
    /// Ends standard input. A terminal receives Ctrl-D.
    #[cfg_attr(feature = "schema", schema(title = "ProcessMessageStdinEnd"))]
    StdinEnd,
    /// Sends a signal to the process and all it started.
    #[cfg_attr(feature = "schema", schema(title = "ProcessMessageSignal"))]
    Signal(SignalProcess),
    /// Changes the size of the terminal.
    #[cfg_attr(feature = "schema", schema(title = "ProcessMessageResize"))]
    Resize(TtySize),
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check<T>(value: &T, json: &str)
    where
        T: Serialize + serde::de::DeserializeOwned + PartialEq + std::fmt::Debug,
    {
        assert_eq!(serde_json::to_string(value).unwrap(), json);
        assert_eq!(&serde_json::from_str::<T>(json).unwrap(), value);
    }

    #[test]
    fn golden_events_and_messages() {
        let event = |kind| ProcessEvent { id: 7, kind };
        check(
            &event(ProcessEventKind::Started { pid: 3 }),
            r#"{"id":7,"event":"started","pid":3}"#,
        );
        check(
            &event(ProcessEventKind::Stdout(Text::new("é".as_bytes()))),
            r#"{"id":7,"event":"stdout","text":"é"}"#,
        );
        check(
            &event(ProcessEventKind::Stderr(Text::new(b"a\xff"))),
            "{\"id\":7,\"event\":\"stderr\",\"text\":\"a\u{fffd}\",\"base64\":\"Yf8=\"}",
        );
        check(
            &event(ProcessEventKind::Gap { first_missing: 2 }),
            r#"{"id":7,"event":"gap","first_missing":2}"#,
        );
        check(&ProcessMessage::StdinEnd, r#"{"say":"stdin_end"}"#);
        check(
            &ProcessMessage::Signal(SignalProcess { signal: SignalName::SigInt }),
            r#"{"say":"signal","signal":"SIGINT"}"#,
        );
        check(
            &ProcessMessage::Resize(TtySize { cols: 80, rows: 24 }),
            r#"{"say":"resize","cols":80,"rows":24}"#,
        );
    }

    #[test]
    fn bytes_survive() {
        for bytes in [&b""[..], b"text", b"\xff\0a", b"\xe2\x82"] {
            assert_eq!(Text::new(bytes).bytes(), bytes);
        }
    }
}
