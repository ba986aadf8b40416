//! State of one life of a context.

use parking_lot::Mutex;

/// State of a context.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ContextState {
    /// The context waits for code to run.
    Idle,
    /// The context runs code.
    Busy,
    /// The interpreter has ended, for this reason; the context can be restarted.
    Dead(String),
}

/// State of a life, shared between its task and its readers.
#[derive(Debug)]
pub(super) struct Status(Mutex<Known>);

#[derive(Debug)]
struct Known {
    state: ContextState,
    execution_count: u64,
}

impl Status {
    pub fn new() -> Self {
        Self(Mutex::new(Known { state: ContextState::Idle, execution_count: 0 }))
    }

    /// Records that a run begins or ends.
    pub fn set_busy(&self, busy: bool) {
        let mut known = self.0.lock();
        if !matches!(known.state, ContextState::Dead(_)) {
            known.state = if busy { ContextState::Busy } else { ContextState::Idle };
        }
    }

    /// Records the number of runs, as the interpreter reports it.
    pub fn count(&self, execution_count: u64) {
        self.0.lock().execution_count = execution_count;
    }

    /// Records the end of the interpreter; the first reason stays.
    pub fn die(&self, reason: &str) {
        let mut known = self.0.lock();
        if !matches!(known.state, ContextState::Dead(_)) {
            known.state = ContextState::Dead(reason.to_owned());
        }
    }

    /// Returns why the interpreter ended, and the number of runs begun.
    pub fn last_words(&self) -> (String, u64) {
        let (state, execution_count) = self.now();
        let reason = match state {
            ContextState::Dead(reason) => reason,
            ContextState::Idle | ContextState::Busy => "its interpreter is gone".to_owned(),
        };
        (reason, execution_count)
    }

    /// Returns the state, and the number of runs begun.
    pub fn now(&self) -> (ContextState, u64) {
        let known = self.0.lock();
        (known.state.clone(), known.execution_count)
    }
}
