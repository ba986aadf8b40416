//! Ceiling of a pool: higher after a burst, lower when the pool is idle.

use std::time::{Duration, Instant};

/// How many times its target a pool may grow to.
const GROWTH_MAX: usize = 4;

/// Rises by one with every request that finds the pool empty, and falls by one with every idle
/// period, down to the target.
#[derive(Debug)]
pub(crate) struct Ceiling {
    target: usize,
    now: usize,
    /// When it last rose or sank.
    changed: Instant,
}

impl Ceiling {
    pub fn new(target: usize) -> Self {
        Self { target, now: target, changed: Instant::now() }
    }

    pub fn target(&self) -> usize {
        self.target
    }

    pub fn now(&self) -> usize {
        self.now
    }

    pub fn rise(&mut self, at: Instant) {
        self.now = (self.now + 1).min(self.target * GROWTH_MAX);
        self.changed = at;
    }

    pub fn sink(&mut self, at: Instant, idle: Duration) {
        while self.next_sinking(idle).is_some_and(|due| due <= at) {
            self.now -= 1;
            self.changed += idle;
        }
    }

    /// When it sinks next, unless it rises before.
    pub fn next_sinking(&self, idle: Duration) -> Option<Instant> {
        (self.now > self.target).then(|| self.changed + idle)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const IDLE: Duration = Duration::from_secs(10);

    #[test]
    fn bursts_raise_it_and_idle_lowers_it_to_the_target() {
        let start = Instant::now();
        let mut ceiling = Ceiling::new(2);
        for _ in 0..3 {
            ceiling.rise(start);
        }
        assert_eq!(ceiling.now(), 5);
        ceiling.sink(start + IDLE / 2, IDLE);
        assert_eq!(ceiling.now(), 5);
        ceiling.sink(start + IDLE * 5 / 2, IDLE);
        assert_eq!(ceiling.now(), 3);
        ceiling.sink(start + IDLE * 100, IDLE);
        assert_eq!((ceiling.now(), ceiling.next_sinking(IDLE)), (2, None));
    }

    #[test]
    fn it_has_a_limit_and_a_pool_without_a_target_stays_empty() {
        let (mut two, mut none) = (Ceiling::new(2), Ceiling::new(0));
        for _ in 0..100 {
            two.rise(Instant::now());
            none.rise(Instant::now());
        }
        assert_eq!((two.now(), none.now()), (2 * GROWTH_MAX, 0));
    }

    #[test]
    fn a_miss_starts_the_idle_anew() {
        let start = Instant::now();
        let mut ceiling = Ceiling::new(1);
        ceiling.rise(start);
        ceiling.rise(start + IDLE * 9 / 10);
        ceiling.sink(start + IDLE * 3 / 2, IDLE);
        assert_eq!(ceiling.now(), 3);
    }
}
