//! When a sandbox was last used, and how many requests use it now.
//!
//! One thread looks for an unused sandbox, marks it and looks again; another notes a use and then
//! looks for the mark. All accesses have one order, so that one of the two sees the other.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use tokio::time::Instant;

/// See the module.
pub(crate) struct Usage {
    since: Instant,
    /// Requests under way.
    in_use: AtomicUsize,
    /// The last use, in microseconds after `since`.
    last_us: AtomicU64,
    /// When the sandbox may be looked at again, in microseconds after `since`.
    look_us: AtomicU64,
    /// Whether the sandbox is frozen, or about to be.
    frozen: AtomicBool,
}

/// A sandbox that is kept as it is, until dropped.
pub(crate) struct Held<'a>(&'a Usage);

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.0.in_use.fetch_sub(1, SeqCst);
    }
}

impl Usage {
    /// Begins with a use.
    pub fn new() -> Self {
        Self {
            since: Instant::now(),
            in_use: AtomicUsize::new(0),
            last_us: AtomicU64::new(0),
            look_us: AtomicU64::new(0),
            frozen: AtomicBool::new(false),
        }
    }

    /// Notes that a request begins.
    pub fn enter(&self) {
        self.in_use.fetch_add(1, SeqCst);
    }

    /// Notes that a request has ended.
    pub fn leave(&self) {
        self.stir();
        self.in_use.fetch_sub(1, SeqCst);
    }

    /// Keeps the sandbox as it is until what this returns is dropped, without a use.
    pub fn hold(&self) -> Held<'_> {
        self.enter();
        Held(self)
    }

    /// Notes a use of this moment.
    pub fn stir(&self) {
        self.last_us.store(self.now_us(), SeqCst);
    }

    /// Puts off the next look.
    pub fn look_after(&self, wait: Duration) {
        self.look_us.store(self.now_us().saturating_add(micros(wait)), SeqCst);
    }

    /// Returns when the sandbox has been unused for `idle`, if nobody uses it until then.
    pub fn unused_at(&self, idle: Duration) -> Instant {
        let last_us = if self.in_use.load(SeqCst) > 0 { self.now_us() } else { self.last_us() };
        let at_us = last_us.saturating_add(micros(idle)).max(self.look_us.load(SeqCst));
        self.since + Duration::from_micros(at_us)
    }

    /// Whether no request is under way, and none was for `idle`.
    pub fn is_unused(&self, idle: Duration) -> bool {
        self.in_use.load(SeqCst) == 0
            && self.now_us().saturating_sub(self.last_us()) >= micros(idle)
    }

    /// Marks the sandbox as frozen if it is unused for `idle`; returns whether it is.
    pub fn freeze(&self, idle: Duration) -> bool {
        self.frozen.store(true, SeqCst);
        let unused = self.is_unused(idle);
        self.frozen.store(unused, SeqCst);
        unused
    }

    /// Marks a sandbox as frozen that an earlier daemon froze.
    pub fn found_frozen(&self) {
        self.frozen.store(true, SeqCst);
    }

    /// Removes the mark.
    pub fn thaw(&self) {
        self.frozen.store(false, SeqCst);
    }

    /// Whether the sandbox is frozen, or about to be.
    pub fn is_frozen(&self) -> bool {
        self.frozen.load(SeqCst)
    }

    fn last_us(&self) -> u64 {
        self.last_us.load(SeqCst)
    }

    fn now_us(&self) -> u64 {
        micros(self.since.elapsed())
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    const IDLE: Duration = Duration::from_secs(10);

    #[tokio::test(start_paused = true)]
    async fn unused_is_without_a_request_and_some_time_after_the_last_use() {
        let usage = Usage::new();
        let start = usage.since;
        assert_eq!(usage.unused_at(IDLE), start + IDLE);
        advance(IDLE).await;
        assert!(usage.is_unused(IDLE));
        usage.enter();
        usage.enter();
        usage.leave();
        assert!(!usage.is_unused(Duration::ZERO) && !usage.freeze(Duration::ZERO));
        assert!(!usage.is_frozen());
        advance(IDLE).await;
        assert_eq!(usage.unused_at(IDLE), start + 3 * IDLE);
        usage.leave();
        assert!(!usage.freeze(IDLE));
        advance(IDLE).await;
        assert!(usage.freeze(IDLE) && usage.is_frozen());
        usage.thaw();
        usage.stir();
        assert!(!usage.freeze(IDLE) && !usage.is_frozen());
        usage.look_after(3 * IDLE);
        assert_eq!(usage.unused_at(IDLE), start + 6 * IDLE);
    }
}
