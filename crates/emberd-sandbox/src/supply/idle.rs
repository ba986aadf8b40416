//! Freezes the sandboxes that nobody uses.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

use crate::lifecycle::signals::Signals;
use crate::lifecycle::table::Table;

/// Least time between two looks at all sandboxes: some become due together.
const LOOK_PAUSE: Duration = Duration::from_millis(100);

/// Most sandboxes that are being frozen at once. Each is asked first what runs in it.
const FROZEN_AT_ONCE_MAX: usize = 8;

/// Freezes each sandbox of `table` once it was not used for as long as its idle policy says; never
/// returns.
pub(crate) async fn freeze_unused(table: &Table, signals: &Signals) {
    let permits = Arc::new(Semaphore::new(FROZEN_AT_ONCE_MAX));
    // Dropped with this future, which ends what is under way.
    let mut under_way = JoinSet::new();
    loop {
        while under_way.try_join_next().is_some() {}
        let (due, next) = table.unused(Instant::now());
        for sandbox in due {
            let permits = Arc::clone(&permits);
            under_way.spawn(async move {
                let _permit = permits.acquire_owned().await.expect("the semaphore is never closed");
                sandbox.freeze().await;
            });
        }
        tokio::time::sleep(LOOK_PAUSE).await;
        match next {
            Some(next) => {
                let wait = next.saturating_duration_since(Instant::now());
                drop(timeout(wait, signals.idle.notified()).await);
            }
            None => signals.idle.notified().await,
        }
    }
}
