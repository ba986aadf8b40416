//! Ends sandboxes behind the back of whoever deleted them.

use std::sync::Arc;

use tokio::sync::{Semaphore, oneshot};
use tokio_util::task::TaskTracker;

use crate::sandbox::Sandbox;

/// Most sandboxes that are ended at once. One that ends holds its memory and its process for
/// some milliseconds; a deletion that finds so many before it waits for its turn, so that a
/// flood of creations and deletions piles up no more VMMs than this beyond its sandboxes.
const REAPED_AT_ONCE_MAX: usize = 16;

/// See the module.
pub(crate) struct Reaper {
    turns: Arc<Semaphore>,
    under_way: TaskTracker,
}

impl Reaper {
    pub fn new() -> Self {
        let turns = Arc::new(Semaphore::new(REAPED_AT_ONCE_MAX));
        Self { turns, under_way: TaskTracker::new() }
    }

    /// How many are not wholly gone yet.
    pub fn count(&self) -> usize {
        self.under_way.len()
    }

    /// Ends `sandbox`, and returns once that is under way. Goes on when the future is dropped.
    pub async fn reap(&self, sandbox: Arc<Sandbox>) {
        sandbox.ending.cancel();
        if let Ok(turn) = Arc::clone(&self.turns).try_acquire_owned() {
            self.under_way.spawn(async move {
                end(&sandbox).await;
                drop(turn);
            });
            return;
        }
        let (begins, begun) = oneshot::channel::<()>();
        self.reap_in_turn(sandbox, begins);
        // Nothing is ever sent: it ends when the other half is dropped.
        begun.await.ok();
    }

    /// Ends `sandbox` when its turn comes.
    pub fn reap_later(&self, sandbox: Arc<Sandbox>) {
        sandbox.ending.cancel();
        self.reap_in_turn(sandbox, ());
    }

    /// Drops `begins` when it begins.
    fn reap_in_turn(&self, sandbox: Arc<Sandbox>, begins: impl Send + 'static) {
        let turns = Arc::clone(&self.turns);
        self.under_way.spawn(async move {
            let _turn = turns.acquire_owned().await.expect("the semaphore is never closed");
            drop(begins);
            end(&sandbox).await;
        });
    }

    /// Drops something whose end blocks for some milliseconds.
    pub fn drop_later(&self, doomed: impl Send + 'static) {
        self.under_way.spawn_blocking(move || drop(doomed));
    }

    /// Returns when everything is gone. Nothing may be given to reap after.
    pub async fn finish(&self) {
        self.under_way.close();
        self.under_way.wait().await;
    }
}

async fn end(sandbox: &Sandbox) {
    if let Err(error) = sandbox.end().await {
        let error = &error as &dyn std::error::Error;
        tracing::error!(id = %sandbox.id, error, "left behind");
    }
}
