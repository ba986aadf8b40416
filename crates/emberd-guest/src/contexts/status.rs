//! What is known of one life of a context.

use parking_lot::Mutex;

use super::event::RunEnd;

/// What a context is doing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ContextState {
    /// It waits for something to run.
    Idle,
    /// It runs.
    Busy,
    /// Its interpreter has ended, in this way; it can be restarted.
    Dead(String),
}

/// What is known of a life; shared by all who ask, and by the one who knows.
#[derive(Debug)]
pub(super) struct Status(Mutex<Known>);

#[derive(Debug)]
struct Known {
    state: ContextState,
    execution_count: u64,
    /// What the run that is lost last was.
    end: RunEnd,
}

impl Status {
    pub fn new() -> Self {
        let (state, execution_count, end) = (ContextState::Idle, 0, RunEnd::default());
        Self(Mutex::new(Known { state, execution_count, end }))
    }

    /// A run begins, or is over.
    pub fn set_busy(&self, busy: bool) {
        let mut known = self.0.lock();
        if !matches!(known.state, ContextState::Dead(_)) {
            known.state = if busy { ContextState::Busy } else { ContextState::Idle };
        }
    }

    /// The interpreter has said how many runs there were.
    pub fn count(&self, execution_count: u64) {
        self.0.lock().execution_count = execution_count;
    }

    /// The run under way ends with the interpreter.
    pub fn lose(&self, end: RunEnd) {
        self.0.lock().end = end;
    }

    /// It has ended, or is to; the first reason stays.
    pub fn die(&self, reason: &str) {
        let mut known = self.0.lock();
        if !matches!(known.state, ContextState::Dead(_)) {
            known.state = ContextState::Dead(reason.to_owned());
        }
    }

    /// Why it has ended, and how the run ended that was lost with it.
    pub fn last_words(&self) -> (String, RunEnd) {
        let known = self.0.lock();
        let reason = match &known.state {
            ContextState::Dead(reason) => reason.clone(),
            ContextState::Idle | ContextState::Busy => "its interpreter is gone".to_owned(),
        };
        (reason, RunEnd { execution_count: known.execution_count, ..known.end })
    }

    /// What it is doing, and how many runs it has begun.
    pub fn now(&self) -> (ContextState, u64) {
        let known = self.0.lock();
        (known.state.clone(), known.execution_count)
    }
}
