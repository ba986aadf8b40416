//! Whether the guest of a sandbox that an earlier daemon started has answered this one.
//!
//! ```text
//! asleep ── thawed ──▶ meeting ── it answers ──▶ met
//!                      requests wait, for a while
//! ```

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::timeout;

/// Longest wait of a request for the guest's answer.
const WAIT_MAX: Duration = Duration::from_secs(10);

/// The guest has not answered in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Unreached;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Frozen, and not asked.
    Asleep,
    /// Asked, without an answer yet.
    Meeting,
    Met,
}

/// See the module.
pub(crate) struct Reach(watch::Sender<State>);

impl Reach {
    /// The guest has answered, unless [`Self::lose`] or [`Self::sleep`] says otherwise.
    pub fn new() -> Self {
        Self(watch::Sender::new(State::Met))
    }

    /// Notes that the guest is still to answer.
    pub fn lose(&self) {
        self.0.send_replace(State::Meeting);
    }

    /// Notes that the guest is frozen, and to be asked once it is not.
    pub fn sleep(&self) {
        self.0.send_replace(State::Asleep);
    }

    /// Notes that the guest runs again, and can be asked.
    pub fn wake(&self) {
        self.0.send_if_modified(|state| {
            let slept = *state == State::Asleep;
            if slept {
                *state = State::Meeting;
            }
            slept
        });
    }

    /// Notes that the guest has answered.
    pub fn meet(&self) {
        self.0.send_replace(State::Met);
    }

    pub fn is_met(&self) -> bool {
        *self.0.borrow() == State::Met
    }

    /// Returns whether the guest was asked and has not answered.
    pub fn is_missed(&self) -> bool {
        *self.0.borrow() == State::Meeting
    }

    /// Waits until the guest can be asked.
    pub async fn awake(&self) {
        // The sender is this value's.
        drop(self.0.subscribe().wait_for(|state| *state != State::Asleep).await);
    }

    /// Waits until the guest has answered.
    pub async fn met(&self) -> Result<(), Unreached> {
        if self.is_met() {
            return Ok(());
        }
        let mut met = self.0.subscribe();
        match timeout(WAIT_MAX, met.wait_for(|state| *state == State::Met)).await {
            Ok(Ok(_)) => Ok(()),
            _ => Err(Unreached),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_guest_is_waited_for_and_not_for_ever() {
        let reach = Reach::new();
        assert_eq!(reach.met().await, Ok(()));
        reach.lose();
        assert_eq!(reach.met().await, Err(Unreached));
        let (met, ()) = tokio::join!(reach.met(), async { reach.meet() });
        assert_eq!((met, reach.is_met()), (Ok(()), true));
    }
    #[tokio::test(start_paused = true)]
    async fn a_frozen_guest_is_asked_once_it_runs() {
        let reach = Reach::new();
        reach.sleep();
        assert!(!reach.is_met() && !reach.is_missed());
        let waited = async {
            reach.awake().await;
            assert!(reach.is_missed());
            reach.meet();
        };
        let ((), ()) = tokio::join!(waited, async { reach.wake() });
        reach.wake();
        reach.awake().await;
        assert!(reach.is_met(), "it is not asked again after every thaw");
    }
}
