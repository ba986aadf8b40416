//! When a key expires. A clock that is set back gives it no more time.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use emberd_sandbox::Boottime;

/// A moment on both clocks of the host.
#[derive(Debug, Clone, Copy)]
pub struct Now {
    /// Since the Unix epoch, as somebody has set it.
    pub wall: Duration,
    /// Since the host was started, suspended or not (`CLOCK_BOOTTIME`). Nobody sets it.
    pub boot: Duration,
}

impl Now {
    pub fn read() -> Self {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self { wall, boot: Boottime::now().since_start() }
    }
}

/// The end of a key, on whichever clock comes first.
#[derive(Debug, Clone, Copy)]
pub struct Expiry {
    wall: Duration,
    boot: Duration,
}

impl Expiry {
    /// The end at `at_ms` since the Unix epoch, of a key that is read `now`.
    pub fn new(at_ms: u64, now: Now) -> Self {
        let wall = Duration::from_millis(at_ms);
        Self { wall, boot: now.boot + wall.saturating_sub(now.wall) }
    }

    /// Whether it has come.
    pub fn is_over(&self, now: Now) -> bool {
        self.wall <= now.wall || self.boot <= now.boot
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now(wall_s: u64, boot_s: u64) -> Now {
        Now { wall: Duration::from_secs(wall_s), boot: Duration::from_secs(boot_s) }
    }

    #[test]
    fn a_clock_that_is_set_back_gives_no_more_time() {
        let expiry = Expiry::new(1_060_000, now(1_000, 7));
        assert!(!expiry.is_over(now(1_059, 66)));
        assert!(expiry.is_over(now(1_060, 67)));
        // Back by a day: the other clock has gone on.
        assert!(!expiry.is_over(now(500, 66)));
        assert!(expiry.is_over(now(500, 67)));
        // Forward: the end is where it was said to be.
        assert!(expiry.is_over(now(2_000, 8)));
        assert!(Expiry::new(1_000, now(1_000, 7)).is_over(now(1_000, 7)));
    }

    #[test]
    fn both_clocks_go_on() {
        let (earlier, later) = (Now::read(), Now::read());
        assert!(earlier.boot <= later.boot && earlier.boot > Duration::ZERO);
    }
}
