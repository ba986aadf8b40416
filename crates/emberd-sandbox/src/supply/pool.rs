//! The warm pools, one for each language pack: restored microVMs that wait for a request, and
//! standbys, VMMs that have not loaded their template yet.
//!
//! ```text
//!             keeper: stand by            keeper: load, warm up         create: take
//! template ─────────────────▶ standby ─┬──────────────────────▶ ready ──────────────▶ sandbox
//!                                       └── create that finds nothing ready ─────────▶
//! ```
//!
//! A pool holds microVMs of one template. When the template is removed, the pool is emptied and
//! refuses the microVMs that are still being made from it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use emberd_image::PackName;
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::reaper::Reaper;
use super::restore::Standby;
use crate::config::{Pace, PoolConfig};
use crate::id::SandboxId;
use crate::lifecycle::sandbox::Sandbox;

mod ceiling;

use ceiling::Ceiling;

/// Number of standbys of each pack. A refill takes one, and so does a creation that finds the
/// pool empty. Each holds some MiB and saves the start of a process.
const STANDBYS: usize = 1;

/// Wait after a microVM could not be made ahead; doubled with every further failure.
const RETRY: Duration = Duration::from_secs(1);

/// Most doublings of [`RETRY`]: about a minute.
const RETRY_DOUBLINGS_MAX: u32 = 6;

/// The warm pool of one language pack as it is now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PoolView {
    /// The language pack.
    pub pack: PackName,
    /// MicroVMs ready to be handed out.
    pub ready: usize,
    /// MicroVMs being made ready.
    pub filling: usize,
    /// VMMs started ahead that have not loaded their template yet.
    pub standing_by: usize,
    /// Number of microVMs to keep ready; 0 if the pool holds only standbys.
    pub target: usize,
    /// `target` as recent bursts have raised it.
    pub ceiling: usize,
    /// Sandboxes the pool has given.
    pub handed_out: u64,
    /// Sandboxes asked for while the pool was empty.
    pub missed: u64,
    /// MicroVMs that ended or stopped answering in the pool.
    pub discarded: u64,
}

/// All pools of one daemon.
pub(crate) struct Pools {
    by_pack: BTreeMap<PackName, Pool>,
    pub pace: Pace,
    /// Most microVMs in all pools.
    held_max: usize,
    /// Notified when a pool may need work.
    pub wake: Arc<Notify>,
}

/// See the module.
pub(crate) struct Pool {
    state: Mutex<State>,
}

struct State {
    /// The last made is handed out first: it is the warmest.
    ready: Vec<Arc<Sandbox>>,
    standbys: Vec<Standby>,
    /// MicroVMs being made.
    filling: usize,
    /// MicroVMs whose health is being looked at.
    lent: usize,
    /// Whether the pool fell below its target and has not reached its ceiling since.
    refilling: bool,
    ceiling: Ceiling,
    /// Grows when the pool is emptied: microVMs begun before are then refused.
    generation: u64,
    /// Failures in a row, and when the next attempt may be made.
    failures: u32,
    rests_until: Option<Instant>,
    handed_out: u64,
    missed: u64,
    discarded: u64,
}

/// Result of taking from a pool.
#[expect(clippy::large_enum_variant, reason = "it is taken apart at once")]
pub(crate) enum Taken {
    /// Everything.
    Ready(Arc<Sandbox>),
    /// A head start.
    Standby(Standby),
    /// Nothing.
    Nothing,
}

/// Work that fills a pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Work {
    /// Make a microVM ready.
    Fill,
    /// Start a VMM.
    StandBy,
}

impl Pools {
    /// Returns empty pools for `packs`; without `config` they hold only standbys.
    pub fn new<'a>(
        packs: impl Iterator<Item = &'a PackName>,
        config: Option<&PoolConfig>,
        mem_size_mib: u32,
    ) -> Self {
        let target = config.map_or(0, |config| config.size);
        let memory_mib_max = config.map_or(0, |config| config.memory_mib_max);
        let held_max = memory_mib_max / u64::from(mem_size_mib.max(1));
        Self {
            by_pack: packs.map(|pack| (pack.clone(), Pool::new(target))).collect(),
            pace: config.map_or_else(Pace::default, |config| config.pace),
            held_max: usize::try_from(held_max).unwrap_or(usize::MAX),
            wake: Arc::new(Notify::new()),
        }
    }

    pub fn get(&self, pack: &PackName) -> Option<&Pool> {
        self.by_pack.get(pack)
    }

    pub fn iter(&self) -> impl Iterator<Item = (&PackName, &Pool)> {
        self.by_pack.iter()
    }

    pub fn views(&self) -> Vec<PoolView> {
        self.iter().map(|(pack, pool)| pool.view(pack.clone())).collect()
    }

    /// Returns the next work for a pack whose template `is_ready`. The emptiest pool is filled
    /// first, and standbys come last.
    pub fn next_work(&self, is_ready: impl Fn(&PackName) -> bool) -> Option<(&PackName, Work)> {
        let now = Instant::now();
        let pools = || {
            let ready = self.iter().filter(|(pack, _)| is_ready(pack));
            ready.filter(|(_, pool)| !pool.state.lock().rests(now))
        };
        let held: usize = self.by_pack.values().map(|pool| pool.state.lock().held()).sum();
        let emptiest = pools()
            .filter(|(_, pool)| held < self.held_max && pool.state.lock().wants_more())
            .min_by_key(|(_, pool)| pool.state.lock().held());
        let filling = emptiest.map(|(pack, _)| (pack, Work::Fill));
        filling.or_else(|| {
            let short = pools().find(|(_, pool)| pool.state.lock().standbys.len() < STANDBYS);
            short.map(|(pack, _)| (pack, Work::StandBy))
        })
    }

    /// Returns when the next work becomes due without a notification.
    pub fn next_deadline(&self) -> Option<Instant> {
        let deadlines = self.by_pack.values().flat_map(|pool| {
            let state = pool.state.lock();
            [state.rests_until, state.ceiling.next_sinking(self.pace.idle_before_shrink)]
        });
        deadlines.flatten().min()
    }

    /// Removes microVMs that ended or exceed the ceiling, and lowers ceilings that are due.
    pub fn tidy(&self, reaper: &Reaper) {
        let now = Instant::now();
        for pool in self.by_pack.values() {
            let mut state = pool.state.lock();
            state.ceiling.sink(now, self.pace.idle_before_shrink);
            if state.rests_until.is_some_and(|until| until <= now) {
                state.rests_until = None;
            }
            let dead: Vec<_> = state.ready.extract_if(.., |sandbox| !sandbox.is_fit()).collect();
            state.discarded += dead.len() as u64;
            let surplus = state.ready.len().saturating_sub(state.ceiling.now());
            // The oldest go.
            for sandbox in dead.into_iter().chain(state.ready.drain(..surplus)) {
                reaper.reap_later(sandbox);
            }
            for standby in state.standbys.extract_if(.., |standby| !standby.is_alive()) {
                reaper.drop_later(standby);
            }
        }
    }

    /// Empties every pool.
    pub fn clear(&self, reaper: &Reaper) {
        self.by_pack.values().for_each(|pool| pool.clear(reaper));
    }
}

impl Pool {
    fn new(target: usize) -> Self {
        let state = State {
            ready: Vec::new(),
            standbys: Vec::new(),
            filling: 0,
            lent: 0,
            refilling: false,
            ceiling: Ceiling::new(target),
            generation: 0,
            failures: 0,
            rests_until: None,
            handed_out: 0,
            missed: 0,
            discarded: 0,
        };
        Self { state: Mutex::new(state) }
    }

    /// Takes a ready microVM, else a standby, for a creation.
    pub fn take(&self, reaper: &Reaper) -> Taken {
        let mut state = self.state.lock();
        while let Some(sandbox) = state.ready.pop() {
            if sandbox.is_fit() {
                state.handed_out += 1;
                return Taken::Ready(sandbox);
            }
            state.discarded += 1;
            reaper.reap_later(sandbox);
        }
        if state.ceiling.target() > 0 {
            state.missed += 1;
            state.ceiling.rise(Instant::now());
        }
        match state.take_standby(reaper) {
            Some(standby) => Taken::Standby(standby),
            None => Taken::Nothing,
        }
    }

    /// Begins to make a microVM, with a head start if there is one.
    pub fn fill(&self, generation: u64, reaper: &Reaper) -> (Filling<'_>, Option<Standby>) {
        let mut state = self.state.lock();
        state.filling += 1;
        let standby = state.take_standby(reaper);
        (Filling { pool: self, generation }, standby)
    }

    /// Keeps `standby`, unless the pool was emptied since `generation`.
    pub fn keep_standby(&self, standby: Standby, generation: u64, reaper: &Reaper) {
        let mut state = self.state.lock();
        if state.generation == generation {
            state.succeed();
            state.standbys.push(standby.ahead());
        } else {
            drop(state);
            reaper.drop_later(standby);
        }
    }

    /// Changes when the pool is emptied.
    pub fn generation(&self) -> u64 {
        self.state.lock().generation
    }

    /// Records a failure: nothing is made until the retry is due.
    pub fn rest(&self) {
        let mut state = self.state.lock();
        let wait = RETRY * (1 << state.failures.min(RETRY_DOUBLINGS_MAX));
        state.failures += 1;
        state.rests_until = Some(Instant::now() + wait);
    }

    /// Ids of the microVMs that are ready, the oldest first.
    pub fn ready(&self) -> Vec<SandboxId> {
        self.state.lock().ready.iter().map(|sandbox| sandbox.id).collect()
    }

    /// Takes a microVM out for a health check, if the pool still holds it.
    pub fn lend(&self, id: SandboxId) -> Option<Lent<'_>> {
        let mut state = self.state.lock();
        let index = state.ready.iter().position(|sandbox| sandbox.id == id)?;
        let sandbox = state.ready.remove(index);
        state.lent += 1;
        Some(Lent { pool: self, sandbox, generation: state.generation })
    }

    /// Empties the pool, of its standbys too.
    pub fn clear(&self, reaper: &Reaper) {
        let mut state = self.state.lock();
        state.generation += 1;
        state.ready.drain(..).for_each(|sandbox| reaper.reap_later(sandbox));
        state.standbys.drain(..).for_each(|standby| reaper.drop_later(standby));
    }

    fn view(&self, pack: PackName) -> PoolView {
        let state = self.state.lock();
        PoolView {
            pack,
            ready: state.ready.len(),
            filling: state.filling,
            standing_by: state.standbys.len(),
            target: state.ceiling.target(),
            ceiling: state.ceiling.now(),
            handed_out: state.handed_out,
            missed: state.missed,
            discarded: state.discarded,
        }
    }
}

impl State {
    /// MicroVMs that are in the pool or will be.
    fn held(&self) -> usize {
        self.ready.len() + self.filling + self.lent
    }

    /// Whether the pool needs another microVM. A refill starts below the target and continues up
    /// to the ceiling, so that refills come in batches.
    fn wants_more(&mut self) -> bool {
        if self.held() < self.ceiling.target() {
            self.refilling = true;
        }
        if self.held() >= self.ceiling.now() {
            self.refilling = false;
        }
        self.refilling
    }

    fn rests(&self, now: Instant) -> bool {
        self.rests_until.is_some_and(|until| until > now)
    }

    fn succeed(&mut self) {
        (self.failures, self.rests_until) = (0, None);
    }

    fn take_standby(&mut self, reaper: &Reaper) -> Option<Standby> {
        while let Some(standby) = self.standbys.pop() {
            if standby.is_alive() {
                return Some(standby);
            }
            reaper.drop_later(standby);
        }
        None
    }
}

/// A microVM being made for a pool.
pub(crate) struct Filling<'a> {
    pool: &'a Pool,
    generation: u64,
}

impl Filling<'_> {
    /// Puts the microVM into the pool, unless the pool was emptied in the meantime.
    pub fn done(self, sandbox: Arc<Sandbox>, reaper: &Reaper) {
        let mut state = self.pool.state.lock();
        if state.generation == self.generation {
            state.succeed();
            state.ready.push(sandbox);
        } else {
            reaper.reap_later(sandbox);
        }
        // Counted as ready first, then dropped from those being filled.
        drop(state);
    }
}

impl Drop for Filling<'_> {
    fn drop(&mut self) {
        self.pool.state.lock().filling -= 1;
    }
}

/// A microVM taken out of the pool for a health check. Dropping it ends the microVM.
pub(crate) struct Lent<'a> {
    pool: &'a Pool,
    sandbox: Arc<Sandbox>,
    generation: u64,
}

impl Lent<'_> {
    pub fn sandbox(&self) -> &Sandbox {
        &self.sandbox
    }

    /// Puts the microVM back, unless the pool was emptied in the meantime. Checking all of them,
    /// the oldest first, preserves their order.
    pub fn give_back(self, reaper: &Reaper) {
        let mut state = self.pool.state.lock();
        let sandbox = Arc::clone(&self.sandbox);
        if state.generation == self.generation {
            state.ready.push(sandbox);
        } else {
            reaper.reap_later(sandbox);
        }
        drop(state);
    }

    pub fn discard(self, reaper: &Reaper) {
        self.pool.state.lock().discarded += 1;
        reaper.reap_later(Arc::clone(&self.sandbox));
    }
}

impl Drop for Lent<'_> {
    fn drop(&mut self) {
        self.pool.state.lock().lent -= 1;
    }
}
