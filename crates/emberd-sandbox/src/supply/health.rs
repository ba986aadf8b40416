//! Checks the health of waiting microVMs and replaces those that stopped answering.

use std::sync::Arc;
use std::time::Duration;

use emberd_guest::ChannelError;
use tokio::time::{sleep, timeout};

use super::sources::Sources;
use crate::lifecycle::sandbox::Sandbox;

/// Why a waiting microVM was replaced.
#[derive(Debug, thiserror::Error)]
enum UnhealthyError {
    #[error("the guest does not answer")]
    Silent,
    #[error("the connection to the guest failed")]
    Channel(#[from] ChannelError),
}

/// Pings every waiting guest in turn; never returns.
pub(crate) async fn look_after(sources: Arc<Sources>) {
    let pace = sources.pools.pace;
    loop {
        sleep(pace.health_period).await;
        for (shape, pool) in sources.pools.all() {
            for id in pool.ready() {
                let Some(sandbox) = pool.check(id) else { continue };
                let Err(error) = examine(&sandbox, pace.health_timeout).await else {
                    pool.found_fit(id);
                    continue;
                };
                if pool.found_unfit(id, &sources.reaper) {
                    let error = &error as &dyn std::error::Error;
                    tracing::warn!(%shape, %id, error, "replacing an unhealthy microVM");
                    sources.pools.wake.notify_one();
                }
            }
        }
    }
}

async fn examine(sandbox: &Sandbox, wait_max: Duration) -> Result<(), UnhealthyError> {
    let guest = sandbox.guest().map_err(|_| UnhealthyError::Silent)?;
    timeout(wait_max, guest.ping()).await.map_err(|_| UnhealthyError::Silent)??;
    Ok(())
}
