//! Processes: what is shown of them, what is told of them, what is told to them.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use emberd_proto::process::{SignalName, TtySize};
use emberd_proto::{ExecExit, ProcessSpec};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Largest WebSocket message a client may send, in bytes (1 MiB).
pub const WEBSOCKET_MESSAGE_BYTES_MAX: usize = 1 << 20;

/// Body of `POST /sandboxes/{id}/processes`.
pub type StartProcess = ProcessSpec;

/// A process of a sandbox, or what is remembered of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Process {
    /// Its number in the sandbox.
    pub pid: u32,
    /// Program and arguments; only arguments if it was started from code.
    pub argv: Vec<String>,
    /// Who it was asked to run as; absent for root.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Whether it has a terminal.
    pub tty: bool,
    /// When it was started, in milliseconds since the Unix epoch.
    pub started_at_ms: u64,
    /// Number of the next event there will be.
    pub next_event: u64,
    /// How it ended; absent while it runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit: Option<ExecExit>,
}

/// Answer to `GET /sandboxes/{id}/processes`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ProcessList {
    /// Every process that runs, and those that ended lately, by process id.
    pub processes: Vec<Process>,
}

/// Body of `POST …/signal`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SignalProcess {
    /// Which signal.
    pub signal: SignalName,
}

/// One thing that happened to a process: the `data` of a server-sent event, whose `id` is its
/// number; or a WebSocket message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ProcessEvent {
    /// Its number; one more than that of the event before it.
    pub id: u64,
    /// What happened.
    #[serde(flatten)]
    pub kind: ProcessEventKind,
}

/// What happened to a process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum ProcessEventKind {
    /// It runs.
    Started {
        /// Its number in the sandbox.
        pid: u32,
    },
    /// It wrote to standard output, or to its terminal.
    Stdout(Text),
    /// It wrote to standard error.
    Stderr(Text),
    /// It ended, or its sandbox did; nothing follows.
    Exit(ExecExit),
    /// Events from `first_missing` up to and with this one's number are kept no longer.
    Gap {
        /// The number of the first of them.
        first_missing: u64,
    },
    /// Something newer than this client.
    #[serde(other)]
    Other,
}

impl ProcessEventKind {
    /// Its name.
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

/// Bytes in JSON, which is Unicode: `text` is what they say with every invalid UTF-8 sequence
/// replaced by U+FFFD, and exactly when that changed something `base64` has them as they were.
/// A character is never cut in two between events.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Text {
    /// The bytes as text.
    pub text: String,
    /// The bytes as base64, present only when they are not valid UTF-8.
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

    /// The bytes. Falls back to the text when the base64 is damaged: the daemon sends no such.
    pub fn bytes(&self) -> Vec<u8> {
        let decoded = self.base64.as_deref().and_then(|base64| BASE64.decode(base64).ok());
        decoded.unwrap_or_else(|| self.text.clone().into_bytes())
    }
}

/// What a client says to a process over a WebSocket, as a text message. A binary message is
/// standard input as it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "say", rename_all = "snake_case")]
pub enum ProcessWord {
    /// Text for its standard input.
    Stdin {
        /// The text.
        text: String,
    },
    /// Its standard input ends; a terminal is sent Ctrl-D.
    StdinEnd,
    /// A signal for it and all it started.
    Signal(SignalProcess),
    /// Its terminal has another size.
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
    fn golden_events_and_words() {
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
        check(&ProcessWord::StdinEnd, r#"{"say":"stdin_end"}"#);
        check(
            &ProcessWord::Signal(SignalProcess { signal: SignalName::SigInt }),
            r#"{"say":"signal","signal":"SIGINT"}"#,
        );
        check(
            &ProcessWord::Resize(TtySize { cols: 80, rows: 24 }),
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
