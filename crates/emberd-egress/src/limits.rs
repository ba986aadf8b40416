//! Rates and budgets of one sandbox.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::{Instant, sleep_until};

use crate::tally::Tally;

/// A bucket that fills at a rate, up to its size; taking from it never fails, but has to wait.
#[derive(Debug)]
pub(crate) struct Bucket {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    per_s: u64,
    size: u64,
    /// When the bucket would be full.
    full_at: Instant,
}

impl Bucket {
    /// A full bucket; a rate of 0 has no limit.
    pub fn new(per_s: u64, size: u64) -> Self {
        Self { state: Mutex::new(State { per_s, size, full_at: Instant::now() }) }
    }

    /// Changes the rate and the size.
    pub fn set(&self, per_s: u64, size: u64) {
        let mut state = self.state.lock();
        if (state.per_s, state.size) != (per_s, size) {
            *state = State { per_s, size, full_at: Instant::now() };
        }
    }

    /// Takes `amount` if it is there.
    pub fn try_take(&self, amount: u64) -> bool {
        let mut state = self.state.lock();
        let (now, taken) = (Instant::now(), state.time(amount));
        let full_at = state.full_at.max(now) + taken;
        let fits = state.per_s == 0 || full_at <= now + state.time(state.size);
        if fits {
            state.full_at = full_at;
        }
        fits
    }

    /// Takes `amount` and waits until it is there. Cancelled, the amount is taken all the same.
    pub async fn take(&self, amount: u64) {
        let until = {
            let mut state = self.state.lock();
            if state.per_s == 0 {
                return;
            }
            let full_at = state.full_at.max(Instant::now()) + state.time(amount);
            state.full_at = full_at;
            full_at.checked_sub(state.time(state.size))
        };
        if let Some(until) = until {
            sleep_until(until).await;
        }
    }
}

impl State {
    /// How long the bucket takes to fill by `amount`.
    fn time(&self, amount: u64) -> Duration {
        match self.per_s {
            0 => Duration::ZERO,
            per_s => {
                let nanos = u128::from(amount) * 1_000_000_000 / u128::from(per_s);
                Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
            }
        }
    }
}

/// A count with a limit that may change.
#[derive(Debug, Default)]
pub(crate) struct Gate(AtomicUsize);

/// A place behind a [`Gate`], until it is dropped.
#[derive(Debug)]
pub(crate) struct Place(Arc<Gate>);

impl Gate {
    /// Takes a place, unless `most` are taken.
    pub fn enter(self: &Arc<Self>, most: usize) -> Option<Place> {
        let enter = |taken: usize| (taken < most).then_some(taken + 1);
        let entered = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, enter);
        entered.ok().map(|_| Place(Arc::clone(self)))
    }

    /// Returns how many places are taken.
    pub fn taken(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Bytes that a sandbox has moved, and may send.
#[derive(Debug)]
pub(crate) struct Traffic {
    /// Counts of the daemon, which has them too.
    tally: Arc<Tally>,
    /// Bytes to destinations.
    pub sent: AtomicU64,
    /// Bytes from destinations.
    pub received: AtomicU64,
    /// Most bytes to destinations; 0 for no limit.
    sent_max: AtomicU64,
    upload: Bucket,
    download: Bucket,
}

/// The sandbox has sent all it may.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Spent;

impl Traffic {
    pub fn new(limits: &emberd_proto::policy::EgressLimits, tally: Arc<Tally>) -> Self {
        let traffic = Self {
            tally,
            sent: AtomicU64::new(0),
            received: AtomicU64::new(0),
            sent_max: AtomicU64::new(0),
            upload: Bucket::new(0, 0),
            download: Bucket::new(0, 0),
        };
        traffic.set(limits);
        traffic
    }

    /// Changes the limits; what was sent counts on.
    pub fn set(&self, limits: &emberd_proto::policy::EgressLimits) {
        let bytes = |kib: u32| u64::from(kib) << 10;
        let (up, down) = (bytes(limits.upload_kib_s), bytes(limits.download_kib_s));
        // One second's worth at once.
        self.upload.set(up, up);
        self.download.set(down, down);
        self.sent_max.store(u64::from(limits.upload_mib) << 20, Ordering::Relaxed);
    }

    /// Waits until `bytes` may be sent, and counts them.
    ///
    /// # Errors
    /// When the sandbox has sent all it may; nothing is counted then.
    pub async fn send(&self, bytes: usize) -> Result<(), Spent> {
        let (bytes, most) = (bytes as u64, self.sent_max.load(Ordering::Relaxed));
        let sent = self.sent.fetch_add(bytes, Ordering::Relaxed);
        if most > 0 && sent + bytes > most {
            self.sent.fetch_sub(bytes, Ordering::Relaxed);
            return Err(Spent);
        }
        self.tally.sent.fetch_add(bytes, Ordering::Relaxed);
        self.upload.take(bytes).await;
        Ok(())
    }

    /// Waits until `bytes` may be received, and counts them.
    pub async fn receive(&self, bytes: usize) {
        self.received.fetch_add(bytes as u64, Ordering::Relaxed);
        self.tally.received.fetch_add(bytes as u64, Ordering::Relaxed);
        self.download.take(bytes as u64).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_bucket_gives_its_size_at_once_and_then_its_rate() {
        let bucket = Bucket::new(10, 20);
        assert!((0..20).all(|_| bucket.try_take(1)));
        assert!(!bucket.try_take(1));
        tokio::time::advance(Duration::from_millis(1050)).await;
        assert!((0..10).all(|_| bucket.try_take(1)));
        assert!(!bucket.try_take(1));
    }

    #[tokio::test(start_paused = true)]
    async fn taking_waits_for_what_is_not_there() {
        let bucket = Bucket::new(1000, 1000);
        let start = Instant::now();
        bucket.take(1000).await;
        assert_eq!(start.elapsed(), Duration::ZERO);
        bucket.take(500).await;
        assert!(start.elapsed() >= Duration::from_millis(500));
    }

    #[tokio::test(start_paused = true)]
    async fn a_rate_of_zero_is_none() {
        let bucket = Bucket::new(0, 0);
        bucket.take(u64::MAX).await;
        assert!(bucket.try_take(u64::MAX));
    }

    #[test]
    fn places_are_given_back() {
        let gate = Arc::new(Gate::default());
        let places: Vec<_> = (0..3).map_while(|_| gate.enter(2)).collect();
        assert_eq!((places.len(), gate.taken()), (2, 2));
        drop(places);
        assert_eq!(gate.taken(), 0);
    }

    #[tokio::test]
    async fn a_budget_is_not_exceeded() {
        let limits = emberd_proto::policy::EgressLimits { upload_mib: 1, ..Default::default() };
        let tally = Arc::new(Tally::default());
        let traffic = Traffic::new(&limits, Arc::clone(&tally));
        assert_eq!(traffic.send(1 << 20).await, Ok(()));
        assert_eq!(traffic.send(1).await, Err(Spent));
        assert_eq!(traffic.sent.load(Ordering::Relaxed), 1 << 20);
        assert_eq!(tally.sent.load(Ordering::Relaxed), 1 << 20);
    }
}
