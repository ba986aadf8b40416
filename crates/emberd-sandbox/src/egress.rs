//! The egress session of one sandbox: opened once its guest has answered, and again when it
//! breaks.
//!
//! ```text
//! Connecting ──▶ Ready ──▶ session ends ──▶ Connecting …          until the sandbox ends
//!     └────────▶ Unavailable: the guest cannot capture connections
//! ```
//! No creation waits for it, nor for another sandbox's: the first one is opened when creations
//! have ended, or a program begins that may connect. A microVM in the pool has a session, too: a
//! policy is put in force on the host alone.

use std::fmt;
use std::time::Duration;

use emberd_egress::SandboxEgress;
use emberd_guest::{EgressLink, Guest, GuestError};
use emberd_proto::chain;
use emberd_vmm::Stream;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep, timeout};

use crate::id::SandboxId;
use crate::lifecycle::activity::Activity;

/// Longest wait for other creations to end before the first session is opened.
const CREATIONS_WAIT_MAX: Duration = Duration::from_secs(5);

/// Wait before the first session is opened: most programs end in less and connect to nothing, and
/// one that connects waits in the guest.
const HEAD_START: Duration = Duration::from_millis(25);

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
    /// Notified when the session is needed.
    needed: Notify,
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").field("state", &*self.state.borrow()).finish_non_exhaustive()
    }
}

impl Session {
    pub fn new(egress: SandboxEgress) -> Self {
        Self { egress, state: watch::Sender::default(), needed: Notify::new() }
    }

    pub fn state(&self) -> EgressState {
        self.state.borrow().clone()
    }

    /// Opens the first session soon, as a program may connect.
    pub fn need(&self) {
        self.needed.notify_one();
    }

    /// Waits until the guest has answered for the first time.
    pub async fn settled(&self) -> EgressState {
        self.need();
        let mut state = self.state.subscribe();
        let settled = state.wait_for(|state| *state != EgressState::Connecting).await;
        settled.map_or(EgressState::Connecting, |state| state.clone())
    }

    /// Keeps a session with `guest` open, but not before other creations have ended, if nothing
    /// needs it; returns when none can be, or the sandbox has ended.
    pub async fn keep(&self, id: SandboxId, guest: Guest<Stream>, activity: &Activity) {
        let sessions = async {
            tokio::select! {
                () = self.needed.notified() => {}
                _ = timeout(CREATIONS_WAIT_MAX, activity.creations_ended()) => {}
            }
            sleep(HEAD_START).await;
            self.reopen(id, &guest).await;
        };
        tokio::select! {
            biased;
            () = self.egress.closed() => {}
            () = sessions => {}
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
