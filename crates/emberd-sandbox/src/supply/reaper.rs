//! Ends sandboxes behind the back of whoever deleted them.

use std::sync::Arc;

use tokio::sync::{Semaphore, oneshot};
use tokio_util::task::TaskTracker;

use crate::lifecycle::sandbox::Sandbox;

/// Most sandboxes that are ended at once. One that ends holds its memory and its process for
/// some milliseconds; a deletion that finds so many before it waits for its turn, so that a
/// flood of creations and deletions piles up no more VMMs than this beyond its sandboxes.
const REAPED_AT_ONCE_MAX: usize = 16;

/// See the module.
pub(crate) struct Reaper {
    permits: Arc<Semaphore>,
    under_way: TaskTracker,
}

impl Reaper {
    pub fn new() -> Self {
        let permits = Arc::new(Semaphore::new(REAPED_AT_ONCE_MAX));
        Self { permits, under_way: TaskTracker::new() }
    }

    /// How many are not wholly gone yet.
    pub fn count(&self) -> usize {
        self.under_way.len()
    }

    /// Ends `sandbox`, and repermits once that is under way. Goes on when the future is dropped.
    pub async fn reap(&self, sandbox: Arc<Sandbox>) {
        sandbox.delete();
        if let Ok(permit) = Arc::clone(&self.permits).try_acquire_owned() {
            self.under_way.spawn(async move {
                end(&sandbox).await;
                drop(permit);
            });
            return;
        }
        let (begins, begun) = oneshot::channel::<()>();
        self.reap_in_permit(sandbox, begins);
        // Nothing is ever sent: it ends when the other half is dropped.
        begun.await.ok();
    }

    /// Ends `sandbox` when its turn comes.
    pub fn reap_later(&self, sandbox: Arc<Sandbox>) {
        sandbox.delete();
        self.reap_in_permit(sandbox, ());
    }

    /// Drops `begins` when it begins.
    fn reap_in_permit(&self, sandbox: Arc<Sandbox>, begins: impl Send + 'static) {
        let permits = Arc::clone(&self.permits);
        self.under_way.spawn(async move {
            let _permit = permits.acquire_owned().await.expect("the semaphore is never closed");
            drop(begins);
            end(&sandbox).await;
        });
    }

    /// Drops something whose end blocks for some milliseconds.
    pub fn drop_later(&self, doomed: impl Send + 'static) {
        self.under_way.spawn_blocking(move || drop(doomed));
    }

    /// Repermits when everything is gone. Nothing may be given to reap after.
    pub async fn finish(&self) {
        self.under_way.close();
        self.under_way.wait().await;
    }
}

async fn end(sandbox: &Sandbox) {
    if let Err(error) = sandbox.remove().await {
        let error = &error as &dyn std::error::Error;
        tracing::error!(id = %sandbox.id, error, "left behind");
    }
}
