//! What a daemon writes into the guest about a process or context, for the daemon after it.
//!
//! The guest returns it, and may return anything.

use std::time::{Duration, SystemTime};

use emberd_proto::message::NOTE_BYTES_MAX;
use emberd_proto::{ContextSpec, InterruptedBy, ProcessSpec};
use serde::{Deserialize, Serialize};

/// Longest note about a process, in bytes (16 KiB): there are hundreds of them.
const PROCESS_BYTES_MAX: usize = 16 << 10;

/// Most bytes of arguments in a note that would be too long. JSON makes up to six of one.
const ARGV_BYTES_MAX: usize = PROCESS_BYTES_MAX / 8;

/// A note.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Note {
    Process(ProcessNote),
    Context(ContextNote),
}

/// Start parameters of a process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ProcessNote {
    pub argv: Vec<String>,
    pub user: Option<String>,
    pub tty: bool,
    started_ms: u64,
    /// Number of frames sent before the end of its input, if that was sent.
    #[serde(default)]
    pub stdin_end: Option<u64>,
}

/// A context, and its last run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ContextNote {
    pub id: String,
    pub spec: ContextSpec,
    created_ms: u64,
    /// Number of the first event of this interpreter, after those of the ones before it.
    #[serde(default)]
    base: u64,
    /// Whether the interpreter was ready, so that a caller knows the context.
    pub is_ready: bool,
    /// Number of runs before the last.
    pub execution_count: u64,
    pub run: Option<RunNote>,
}

/// The last run of a context.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RunNote {
    /// Number of the event from which on its events come.
    pub seq: u64,
    /// Number of frames sent before it.
    pub sent: u64,
    /// The time limit.
    pub timeout_ms: Option<u64>,
    asked_ms: u64,
    /// How the runs before it were interrupted.
    pub interrupted_by: InterruptedBy,
}

impl Note {
    /// Returns the text of the note, within its limit: a longer one lacks arguments or variables.
    pub fn text(&self) -> String {
        let text = |note: &Self| serde_json::to_string(note).expect("notes have string keys only");
        let whole = text(self);
        let bytes_max = match self {
            Self::Process(_) => PROCESS_BYTES_MAX,
            Self::Context(_) => NOTE_BYTES_MAX,
        };
        if whole.len() <= bytes_max {
            return whole;
        }
        let mut note = self.clone();
        match &mut note {
            Self::Process(process) => {
                let mut bytes = 0;
                // Each has quotes and a comma.
                process.argv.retain(|argument| {
                    bytes += argument.len() + 1;
                    bytes <= ARGV_BYTES_MAX
                });
            }
            Self::Context(context) => context.spec.env.clear(),
        }
        text(&note)
    }

    /// Reads a note of the guest; none if it is not one.
    pub fn read(text: &str) -> Option<Self> {
        if text.len() > NOTE_BYTES_MAX { None } else { serde_json::from_str(text).ok() }
    }
}

impl ProcessNote {
    /// Returns the parts of `spec` that are kept.
    pub fn of(spec: &ProcessSpec) -> Self {
        let argv = spec.argv.iter().chain(&spec.args).cloned().collect();
        let (user, tty) = (spec.user.clone(), spec.tty.is_some());
        Self { argv, user, tty, started_ms: now_ms(), stdin_end: None }
    }

    /// The note once the end of the input is sent as frame `frame`.
    pub fn with_end_of_input(&self, frame: u64) -> Self {
        Self { stdin_end: Some(frame), ..self.clone() }
    }

    /// When the process was started.
    pub fn started_at(&self) -> SystemTime {
        time(self.started_ms)
    }
}

impl ContextNote {
    /// A context that is about to be opened.
    pub fn new(id: String, spec: ContextSpec) -> Self {
        let created_ms = now_ms();
        Self { id, spec, created_ms, base: 0, is_ready: false, execution_count: 0, run: None }
    }

    /// The note for another interpreter of the same context, whose events have number `base` and
    /// higher ones.
    pub fn fresh(&self, base: u64) -> Self {
        Self { base, is_ready: false, execution_count: 0, run: None, ..self.clone() }
    }

    /// Number of the event that the guest's frame `seq` completes.
    pub fn number(&self, seq: u64) -> u64 {
        self.base.saturating_add(seq)
    }

    /// Whether no run has been asked for before the last.
    pub fn is_first_run(&self) -> bool {
        self.base == 0 && self.execution_count == 0
    }

    /// When the context was asked for.
    pub fn created_at(&self) -> SystemTime {
        time(self.created_ms)
    }
}

impl RunNote {
    /// A run that is about to begin.
    pub fn new(
        seq: u64,
        sent: u64,
        timeout: Option<Duration>,
        interrupted_by: InterruptedBy,
    ) -> Self {
        let timeout_ms = timeout.map(|timeout| u64::try_from(timeout.as_millis()).unwrap_or(0));
        Self { seq, sent, timeout_ms, asked_ms: now_ms(), interrupted_by }
    }

    /// Returns the time since the run was asked for.
    pub fn passed(&self) -> Duration {
        Duration::from_millis(now_ms().saturating_sub(self.asked_ms))
    }

    /// Returns the rest of the time limit.
    pub fn rest(&self) -> Option<Duration> {
        self.timeout_ms.map(|timeout| Duration::from_millis(timeout).saturating_sub(self.passed()))
    }
}

fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// The time of a note, which is not in the future.
fn time(ms: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_millis(ms.min(now_ms()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_notes_are_shortened_and_stay_notes() {
        let argv = vec!["\u{1}".repeat(60 << 10), "x".repeat(1 << 20), "y".to_owned()];
        let spec = ProcessSpec { argv, ..ProcessSpec::default() };
        let text = Note::Process(ProcessNote::of(&spec)).text();
        assert!(text.len() <= PROCESS_BYTES_MAX);
        let Some(Note::Process(_)) = Note::read(&text) else { panic!("{text:.99}") };
        let env = [("a".to_owned(), "\u{1}".repeat(60 << 10))].into();
        let spec = ContextSpec { env, ..ContextSpec::default() };
        let text = Note::Context(ContextNote::new("ctx".to_owned(), spec)).text();
        assert!(text.len() <= NOTE_BYTES_MAX);
        let Some(Note::Context(note)) = Note::read(&text) else { panic!("{text:.99}") };
        assert_eq!(note.id, "ctx");
    }

    #[test]
    fn whatever_a_guest_returns_is_survived() {
        let mut note = ProcessNote::of(&ProcessSpec::of_argv(["a"]));
        note.started_ms = u64::MAX;
        let Some(Note::Process(note)) = Note::read(&Note::Process(note).text()) else { panic!() };
        assert!(note.started_at() <= SystemTime::now());
        for text in ["", "{}", "[]", r#"{"process":{}}"#, &"x".repeat(NOTE_BYTES_MAX + 1)] {
            assert!(Note::read(text).is_none(), "{text:.99}");
        }
    }
}
