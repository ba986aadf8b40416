//! Looks after the microVMs that wait: one that stopped answering is replaced.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{sleep, timeout};

use crate::channel::ChannelError;
use crate::sandbox::Sandbox;
use crate::shared::Shared;

/// Why a waiting microVM was given up.
#[derive(Debug, thiserror::Error)]
enum SickError {
    #[error("its guest does not answer")]
    Silent,
    #[error("its guest cannot be talked to")]
    Channel(#[from] ChannelError),
}

/// Asks every waiting guest, one after the other, whether it still answers; for ever.
pub(crate) async fn look_after(shared: Arc<Shared>) {
    let pace = shared.pools.pace;
    loop {
        sleep(pace.health_period).await;
        for (pack, pool) in shared.pools.iter() {
            for id in pool.ready() {
                let Some(lent) = pool.lend(id) else { continue };
                match examine(lent.sandbox(), pace.health_timeout).await {
                    Ok(()) => lent.give_back(&shared.reaper),
                    Err(error) => {
                        let error = &error as &dyn std::error::Error;
                        tracing::warn!(%pack, %id, error, "a waiting microVM is replaced");
                        lent.discard(&shared.reaper);
                        shared.pools.wake.notify_one();
                    }
                }
            }
        }
    }
}

async fn examine(sandbox: &Sandbox, wait_max: Duration) -> Result<(), SickError> {
    let ready = sandbox.ready.get().expect("what waits in a pool is ready");
    let ping = async {
        let mut connection = sandbox.connection(ready).await?;
        connection.ping().await?;
        ready.keep(connection);
        Ok(())
    };
    timeout(wait_max, ping).await.map_err(|_| SickError::Silent)?
}
