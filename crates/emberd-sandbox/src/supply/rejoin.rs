//! Puts microVMs that waited in the pools of an earlier daemon into the pools of this one.

use std::sync::Arc;

use super::adopt::try_meet;
use super::pool::Pool;
use super::sources::Sources;
use crate::lifecycle::sandbox::Sandbox;

/// Finds the pool that a sandbox restored from the template with that `digest` is for, if it has
/// room, and counts on it there.
pub(crate) fn pool_of(
    sources: &Sources,
    sandbox: &Sandbox,
    digest: Option<&str>,
) -> Option<(Arc<Pool>, u64)> {
    let shape = &sandbox.shape;
    let digest = digest.filter(|_| sources.templates.is_ok())?;
    let is_current = sources.key_of(shape).is_some_and(|key| key.digest() == digest);
    let pool = sources.pools.get(shape).filter(|_| is_current)?;
    let generation = pool.expect()?;
    Some((pool, generation))
}

/// Puts a sandbox into the pool that counts on it, if its guest answers; else ends it.
pub(crate) async fn join_pool(
    sources: &Sources,
    pool: &Pool,
    generation: u64,
    sandbox: Arc<Sandbox>,
) {
    let filling = pool.expected(generation);
    match try_meet(&sandbox).await {
        Ok(()) => {
            sources.watch(&sandbox);
            filling.done(sandbox, &sources.reaper);
        }
        Err(why) => {
            tracing::warn!(id = %sandbox.id, why, "a waiting microVM of an earlier daemon is ended");
            sources.reaper.reap_later(sandbox);
        }
    }
    sources.pools.wake.notify_one();
}
