//! Forks spares ahead, in moments in which no program begins or ends.
//!
//! ```text
//! program begins or ends ─▶ quiet ─▶ short of spares? one is forked ─▶ quiet ─▶ …
//! ```
//! Forking takes the only processor from running programs, so it waits for an idle moment. If a
//! program runs for longer than that, usually asleep, the next spare is forked meanwhile.

use std::convert::Infallible;
use std::time::Duration;

use tokio::time::timeout;

use super::{SPARES, Zygote};
use crate::agent::Agent;

/// Time without a program beginning or ending after which another spare is forked: several times
/// the pause between two programs of a caller that does nothing else.
const QUIET: Duration = Duration::from_millis(50);

/// Forks missing spares one by one while the guest is quiet. Never returns.
pub async fn keep(agent: &Agent, zygote: &Zygote) -> Infallible {
    loop {
        zygote.used.notified().await;
        // A program that begins or ends restarts the wait.
        while timeout(QUIET, zygote.used.notified()).await.is_ok() || zygote.fork_one(agent) {}
    }
}

impl Zygote {
    /// Requests one spare if one is missing; `false` if none is missing or the request fails.
    pub(super) fn fork_one(&self, agent: &Agent) -> bool {
        let mut state = self.state();
        let is_short = state.coming() < SPARES + state.waiting.len();
        is_short && state.failures == 0 && state.ask(agent).is_some()
    }
}
