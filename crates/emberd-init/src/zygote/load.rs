//! Spares beyond the one: for programs that come one after the other.
//!
//! ```text
//! program begins or ends ─▶ quiet ─▶ short of spares? one is forked ─▶ quiet ─▶ …
//!                                          long quiet ─▶ those too many are let go
//! ```
//! Forking takes the only processor from whoever runs, so it waits for quiet; a program that
//! runs for longer than that, asleep as a rule, has its successor forked meanwhile.

use std::convert::Infallible;
use std::time::Duration;

use tokio::time::{Instant, timeout, timeout_at};

use super::{SPARES, State, Zygote};
use crate::agent::Agent;

/// Spares kept waiting once a program found none: a caller that ran two programs in a row runs
/// three or four more often than not. Each holds some 2 MiB of changed pages.
pub const SPARES_UNDER_LOAD: usize = 3;

/// How long no program has begun or ended when one more is forked ahead: several times what
/// passes between two of a caller that does nothing else.
const QUIET: Duration = Duration::from_millis(50);

/// How long the guest counts as under load after a program found no spare.
const LOAD_LASTS: Duration = Duration::from_secs(3);

/// Forks in quiet, and lets go of what is too much; for ever.
pub async fn keep(agent: &Agent, zygote: &Zygote) -> Infallible {
    loop {
        zygote.used.notified().await;
        // Programs that begin or end put it off.
        while timeout(QUIET, zygote.used.notified()).await.is_ok() || zygote.fork_one(agent) {}
        while let Some(until) = zygote.loaded_until() {
            if timeout_at(until, zygote.used.notified()).await.is_ok() {
                zygote.used.notify_one();
                break;
            }
            zygote.calm_down();
        }
    }
}

impl Zygote {
    /// Asks for one spare if one is missing; `false` when none is, or it cannot be had.
    fn fork_one(&self, agent: &Agent) -> bool {
        let mut state = self.state();
        let target = if state.loaded_until.is_some() { SPARES_UNDER_LOAD } else { SPARES };
        let is_short = state.coming() < target + state.waiting.len();
        is_short && state.failures == 0 && state.ask(agent).is_some()
    }

    fn loaded_until(&self) -> Option<Instant> {
        self.state().loaded_until
    }

    /// Ends the load, and the spares it was reason for.
    pub(super) fn calm_down(&self) {
        let mut state = self.state();
        state.loaded_until = None;
        state.spares.truncate(SPARES);
    }
}

impl State {
    /// Spares there are or will be.
    pub(super) fn coming(&self) -> usize {
        self.spares.len() + self.asked.len()
    }

    /// A program found no spare.
    pub(super) fn miss(&mut self) {
        self.loaded_until = Some(Instant::now() + LOAD_LASTS);
    }
}
