//! State of one life of a context.

use parking_lot::Mutex;

use super::event::RunEnd;

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
    /// End of the run that was lost with the interpreter.
    end: RunEnd,
}

impl Status {
    pub fn new() -> Self {
        let (state, execution_count, end) = (ContextState::Idle, 0, RunEnd::default());
        Self(Mutex::new(Known { state, execution_count, end }))
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

    /// Records the run that ends with the interpreter.
    pub fn lose(&self, end: RunEnd) {
        self.0.lock().end = end;
    }

    /// Records the end of the interpreter; the first reason stays.
    pub fn die(&self, reason: &str) {
        let mut known = self.0.lock();
        if !matches!(known.state, ContextState::Dead(_)) {
            known.state = ContextState::Dead(reason.to_owned());
        }
    }

    /// Returns why the interpreter ended, and the end of the run lost with it.
    pub fn last_words(&self) -> (String, RunEnd) {
        let known = self.0.lock();
        let reason = match &known.state {
            ContextState::Dead(reason) => reason.clone(),
            ContextState::Idle | ContextState::Busy => "its interpreter is gone".to_owned(),
        };
        (reason, RunEnd { execution_count: known.execution_count, ..known.end.clone() })
    }

    /// Returns the state, and the number of runs begun.
    pub fn now(&self) -> (ContextState, u64) {
        let known = self.0.lock();
        (known.state.clone(), known.execution_count)
    }
}
