//! The sandboxes callers hold, by id.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;
use tokio::time::Instant;

use super::holdings::{Holdings, Quota, QuotaExceeded};
use super::lease::Boottime;
use super::phase::PhaseKind;
use super::sandbox::{Sandbox, SandboxView};
use crate::error::CreateError;
use crate::id::SandboxId;

/// Serial numbers for each second since the epoch: more than sandboxes are created in one.
const SERIALS_PER_SECOND: u64 = 1 << 20;

/// See the module.
pub(crate) struct Table {
    sandboxes_max: usize,
    /// Most memory of all sandboxes, in MiB.
    memory_mib_max: u64,
    entries: Mutex<Entries>,
}

struct Entries {
    by_id: HashMap<SandboxId, Entry>,
    next_serial: u64,
    closed: bool,
    draining: bool,
}

struct Entry {
    sandbox: Arc<Sandbox>,
    /// Grows with every sandbox: the order of creation.
    serial: u64,
    owner: Option<Arc<str>>,
    /// Its resources while it has a microVM, or gets one.
    held: Holdings,
}

/// A sandbox to enter.
#[derive(Default)]
pub(crate) struct Claim {
    pub owner: Option<Arc<str>>,
    pub held: Holdings,
    /// The most that all sandboxes of the owner may have.
    pub quota: Quota,
}

impl Entry {
    /// Its resources now.
    fn holds(&self) -> Holdings {
        let is_gone = self.sandbox.kind() == PhaseKind::Gone;
        if is_gone { self.held.of_gone() } else { self.held }
    }
}

impl Entries {
    /// Memory of the sandboxes that have a microVM or get one, in MiB.
    fn memory_mib(&self) -> u64 {
        self.by_id.values().map(|entry| entry.holds().memory_mib).sum()
    }

    /// Checks the quota of the owner.
    fn check(&self, claim: &Claim) -> Result<(), QuotaExceeded> {
        let Claim { owner, held, quota } = claim;
        if quota.is_none() {
            return Ok(());
        }
        let own = || self.by_id.values().filter(|entry| entry.owner == *owner);
        let sum = |holds: fn(&Entry) -> Holdings| {
            let mut sum = Holdings::default();
            own().for_each(|entry| sum.add(holds(entry)));
            sum
        };
        // As for the memory of all: the first sum asks no sandbox.
        if quota.check(sum(|entry| entry.held), *held).is_ok() {
            return Ok(());
        }
        quota.check(sum(Entry::holds), *held).map_err(|exceeded| {
            let deadlines = own().filter_map(|entry| entry.sandbox.lease.lock().deadline);
            let ends_in = deadlines.min().map(|deadline| deadline.left(Boottime::now()));
            QuotaExceeded { ends_in, ..exceeded }
        })
    }

    fn add(&mut self, sandbox: Arc<Sandbox>, owner: Option<Arc<str>>, held: Holdings) {
        let serial = self.next_serial;
        self.next_serial += 1;
        self.by_id.insert(sandbox.id, Entry { sandbox, serial, owner, held });
    }
}

impl Table {
    pub fn new(sandboxes_max: usize, memory_mib_max: u64) -> Self {
        // Above those of earlier daemons: who goes on after a restart misses no sandbox.
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let next_serial = since_epoch.as_secs() * SERIALS_PER_SECOND;
        let by_id = HashMap::new();
        let entries = Entries { by_id, next_serial, closed: false, draining: false };
        Self { sandboxes_max, memory_mib_max, entries: Mutex::new(entries) }
    }

    /// Enters the sandbox that `pick` returns, which is as `claim` says. At a limit, `pick` is not
    /// called.
    pub fn enter<T>(
        &self,
        claim: Claim,
        pick: impl FnOnce() -> T,
        sandbox: impl FnOnce(&T) -> &Arc<Sandbox>,
    ) -> Result<T, CreateError> {
        let mut entries = self.entries.lock();
        let memory_mib = claim.held.memory_mib;
        if entries.closed {
            return Err(CreateError::ShuttingDown);
        }
        if entries.draining {
            return Err(CreateError::Draining);
        }
        entries.check(&claim)?;
        if entries.by_id.len() >= self.sandboxes_max {
            return Err(CreateError::TooMany(entries.by_id.len()));
        }
        // The sum over all entries asks none of them, and is enough far from the limit.
        let reserved: u64 = entries.by_id.values().map(|entry| entry.held.memory_mib).sum();
        if reserved + memory_mib > self.memory_mib_max {
            let free_mib = self.memory_mib_max.saturating_sub(entries.memory_mib());
            if memory_mib > free_mib {
                let total_mib = self.memory_mib_max;
                return Err(CreateError::NoMemory { asked_mib: memory_mib, free_mib, total_mib });
            }
        }
        let picked = pick();
        let sandbox = Arc::clone(sandbox(&picked));
        sandbox.created_at.get_or_init(SystemTime::now);
        sandbox.tell();
        entries.add(sandbox, claim.owner, claim.held);
        Ok(picked)
    }

    /// Enters a sandbox of an earlier daemon, whatever the limit: its caller has it.
    pub fn take_over(&self, sandbox: Arc<Sandbox>) {
        sandbox.tell_on();
        let limits = sandbox.limits.get().copied().unwrap_or_default();
        let held = Holdings::of(sandbox.shape.size, &limits);
        let owner = sandbox.owner.get().cloned();
        self.entries.lock().add(sandbox, owner, held);
    }

    /// Returns the sandbox.
    pub fn find(&self, id: SandboxId) -> Option<Arc<Sandbox>> {
        self.entries.lock().by_id.get(&id).map(|entry| Arc::clone(&entry.sandbox))
    }

    pub fn remove(&self, id: SandboxId) -> Option<Arc<Sandbox>> {
        self.entries.lock().by_id.remove(&id).map(|entry| entry.sandbox)
    }

    /// The sandboxes that were requested after number `after`, or all, oldest first; each with its
    /// number.
    pub fn views(&self, after: Option<u64>) -> Vec<(u64, SandboxView)> {
        let entries = self.entries.lock();
        let mut sandboxes: Vec<_> = entries
            .by_id
            .values()
            .filter(|entry| after.is_none_or(|after| entry.serial > after))
            .map(|entry| (entry.serial, Arc::clone(&entry.sandbox)))
            .collect();
        drop(entries);
        sandboxes.sort_unstable_by_key(|(serial, _)| *serial);
        sandboxes.into_iter().map(|(serial, sandbox)| (serial, sandbox.view())).collect()
    }

    /// Returns the sandboxes with a tag, oldest first.
    pub fn tagged(&self) -> Vec<(SandboxId, String)> {
        let entries = self.entries.lock();
        let mut tagged: Vec<_> = entries.by_id.values().filter_map(tagged).collect();
        tagged.sort_unstable_by_key(|(serial, ..)| *serial);
        tagged.into_iter().map(|(_, id, tag)| (id, tag)).collect()
    }

    /// Returns the sandboxes whose journal could not be written.
    pub fn behind(&self) -> Vec<Arc<Sandbox>> {
        let entries = self.entries.lock();
        let sandboxes = entries.by_id.values().map(|entry| &entry.sandbox);
        sandboxes.filter(|sandbox| sandbox.journal.is_behind()).cloned().collect()
    }

    /// Removes and returns the sandboxes whose time is over. Each lease ends under its lock: either
    /// a change comes before that and is kept, or it finds an expired sandbox.
    pub fn take_expired(&self, now: Boottime) -> Vec<Arc<Sandbox>> {
        let mut entries = self.entries.lock();
        let expired = entries.by_id.extract_if(|_, entry| entry.sandbox.lease.lock().expire(now));
        expired.map(|(_, entry)| entry.sandbox).collect()
    }

    /// Returns when the next sandbox's time is over.
    pub fn next_deadline(&self) -> Option<Boottime> {
        let entries = self.entries.lock();
        entries.by_id.values().filter_map(|entry| entry.sandbox.lease.lock().deadline).min()
    }

    /// Returns the sandboxes that may be frozen now, and when the next one may be; puts off the
    /// next look at each.
    pub fn unused(&self, now: Instant) -> (Vec<Arc<Sandbox>>, Option<Instant>) {
        let entries = self.entries.lock();
        let (mut due, mut next) = (Vec::new(), None::<Instant>);
        for Entry { sandbox, .. } in entries.by_id.values() {
            let Some(mut at) = sandbox.freeze_at() else { continue };
            if at <= now {
                due.push(Arc::clone(sandbox));
                at = sandbox.put_off(now);
            }
            next = Some(next.map_or(at, |next| next.min(at)));
        }
        (due, next)
    }

    pub fn count(&self) -> usize {
        self.entries.lock().by_id.len()
    }

    /// Memory of the sandboxes, in MiB.
    pub fn memory_mib(&self) -> u64 {
        self.entries.lock().memory_mib()
    }

    /// Resources of the sandboxes of each owner.
    pub fn holdings(&self) -> HashMap<Option<Arc<str>>, Holdings> {
        let entries = self.entries.lock();
        let mut holdings = HashMap::<_, Holdings>::new();
        for entry in entries.by_id.values() {
            holdings.entry(entry.owner.clone()).or_default().add(entry.holds());
        }
        holdings
    }

    pub fn is_closed(&self) -> bool {
        self.entries.lock().closed
    }

    /// Refuses further entries.
    pub fn drain_from_now_on(&self) {
        self.entries.lock().draining = true;
    }

    pub fn is_draining(&self) -> bool {
        self.entries.lock().draining
    }

    /// Refuses further entries and cancels the creations under way.
    pub fn close(&self) {
        let mut entries = self.entries.lock();
        entries.closed = true;
        let sandboxes = entries.by_id.values().map(|entry| &entry.sandbox);
        sandboxes
            .filter(|sandbox| sandbox.kind() == PhaseKind::Creating)
            .for_each(|sandbox| sandbox.delete());
    }

    /// Removes and returns all sandboxes.
    pub fn drain(&self) -> Vec<Arc<Sandbox>> {
        self.entries.lock().by_id.drain().map(|(_, entry)| entry.sandbox).collect()
    }
}

fn tagged(entry: &Entry) -> Option<(u64, SandboxId, String)> {
    Some((entry.serial, entry.sandbox.id, entry.sandbox.tag.get()?.clone()))
}
