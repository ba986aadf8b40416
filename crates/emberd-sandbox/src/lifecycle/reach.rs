//! Whether the guest of a sandbox that an earlier daemon started has answered this one.
//!
//! ```text
//! meeting ── it answers ──▶ met                 requests wait, for a while
//! ```

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::timeout;

/// Longest wait of a request for the guest's answer.
const WAIT_MAX: Duration = Duration::from_secs(10);

/// The guest has not answered in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Unreached;

/// See the module.
pub(crate) struct Reach(watch::Sender<bool>);

impl Reach {
    /// The guest has answered, unless [`Self::lose`] says otherwise.
    pub fn new() -> Self {
        Self(watch::Sender::new(true))
    }

    /// Notes that the guest is still to answer.
    pub fn lose(&self) {
        self.0.send_replace(false);
    }

    /// Notes that the guest has answered.
    pub fn meet(&self) {
        self.0.send_replace(true);
    }

    pub fn is_met(&self) -> bool {
        *self.0.borrow()
    }

    /// Waits until the guest has answered.
    pub async fn met(&self) -> Result<(), Unreached> {
        if self.is_met() {
            return Ok(());
        }
        let mut met = self.0.subscribe();
        match timeout(WAIT_MAX, met.wait_for(|met| *met)).await {
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
}
