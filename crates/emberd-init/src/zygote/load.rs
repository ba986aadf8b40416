//! Keeps further spares for programs in quick succession.
//!
//! ```text
//! program begins or ends ─▶ quiet ─▶ short of spares? one is forked ─▶ quiet ─▶ …
//!                                          long quiet ─▶ those too many are let go
//! ```
//! Forking takes the only processor from running programs, so it waits for an idle moment. If a
//! program runs for longer than that, usually asleep, the next spare is forked meanwhile.

use std::convert::Infallible;
use std::time::Duration;

use tokio::time::{Instant, timeout, timeout_at};

use super::{SPARES, State, Zygote};
use crate::agent::Agent;

/// Spares kept once a program found none. A caller that ran two programs in a row often runs
/// three or four. Each holds about 2 MiB of changed pages.
pub const SPARES_UNDER_LOAD: usize = 3;

/// Time without a program beginning or ending after which another spare is forked: several times
/// the pause between two programs of a caller that does nothing else.
const QUIET: Duration = Duration::from_millis(50);

/// Time for which the guest counts as under load after a program found no spare.
const LOAD_LASTS: Duration = Duration::from_secs(3);

/// Forks spares when the guest is idle, and ends superfluous ones. Never returns.
pub async fn keep(agent: &Agent, zygote: &Zygote) -> Infallible {
    loop {
        zygote.used.notified().await;
        // A program that begins or ends restarts the wait.
        while timeout(QUIET, zygote.used.notified()).await.is_ok() || zygote.fork_one(agent) {}
        while let Some(until) = zygote.loaded_until() {
            if timeout_at(until, zygote.used.notified()).await.is_ok() {
                zygote.used.notify_one();
                break;
            }
            zygote.end_load();
        }
    }
}

impl Zygote {
    /// Requests one spare if one is missing; `false` if none is missing or the request fails.
    fn fork_one(&self, agent: &Agent) -> bool {
        let mut state = self.state();
        let target = if state.loaded_until.is_some() { SPARES_UNDER_LOAD } else { SPARES };
        let is_short = state.coming() < target + state.waiting.len();
        is_short && state.failures == 0 && state.ask(agent).is_some()
    }

    fn loaded_until(&self) -> Option<Instant> {
        self.state().loaded_until
    }

    /// Ends the load, and the spares that were kept for it.
    pub(super) fn end_load(&self) {
        let mut state = self.state();
        state.loaded_until = None;
        state.spares.truncate(SPARES);
    }
}

impl State {
    /// Returns the number of existing and requested spares.
    pub(super) fn coming(&self) -> usize {
        self.spares.len() + self.asked.len()
    }

    /// Records that a program found no spare.
    pub(super) fn miss(&mut self) {
        self.loaded_until = Some(Instant::now() + LOAD_LASTS);
    }
}
