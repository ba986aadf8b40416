//! Whether sandboxes are in use right now, so that work ahead of need can keep out of the way.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::watch;

/// See the module. Its values are hints only: no memory ordering is needed.
pub(crate) struct Activity {
    since: Instant,
    /// Execs that run.
    running: AtomicUsize,
    /// Creations that found nothing ready and make their microVM.
    creating: watch::Sender<usize>,
    /// Time of the last activity, in microseconds after `since`.
    last_us: AtomicU64,
}

/// An exec that runs, until dropped.
pub(crate) struct Running<'a>(&'a Activity);

/// A creation that makes its microVM, until dropped.
pub(crate) struct Creating<'a>(&'a Activity);

impl Activity {
    pub fn new() -> Self {
        Self {
            since: Instant::now(),
            running: AtomicUsize::new(0),
            creating: watch::Sender::new(0),
            last_us: AtomicU64::new(0),
        }
    }

    /// Records the start of an exec.
    pub fn run(&self) -> Running<'_> {
        self.running.fetch_add(1, Ordering::Relaxed);
        Running(self)
    }

    /// Records the start of a creation that makes its microVM.
    pub fn create(&self) -> Creating<'_> {
        self.creating.send_modify(|creating| *creating += 1);
        Creating(self)
    }

    /// Waits until no creation makes its microVM.
    pub async fn creations_ended(&self) {
        // The sender is never dropped.
        drop(self.creating.subscribe().wait_for(|creating| *creating == 0).await);
    }

    /// Records activity: more is likely to follow.
    pub fn stir(&self) {
        self.last_us.store(self.now_us(), Ordering::Relaxed);
    }

    /// Whether no exec runs, no creation makes its microVM and no activity was recorded for
    /// `idle_for`.
    pub fn is_quiet(&self, idle_for: Duration) -> bool {
        let idle_us = self.now_us().saturating_sub(self.last_us.load(Ordering::Relaxed));
        self.running.load(Ordering::Relaxed) == 0
            && *self.creating.borrow() == 0
            && Duration::from_micros(idle_us) >= idle_for
    }

    fn now_us(&self) -> u64 {
        u64::try_from(self.since.elapsed().as_micros()).unwrap_or(u64::MAX)
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.stir();
        self.0.running.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Drop for Creating<'_> {
    fn drop(&mut self) {
        self.0.creating.send_modify(|creating| *creating -= 1);
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use futures::FutureExt as _;

    use super::*;

    #[test]
    fn quiet_is_when_nothing_runs_and_nothing_just_happened() {
        let activity = Activity::new();
        assert!(activity.is_quiet(Duration::ZERO));
        let [one, other] = [activity.run(), activity.run()];
        drop(one);
        assert!(!activity.is_quiet(Duration::ZERO));
        drop(other);
        assert!(activity.is_quiet(Duration::ZERO));
        activity.stir();
        assert!(!activity.is_quiet(Duration::from_hours(1)));
    }

    #[tokio::test]
    async fn creations_are_waited_for() {
        let activity = Activity::new();
        activity.creations_ended().await;
        let [one, other] = [activity.create(), activity.create()];
        drop(one);
        assert!(!activity.is_quiet(Duration::ZERO));
        let mut ended = pin!(activity.creations_ended());
        assert_eq!(ended.as_mut().now_or_never(), None);
        drop(other);
        ended.await;
        assert!(activity.is_quiet(Duration::ZERO));
    }
}
