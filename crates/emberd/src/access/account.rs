//! What a key uses that its sandboxes do not show: creations in the last minute, and requests under
//! way.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

/// Time in which a bucket that is empty fills.
const PERIOD: Duration = Duration::from_secs(60);

/// See the module. It outlives changes of the key, and ends with the daemon.
#[derive(Debug, Default)]
pub struct Account(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    bucket: Bucket,
    requests: u64,
}

/// A token bucket, as the moment at which it is full again, on the clock that nobody sets
/// (`CLOCK_BOOTTIME`). Each token takes its share of a minute to come back.
#[derive(Debug, Default, Clone, Copy)]
struct Bucket {
    full_at: Duration,
}

impl Bucket {
    /// Takes a token of `most` at `now`.
    ///
    /// # Errors
    /// The time until there is one.
    fn take(&mut self, most: u64, now: Duration) -> Result<(), Duration> {
        let full_at = self.full_at.max(now) + share(most);
        let empty_at = now + PERIOD;
        if full_at > empty_at {
            return Err(full_at.saturating_sub(empty_at));
        }
        self.full_at = full_at;
        Ok(())
    }

    fn give_back(&mut self, most: u64) {
        self.full_at = self.full_at.saturating_sub(share(most));
    }

    /// Number of tokens at `now`.
    fn left(self, most: u64, now: Duration) -> u64 {
        let missing = self.full_at.saturating_sub(now);
        let left = PERIOD.saturating_sub(missing).as_nanos() / share(most).as_nanos();
        u64::try_from(left).unwrap_or(u64::MAX).min(most)
    }
}

/// Time in which one of `most` tokens comes back.
fn share(most: u64) -> Duration {
    let nanos = PERIOD.as_nanos() / u128::from(most.max(1));
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX).max(1))
}

/// A request under way, counted until this is dropped.
#[derive(Debug)]
pub struct UnderWay(Arc<Account>);

impl Account {
    /// Counts a creation at `now` (`CLOCK_BOOTTIME`), of `most` in a minute.
    ///
    /// # Errors
    /// The time until the next one is permitted.
    pub fn create(&self, most: u64, now: Duration) -> Result<(), Duration> {
        self.0.lock().bucket.take(most, now)
    }

    /// Counts one creation less: nothing was begun for it.
    pub fn take_back(&self, most: u64) {
        self.0.lock().bucket.give_back(most);
    }

    /// Number of creations that may begin at `now`.
    pub fn creates_left(&self, most: u64, now: Duration) -> u64 {
        self.0.lock().bucket.left(most, now)
    }

    /// Counts a request, unless `most` are under way.
    pub fn begin(self: &Arc<Self>, most: Option<u64>) -> Option<UnderWay> {
        let mut state = self.0.lock();
        if most.is_some_and(|most| state.requests >= most) {
            return None;
        }
        state.requests += 1;
        Some(UnderWay(Arc::clone(self)))
    }

    /// Number of requests under way.
    pub fn requests(&self) -> u64 {
        self.0.lock().requests
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.0.lock().requests -= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Duration = Duration::from_secs(1_000);

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn of_ten_thousand_creations_as_many_pass_as_the_bucket_has() {
        for most in [1, 7, 60, 600, 9_999] {
            let account = Account::default();
            assert_eq!(account.creates_left(most, START), most);
            // All at once, then one every 12 ms for two minutes.
            let at_once = (0..10_000).filter(|_| account.create(most, START).is_ok()).count();
            assert_eq!(at_once as u64, most, "no more than the bucket has");
            assert_eq!(account.creates_left(most, START), 0);
            let later = |n: u64| account.create(most, START + ms(12) * u32::try_from(n).unwrap());
            let passed = (1..=10_000).filter(|n| later(*n).is_ok()).count() as u64;
            // One comes at each whole share of a minute, if somebody asks then.
            let asked_for = (2 * most).min(10_000);
            let least = asked_for - asked_for / 8 - 1;
            assert!((least..=2 * most).contains(&passed), "{passed} of {most} a minute");
        }
    }

    #[test]
    fn who_waits_as_long_as_is_said_gets_one() {
        let account = Account::default();
        for _ in 0..60 {
            account.create(60, START).unwrap();
        }
        let wait = account.create(60, START + ms(250)).unwrap_err();
        assert_eq!(wait, ms(750));
        account.create(60, START + ms(250) + wait).unwrap();
        account.create(60, START + ms(250) + wait).unwrap_err();
        // One that was taken back is there again.
        account.take_back(60);
        account.create(60, START + ms(250) + wait).unwrap();
    }

    #[test]
    fn a_clock_that_goes_back_gives_none() {
        let account = Account::default();
        for _ in 0..60 {
            account.create(60, START).unwrap();
        }
        for back in [1, 60, 900] {
            let now = START.saturating_sub(Duration::from_secs(back));
            assert!(account.create(60, now).unwrap_err() > Duration::from_secs(1));
            assert_eq!(account.creates_left(60, now), 0);
        }
        // Another limit is counted with what was used before.
        assert_eq!(account.creates_left(120, START + ms(30_000)), 60);
    }

    #[test]
    fn requests_count_until_they_end() {
        let account = Arc::new(Account::default());
        let one = account.begin(Some(2)).unwrap();
        let two = account.begin(Some(2)).unwrap();
        assert!(account.begin(Some(2)).is_none() && account.requests() == 2);
        let free = account.begin(None).unwrap();
        drop((one, two));
        assert!(account.begin(Some(1)).is_none() && account.requests() == 1);
        drop(free);
        assert!(account.begin(Some(1)).is_some() && account.requests() == 0);
    }
}
