//! The egress session of one sandbox: opened once its guest has answered, and again when it
//! breaks.
//!
//! ```text
//! Connecting ──▶ Ready ──▶ session ends ──▶ Connecting …          until the sandbox ends
//!     └────────▶ Unavailable: the guest cannot capture connections
//! ```
//! No creation waits for it. A microVM in the pool has a session, too: a policy is put in force on
//! the host alone.

use std::fmt;
use std::time::Duration;

use emberd_egress::SandboxEgress;
use emberd_guest::{EgressLink, Guest, GuestError, chain};
use emberd_vmm::Stream;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use crate::id::SandboxId;

/// Wait after a session could not be opened, or broke at once; doubled with every further one.
const RETRY: Duration = Duration::from_millis(100);

/// Longest wait between two attempts.
const RETRY_MAX: Duration = Duration::from_secs(60);

/// Time after which a session counts as one that worked.
const LASTED: Duration = Duration::from_secs(10);

/// Longest explanation of a guest that is kept, in characters.
const WHY_MAX: usize = 256;

/// State of the connections of a sandbox's programs.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum EgressState {
    /// The daemon carries none.
    Off,
    /// The guest is being asked to send them to the host. Programs that connect wait.
    #[default]
    Connecting,
    /// They reach the host.
    Ready,
    /// The guest cannot capture them: programs reach nothing.
    Unavailable {
        /// Why, for people.
        why: String,
    },
}

/// Egress of one sandbox, and the state of its session.
pub(crate) struct Session {
    pub egress: SandboxEgress,
    state: watch::Sender<EgressState>,
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").field("state", &*self.state.borrow()).finish_non_exhaustive()
    }
}

impl Session {
    pub fn new(egress: SandboxEgress) -> Self {
        Self { egress, state: watch::Sender::default() }
    }

    pub fn state(&self) -> EgressState {
        self.state.borrow().clone()
    }

    /// Waits until the guest has answered for the first time.
    pub async fn settled(&self) -> EgressState {
        let mut state = self.state.subscribe();
        let settled = state.wait_for(|state| *state != EgressState::Connecting).await;
        settled.map_or(EgressState::Connecting, |state| state.clone())
    }

    /// Keeps a session with `guest` open; returns when none can be, or the sandbox has ended.
    pub async fn keep(&self, id: SandboxId, guest: Guest<Stream>) {
        tokio::select! {
            biased;
            () = self.egress.closed() => {}
            () = self.reopen(id, &guest) => {}
        }
    }

    async fn reopen(&self, id: SandboxId, guest: &Guest<Stream>) {
        let mut wait = RETRY;
        loop {
            let begun = Instant::now();
            match guest.egress().await {
                Ok(EgressLink::Ready(stream)) => {
                    self.state.send_replace(EgressState::Ready);
                    if let Err(error) = self.egress.serve(stream).await {
                        tracing::warn!(%id, error = chain(&error), "egress session broke");
                    }
                    self.state.send_replace(EgressState::Connecting);
                }
                Ok(EgressLink::Unavailable { why }) => {
                    let why = why.chars().filter(|c| !c.is_control()).take(WHY_MAX).collect();
                    tracing::debug!(%id, why, "no egress");
                    self.state.send_replace(EgressState::Unavailable { why });
                    return;
                }
                Err(GuestError::Deleted { .. } | GuestError::Gone { .. }) => return,
                Err(error) => tracing::debug!(%id, error = chain(&error), "no egress session"),
            }
            if begun.elapsed() >= LASTED {
                wait = RETRY;
            }
            sleep(wait).await;
            wait = (2 * wait).min(RETRY_MAX);
        }
    }
}
