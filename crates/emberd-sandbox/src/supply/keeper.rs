//! Fills the pools, one microVM at a time and only while the host is quiet.

use std::sync::Arc;

use emberd_vmm::Template;
use tokio::time::{Instant, sleep, timeout_at};

use super::create::fulfil;
use super::pool::{Pool, Work};
use super::restore::{self, RestoreFailure, Standby};
use super::sources::Sources;
use crate::boot_path::BootPath;
use crate::lifecycle::journal::Stage;
use crate::shape::Shape;

/// Fills the pools; never returns.
pub(crate) async fn keep(sources: Arc<Sources>) {
    let pools = &sources.pools;
    loop {
        pools.tidy(&sources.reaper);
        let is_ready = |shape: &Shape| sources.ready_template(shape).is_some();
        if let Some((shape, pool, work)) = pools.next_work(is_ready) {
            wait_for_quiet(&sources).await;
            carry_out(&sources, &shape, &pool, work).await;
            continue;
        }
        let notified = pools.wake.notified();
        match pools.next_deadline() {
            // A notification and the deadline have the same effect.
            Some(deadline) => drop(timeout_at(Instant::from_std(deadline), notified).await),
            None => notified.await,
        }
    }
}

/// Returns when the host is quiet, or after the longest wait. A creation that found nothing ready
/// restores its own microVM, and filling the pool at the same time would slow it down.
async fn wait_for_quiet(sources: &Sources) {
    let pace = sources.pools.pace;
    let deadline = Instant::now() + pace.refill_wait_max;
    while !sources.base.activity.is_quiet(pace.idle_before_refill)
        && Instant::now() + pace.idle_before_refill <= deadline
    {
        sleep(pace.idle_before_refill).await;
    }
}

async fn carry_out(sources: &Sources, shape: &Shape, pool: &Pool, work: Work) {
    let _permit = sources.restores.acquire(None).await;
    // Read before the template: if the template is replaced in the meantime, the pool refuses
    // what is made from the old one.
    let generation = pool.generation();
    let Some(template) = sources.ready_template(shape) else { return };
    let outcome = match work {
        Work::Fill => fill(sources, shape, pool, &template, generation).await,
        Work::StandBy => stand_by(sources, shape, &template)
            .await
            .map(|standby| pool.keep_standby(standby, generation, &sources.reaper)),
    };
    if let Err(failure) = outcome {
        let error = &failure as &dyn std::error::Error;
        tracing::warn!(%shape, error, "cannot refill the warm pool");
        sources.judge(shape, &template, &failure);
        pool.rest();
    }
}

async fn stand_by(
    sources: &Sources,
    shape: &Shape,
    template: &Arc<Template>,
) -> Result<Standby, RestoreFailure> {
    let base = &sources.base;
    let sandbox = base.sandbox(shape);
    restore::stand_by(base, Arc::clone(template), sandbox, sources.image(&shape.pack)).await
}

async fn fill(
    sources: &Sources,
    shape: &Shape,
    pool: &Pool,
    template: &Arc<Template>,
    generation: u64,
) -> Result<(), RestoreFailure> {
    let (filling, standby) = pool.fill(generation, &sources.reaper);
    let standby = match standby {
        Some(standby) => standby,
        None => stand_by(sources, shape, template).await?,
    };
    let sandbox = Arc::clone(&standby.sandbox);
    let making =
        restore::load(&sources.base, standby, sources.image(&shape.pack), BootPath::WarmPool);
    if let Some(made) = fulfil(&sources.base, &sandbox, making).await {
        made?;
        if let Err(source) = sandbox.journal_as(Stage::Pooled) {
            let dir = sandbox.dir.clone();
            sources.reaper.reap_later(sandbox);
            return Err(RestoreFailure::Record { dir, source });
        }
        sources.watch(&sandbox);
        sources.confirm(shape, template);
        filling.done(sandbox, &sources.reaper);
    }
    Ok(())
}
