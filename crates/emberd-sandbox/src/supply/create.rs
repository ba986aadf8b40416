//! Creates a sandbox by the fastest available way.

use std::sync::Arc;

use emberd_image::PackImage;
use emberd_proto::GuestLimits;
use tokio::sync::Notify;

use super::base::{Base, Boot};
use super::boot::{self, Answered};
use super::limit;
use super::pool::Taken;
use super::sources::Sources;
use crate::config::SandboxSpec;
use crate::cpu::Cpu;
use crate::error::CreateError;
use crate::lifecycle::holdings::Holdings;
use crate::lifecycle::journal::Stage;
use crate::lifecycle::lease::Boottime;
use crate::lifecycle::machine::{Machine, Running};
use crate::lifecycle::sandbox::{Created, Sandbox};
use crate::lifecycle::signals::Signals;
use crate::lifecycle::table::{Claim, Table};
use crate::shape::Shape;

/// The sandbox that a caller asked for.
pub(crate) struct Wanted<'a> {
    pub shape: Shape,
    pub image: &'a PackImage,
    /// Checked.
    pub limits: GuestLimits,
    pub spec: SandboxSpec,
}

/// Creates a sandbox and enters it in `table`: from the pool, else from a standby, else from the
/// template, else by a cold boot.
///
/// Dropping the future removes everything that was started.
pub(crate) async fn create(
    sources: &Sources,
    table: &Table,
    wanted: Wanted<'_>,
) -> Result<(Created, FollowUp), CreateError> {
    let Wanted { shape, image, limits, spec } = wanted;
    let SandboxSpec { terms, policy, env, resources, tag, owner, quota } = spec;
    let asked = Claim { owner: owner.clone(), held: Holdings::of(shape.size, &limits), quota };
    let smaller_disk_mib = sources.base.disks.smaller_mib(limits.disk_mib);
    // What is made ahead has a disk that is too large.
    let pool = sources.pools.get(&shape).filter(|_| smaller_disk_mib.is_none());
    let trust = sources.pools.pace.health_trust;
    let claim = || {
        let taken = pool.as_ref().map_or(Taken::Nothing, |pool| pool.take(trust, &sources.reaper));
        let (sandbox, standby) = match taken {
            Taken::Ready(sandbox) => (sandbox, None),
            Taken::Standby(standby) => (Arc::clone(&standby.sandbox), Some(standby)),
            Taken::Nothing => (sources.base.sandbox(&shape), None),
        };
        // Its first event has the metadata and the owner.
        sandbox.lease.lock().terms = terms;
        if let Some(owner) = owner {
            sandbox.owner.set(owner).expect("a sandbox is created once");
        }
        let in_use = sandbox.occupy();
        (sandbox, standby, in_use)
    };
    // At the limit of sandboxes, nothing is taken from the pool.
    let (sandbox, standby, _in_use) = table.enter(asked, claim, |(sandbox, ..)| sandbox)?;
    if let (Some(session), Some(policy)) = (&sandbox.egress, policy) {
        session.egress.begin(policy);
    }
    if !env.is_empty() {
        sandbox.env.set(env).expect("a sandbox is created once");
    }
    if let Some(tag) = tag {
        sandbox.tag.set(tag).expect("a sandbox is created once");
    }
    sources.base.activity.stir();
    // The pool is short of one from now on, whatever becomes of the creation.
    let follow_up = FollowUp::of(sources);
    let entry = Entry { table, sandbox: Arc::clone(&sandbox), kept: false };
    if let Some(created) = sandbox.created() {
        hand_out(sources, &sandbox, entry, resources.cpu, limits).await?;
        return Ok((created, follow_up));
    }
    sources.pools.wake.notify_one();
    let _creating = sources.base.activity.create();
    let making = async {
        if smaller_disk_mib.is_none()
            && let Some(restored) = sources.restore(image, &sandbox, standby).await
        {
            return Ok(restored);
        }
        let kind = Boot { for_template: false, smaller_disk_mib };
        let _permit = sources.boots.acquire(sandbox.owner.get().cloned()).await;
        boot::boot(&sources.base, &sandbox, image, kind).await
    };
    match fulfil(&sources.base, &sandbox, making).await {
        Some(Ok(created)) => {
            sources.watch(&sandbox);
            hand_out(sources, &sandbox, entry, resources.cpu, limits).await?;
            Ok((created, follow_up))
        }
        Some(Err(error)) => Err(error),
        // A deletion by a shutdown is reported as the shutdown.
        None if table.is_closed() => Err(CreateError::ShuttingDown),
        None => Err(CreateError::Deleted(sandbox.id)),
    }
}

/// Tasks that go on because of a creation: they refill the pool, and look at the new deadline and
/// at when to freeze. Dropping this wakes them. Before the answer, that would cost the caller the
/// time of waking a thread, and of a VMM that starts meanwhile.
pub struct FollowUp {
    pools: Arc<Notify>,
    signals: Arc<Signals>,
}

impl FollowUp {
    fn of(sources: &Sources) -> Self {
        let (pools, signals) = (&sources.pools.wake, &sources.base.signals);
        Self { pools: Arc::clone(pools), signals: Arc::clone(signals) }
    }
}

impl Drop for FollowUp {
    fn drop(&mut self) {
        self.pools.notify_one();
        self.signals.deadlines.notify_one();
        self.signals.idle.notify_one();
    }
}

/// Limits a sandbox whose guest has answered, begins its lease, and records that a caller has it.
async fn hand_out(
    sources: &Sources,
    sandbox: &Arc<Sandbox>,
    entry: Entry<'_>,
    cpu: Cpu,
    limits: GuestLimits,
) -> Result<(), CreateError> {
    let begun = async {
        if cpu.is_asked_for() {
            limit::apply(&sources.base.vmm, sandbox, cpu)?;
        }
        limit::tell(&sources.base, sandbox, limits).await?;
        sandbox.lease.lock().begin(Boottime::now());
        let journaled = sandbox.journal_as(Stage::Running);
        journaled.map_err(|source| CreateError::record(&sandbox.dir, source))
    };
    match begun.await {
        Ok(()) => {
            entry.keep();
            Ok(())
        }
        Err(error) => {
            drop(entry);
            sources.reaper.reap_later(Arc::clone(sandbox));
            Err(error)
        }
    }
}

/// Runs `making`, which makes the microVM of `sandbox`; returns none if the sandbox ends first.
///
/// The end of the sandbox and dropping the future cancel `making`; everything that it started is
/// removed then.
pub(crate) async fn fulfil<E>(
    base: &Base,
    sandbox: &Arc<Sandbox>,
    making: impl Future<Output = Result<Answered, E>>,
) -> Option<Result<Created, E>> {
    let creating = sandbox.creating().ok()?;
    // Held until the end: a deletion of the sandbox waits for it.
    let _making = creating.making.lock().await;
    let made = tokio::select! {
        biased;
        () = creating.ending.cancelled() => return None,
        made = making => made,
    };
    let Answered { vm, link, boot_path, boot } = match made {
        Ok(answered) => answered,
        Err(error) => return Some(Err(error)),
    };
    let machine = Arc::new(Machine::new(vm, creating.ending.clone()));
    let host = base.host(sandbox, &machine);
    let guest = host.guest(sandbox.id.to_string(), link);
    match sandbox.answer(Running { machine, guest, boot_path, boot }) {
        Ok(created) => Some(Ok(created)),
        Err(late) => {
            if let Err(error) = late.kill().await {
                let error = &error as &dyn std::error::Error;
                tracing::error!(id = %sandbox.id, error, "not cleaned up");
            }
            None
        }
    }
}

/// The table entry of a sandbox being created; removed when dropped, unless kept.
struct Entry<'a> {
    table: &'a Table,
    sandbox: Arc<Sandbox>,
    kept: bool,
}

impl Entry<'_> {
    fn keep(mut self) {
        self.kept = true;
    }
}

impl Drop for Entry<'_> {
    fn drop(&mut self) {
        if !self.kept {
            self.table.remove(self.sandbox.id);
            self.sandbox.delete();
        }
    }
}
