//! Keeps the pools filled: one microVM at a time, and out of the way of those in use.

use std::sync::Arc;

use emberd_image::PackName;
use emberd_vmm::Template;
use tokio::time::{Instant, sleep, timeout_at};

use super::{Pool, Work};
use crate::boot_path::BootPath;
use crate::create::fulfil;
use crate::restore::{self, RestoreFailure, Stand};
use crate::shared::Shared;

/// Fills the pools; for ever.
pub(crate) async fn keep(shared: Arc<Shared>) {
    let pools = &shared.pools;
    loop {
        pools.tidy(&shared.reaper);
        let is_ready = |pack: &PackName| shared.ready_template(pack).is_some();
        if let Some((pack, work)) = pools.next_work(is_ready)
            && let Some(pool) = pools.get(pack)
        {
            wait_for_quiet(&shared).await;
            carry_out(&shared, pack, pool, work).await;
            continue;
        }
        let told = pools.wake.notified();
        match pools.next_deadline() {
            // Whether it was told or it is time makes no difference.
            Some(deadline) => drop(timeout_at(Instant::from_std(deadline), told).await),
            None => told.await,
        }
    }
}

/// Returns when nobody would be disturbed, or when patience has run out. Creations that found
/// nothing ready restore for themselves: what is made ahead meanwhile is made at their cost.
async fn wait_for_quiet(shared: &Shared) {
    let pace = shared.pools.pace;
    let deadline = Instant::now() + pace.patience;
    while (!shared.activity.is_quiet(pace.breath) || shared.pools.are_waited_for())
        && Instant::now() + pace.breath <= deadline
    {
        sleep(pace.breath).await;
    }
}

async fn carry_out(shared: &Shared, pack: &PackName, pool: &Pool, work: Work) {
    let _turn = shared.restores.acquire().await.expect("the semaphore is never closed");
    // Asked for before the template: should that be replaced meanwhile, the pool refuses what
    // is made from it.
    let generation = pool.generation();
    let Some(template) = shared.ready_template(pack) else { return };
    let outcome = match work {
        Work::Fill => fill(shared, pack, pool, &template, generation).await,
        Work::StandBy => stand_by(shared, pack, &template)
            .await
            .map(|stand| pool.stock(stand, generation, &shared.reaper)),
    };
    if let Err(failure) = outcome {
        let error = &failure as &dyn std::error::Error;
        tracing::warn!(%pack, error, "no microVM made ahead");
        shared.judge(pack, &template, &failure);
        pool.rest();
    }
}

async fn stand_by(
    shared: &Shared,
    pack: &PackName,
    template: &Arc<Template>,
) -> Result<Stand, RestoreFailure> {
    let base = &shared.base;
    let sandbox = base.sandbox(pack);
    restore::stand_by(base, Arc::clone(template), sandbox, shared.image(pack)).await
}

async fn fill(
    shared: &Shared,
    pack: &PackName,
    pool: &Pool,
    template: &Arc<Template>,
    generation: u64,
) -> Result<(), RestoreFailure> {
    let (filling, stand) = pool.fill(generation, &shared.reaper);
    let stand = match stand {
        Some(stand) => stand,
        None => stand_by(shared, pack, template).await?,
    };
    let sandbox = Arc::clone(&stand.sandbox);
    let making = restore::load(&shared.base, stand, shared.image(pack), BootPath::WarmPool);
    if let Some(made) = fulfil(&sandbox, making).await {
        made?;
        shared.watch(Arc::clone(&sandbox));
        shared.acquit(pack, template);
        filling.done(sandbox, &shared.reaper);
    }
    Ok(())
}
