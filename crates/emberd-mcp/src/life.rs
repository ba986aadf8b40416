//! How long sandboxes live that a server made.
//!
//! Over HTTP a sandbox has a time to live, and that is all. On standard input and output it goes
//! with the client: the daemon is told a short time to live, which is renewed for as long as this
//! process lives, so that nothing is left when it is killed.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use emberd_api::{ErrorCode, TouchSandbox};
use emberd_client::{Client, ClientError};
use futures::future::join_all;
use parking_lot::Mutex;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};

/// Times that a lease is renewed before it ends.
const RENEWALS: u32 = 3;

/// How long the deletion of all that was created may take.
const DELETION_MAX: Duration = Duration::from_secs(10);

/// See the module.
#[derive(Debug)]
pub enum Life {
    /// Sandboxes live as long as their callers said.
    AsAsked,
    /// Sandboxes go with this process.
    Leased(Lease),
}

/// The sandboxes that go with this process.
#[derive(Debug)]
pub struct Lease {
    client: Client,
    time: Duration,
    /// When each is to end, as its caller asked.
    sandboxes: Arc<Mutex<BTreeMap<String, Instant>>>,
    renewing: Mutex<Option<JoinHandle<()>>>,
}

impl Life {
    /// Sandboxes of the daemon of `client` that outlive this process by at most `time`.
    pub fn leased(client: Client, time: Duration) -> Self {
        let (sandboxes, renewing) = Default::default();
        Self::Leased(Lease { client, time, sandboxes, renewing })
    }

    /// The time to live that the daemon is told of a sandbox whose caller asked for `ttl`.
    pub fn told(&self, ttl: Duration) -> Duration {
        match self {
            Self::AsAsked => ttl,
            Self::Leased(lease) => ttl.min(lease.time),
        }
    }

    /// Notes a sandbox that was created, whose caller asked for `ttl`.
    pub fn created(&self, id: &str, ttl: Duration) {
        let Self::Leased(lease) = self else { return };
        lease.sandboxes.lock().insert(id.to_owned(), Instant::now() + ttl);
        let mut renewing = lease.renewing.lock();
        if renewing.is_none() {
            let renewal = renew(lease.client.clone(), lease.time, Arc::clone(&lease.sandboxes));
            *renewing = Some(tokio::spawn(renewal));
        }
    }

    /// Notes that a sandbox was deleted.
    pub fn deleted(&self, id: &str) {
        if let Self::Leased(lease) = self {
            lease.sandboxes.lock().remove(id);
        }
    }

    /// Deletes what was created.
    pub async fn end(&self) {
        let Self::Leased(lease) = self else { return };
        if let Some(renewing) = lease.renewing.lock().take() {
            renewing.abort();
        }
        let ids: Vec<_> = std::mem::take(&mut *lease.sandboxes.lock()).into_keys().collect();
        let deletions = ids.iter().map(async |id| {
            if let Err(error) = lease.client.delete(id).await
                && !is_gone(&error)
            {
                tracing::warn!(%error, id, "a sandbox was not deleted; its time ends soon");
            }
        });
        if timeout(DELETION_MAX, join_all(deletions)).await.is_err() {
            tracing::warn!("not every sandbox was deleted; their time ends soon");
        }
    }
}

/// Renews the lease of `sandboxes`, each until its own time ends.
async fn renew(client: Client, time: Duration, sandboxes: Arc<Mutex<BTreeMap<String, Instant>>>) {
    loop {
        tokio::time::sleep(time / RENEWALS).await;
        let now = Instant::now();
        let living: Vec<_> = {
            let mut sandboxes = sandboxes.lock();
            sandboxes.retain(|_, end| *end > now);
            sandboxes.iter().map(|(id, end)| (id.clone(), time.min(*end - now))).collect()
        };
        let renewals = living.iter().map(async |(id, left)| {
            let timeout_ms = u64::try_from(left.as_millis()).unwrap_or(u64::MAX);
            let timeout_ms = timeout_ms.max(emberd_api::TIMEOUT_MS_MIN);
            match client.touch(id, &TouchSandbox { timeout_ms: Some(timeout_ms) }).await {
                Ok(_) => {}
                Err(error) if is_gone(&error) => {
                    sandboxes.lock().remove(id);
                }
                Err(error) => tracing::warn!(%error, id, "the time of a sandbox was not renewed"),
            }
        });
        join_all(renewals).await;
    }
}

/// Whether a sandbox is deleted already.
fn is_gone(error: &ClientError) -> bool {
    matches!(error, ClientError::Api { body, .. } if body.code == ErrorCode::UnknownSandbox)
}
