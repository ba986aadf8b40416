//! How long a guest has run: a clock that stands still while the guest does.
//!
//! Time limits of the host on what a guest does are measured by it. The guest's own limits stand
//! still with the guest, so the host's, which begin later, would end what the guest has not.

use std::future::pending;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, timeout};

/// See the module.
pub(crate) struct GuestClock(watch::Sender<Hand>);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Hand {
    /// The guest runs since then, and had run for some time before.
    Moving { since: Instant, before: Duration },
    /// The guest stands still, and had run for this time.
    Standing(Duration),
}

impl Hand {
    /// How long the guest has run until `now`.
    fn ran(self, now: Instant) -> Duration {
        match self {
            Self::Moving { since, before } => before + now.saturating_duration_since(since),
            Self::Standing(ran) => ran,
        }
    }
}

impl GuestClock {
    /// The clock of a guest that runs.
    pub fn new() -> Self {
        Self(watch::Sender::new(Hand::Moving { since: Instant::now(), before: Duration::ZERO }))
    }

    /// Stops the clock, if it does not stand still.
    pub fn stop(&self) {
        self.0.send_modify(|hand| *hand = Hand::Standing(hand.ran(Instant::now())));
    }

    /// Continues the clock, if it stands still.
    pub fn go_on(&self) {
        let since = Instant::now();
        self.0.send_modify(|hand| *hand = Hand::Moving { since, before: hand.ran(since) });
    }

    /// Waits until the guest has run for `time` from now on.
    pub fn run_for(&self, time: Duration) -> impl Future<Output = ()> + Send + use<> {
        let mut hand = self.0.subscribe();
        let end = hand.borrow_and_update().ran(Instant::now()).saturating_add(time);
        async move {
            loop {
                let now = *hand.borrow_and_update();
                let left = end.saturating_sub(now.ran(Instant::now()));
                let moved = match now {
                    Hand::Moving { .. } => match timeout(left, hand.changed()).await {
                        Ok(moved) => moved,
                        Err(_) => return,
                    },
                    Hand::Standing(_) => hand.changed().await,
                };
                if moved.is_err() {
                    // The guest is gone, and what waits for it is told by others.
                    return pending().await;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use futures::FutureExt as _;
    use tokio::time::advance;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn a_wait_stands_still_with_the_guest() {
        let clock = GuestClock::new();
        let mut waited = pin!(clock.run_for(10 * SECOND));
        for _ in 0..2 {
            advance(4 * SECOND).await;
            assert_eq!(waited.as_mut().now_or_never(), None);
            clock.stop();
            clock.stop();
            advance(100 * SECOND).await;
            assert_eq!(waited.as_mut().now_or_never(), None);
            clock.go_on();
            clock.go_on();
        }
        let begun = Instant::now();
        waited.await;
        assert_eq!(begun.elapsed(), 2 * SECOND);
    }

    #[tokio::test(start_paused = true)]
    async fn a_wait_may_begin_while_the_guest_stands_still() {
        let clock = GuestClock::new();
        advance(7 * SECOND).await;
        clock.stop();
        let mut waited = pin!(clock.run_for(SECOND));
        advance(100 * SECOND).await;
        assert_eq!(waited.as_mut().now_or_never(), None);
        clock.go_on();
        let begun = Instant::now();
        waited.await;
        assert_eq!(begun.elapsed(), SECOND);
        clock.run_for(Duration::ZERO).await;
    }

    #[tokio::test(start_paused = true)]
    async fn no_wait_ends_with_its_guest() {
        let clock = GuestClock::new();
        let waited = clock.run_for(SECOND);
        drop(clock);
        assert!(tokio::time::timeout(100 * SECOND, waited).await.is_err());
    }
}
