//! Removes deleted sandboxes in the background.

use std::sync::Arc;

use tokio::sync::oneshot;
use tokio_util::task::TaskTracker;

use super::turns::Turns;
use crate::lifecycle::sandbox::Sandbox;

/// Most sandboxes that are removed at once. Each holds its memory and its process for some
/// milliseconds. Further deletions wait for the turn of their owner, so a flood of creations and
/// deletions accumulates at most this many VMMs beyond the sandboxes.
const REAPED_AT_ONCE_MAX: usize = 16;

/// See the module.
pub(crate) struct Reaper {
    permits: Turns,
    under_way: TaskTracker,
}

impl Reaper {
    pub fn new() -> Self {
        Self { permits: Turns::new(REAPED_AT_ONCE_MAX), under_way: TaskTracker::new() }
    }

    /// Returns the number of sandboxes that are not fully removed yet.
    pub fn count(&self) -> usize {
        self.under_way.len()
    }

    /// Ends `sandbox`, and returns once that is under way. Dropping the future does not stop it.
    pub async fn reap(&self, sandbox: Arc<Sandbox>) {
        sandbox.delete();
        if let Some(permit) = self.permits.try_acquire() {
            self.under_way.spawn(async move {
                end(&sandbox).await;
                drop(permit);
            });
            return;
        }
        let (begins, begun) = oneshot::channel::<()>();
        self.reap_in_permit(sandbox, begins);
        // Nothing is ever sent: the receiver ends when the sender is dropped.
        begun.await.ok();
    }

    /// Ends `sandbox` once it has a permit.
    pub fn reap_later(&self, sandbox: Arc<Sandbox>) {
        sandbox.delete();
        self.reap_in_permit(sandbox, ());
    }

    /// Ends all operations in `sandbox` and then the sandbox once it has a permit: nothing of it is
    /// done before. Many at once take turns.
    pub fn reap_in_turn(&self, sandbox: Arc<Sandbox>) {
        let permits = self.permits.clone();
        self.under_way.spawn(async move {
            let _permit = permits.acquire(sandbox.owner.get().cloned()).await;
            sandbox.delete();
            end(&sandbox).await;
        });
    }

    /// Drops `begins` when it begins.
    fn reap_in_permit(&self, sandbox: Arc<Sandbox>, begins: impl Send + 'static) {
        let permits = self.permits.clone();
        self.under_way.spawn(async move {
            let _permit = permits.acquire(sandbox.owner.get().cloned()).await;
            drop(begins);
            end(&sandbox).await;
        });
    }

    /// Drops `value`, whose drop blocks for some milliseconds, on a blocking thread.
    pub fn drop_later(&self, value: impl Send + 'static) {
        self.under_way.spawn_blocking(move || drop(value));
    }

    /// Returns when everything is removed. Nothing may be passed to the reaper afterwards.
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
