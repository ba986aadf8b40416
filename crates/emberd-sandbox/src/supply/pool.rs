//! The warm pools, one for each language pack and each pinned shape: restored microVMs that wait
//! for a request, and standbys, VMMs that have not loaded their template yet.
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
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Mutex, RwLock};
use tokio::sync::Notify;

use super::reaper::Reaper;
use super::restore::Standby;
use crate::config::{Pace, PoolConfig};
use crate::id::SandboxId;
use crate::lifecycle::sandbox::Sandbox;
use crate::shape::Shape;

mod ceiling;

use ceiling::Ceiling;

/// Number of standbys of each pool. A refill takes one, and so does a creation that finds the
/// pool empty. Each holds some MiB and saves the start of a process.
const STANDBYS: usize = 1;

/// Wait after a microVM could not be made ahead; doubled with every further failure.
const RETRY: Duration = Duration::from_secs(1);

/// Most doublings of [`RETRY`]: about a minute.
const RETRY_DOUBLINGS_MAX: u32 = 6;

/// The warm pool of one shape as it is now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PoolView {
    /// Language pack and size.
    pub shape: Shape,
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
    by_shape: RwLock<BTreeMap<Shape, Arc<Pool>>>,
    pub pace: Pace,
    /// Most memory of the microVMs in all pools, in MiB.
    memory_mib_max: u64,
    /// Whether the host is short of memory: nothing is made ahead.
    is_short: AtomicBool,
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
    /// The microVM whose health is being checked.
    checked: Option<Checked>,
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

struct Checked {
    sandbox: Arc<Sandbox>,
    since: Instant,
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
    /// Returns empty pools for `shapes`; without `config` they hold only standbys.
    pub fn new<'a>(shapes: impl Iterator<Item = &'a Shape>, config: Option<&PoolConfig>) -> Self {
        let target = config.map_or(0, |config| config.size);
        let pool = |shape: &Shape| (shape.clone(), Arc::new(Pool::new(target)));
        Self {
            by_shape: RwLock::new(shapes.map(pool).collect()),
            pace: config.map_or_else(Pace::default, |config| config.pace),
            memory_mib_max: config.map_or(0, |config| config.memory_mib_max),
            is_short: AtomicBool::new(false),
            wake: Arc::new(Notify::new()),
        }
    }

    pub fn get(&self, shape: &Shape) -> Option<Arc<Pool>> {
        self.by_shape.read().get(shape).cloned()
    }

    pub fn all(&self) -> Vec<(Shape, Arc<Pool>)> {
        let by_shape = self.by_shape.read();
        by_shape.iter().map(|(shape, pool)| (shape.clone(), Arc::clone(pool))).collect()
    }

    pub fn views(&self) -> Vec<PoolView> {
        self.all().into_iter().map(|(shape, pool)| pool.view(shape)).collect()
    }

    /// Keeps `target` microVMs of `shape` ready, and VMMs that stand by.
    pub fn keep(&self, shape: &Shape, target: usize) {
        let mut by_shape = self.by_shape.write();
        let pool = by_shape.entry(shape.clone()).or_insert_with(|| Arc::new(Pool::new(0)));
        pool.state.lock().ceiling = Ceiling::new(target);
        self.wake.notify_one();
    }

    /// Ends the pool of `shape`.
    pub fn end(&self, shape: &Shape, reaper: &Reaper) {
        if let Some(pool) = self.by_shape.write().remove(shape) {
            pool.clear(reaper);
        }
    }

    /// Notes whether the host is short of memory, and empties every pool while it is; returns
    /// whether that has changed.
    pub fn set_short(&self, is_short: bool, reaper: &Reaper) -> bool {
        let has_changed = self.is_short.swap(is_short, Ordering::Relaxed) != is_short;
        if is_short {
            self.clear(reaper);
        }
        if has_changed {
            self.wake.notify_one();
        }
        has_changed
    }

    /// Returns the next work for a shape whose template `is_ready`; none while the host is short of
    /// memory. The emptiest pool is filled first, and standbys come last.
    pub fn next_work(&self, is_ready: impl Fn(&Shape) -> bool) -> Option<(Shape, Arc<Pool>, Work)> {
        if self.is_short.load(Ordering::Relaxed) {
            return None;
        }
        let now = Instant::now();
        let mut pools = self.all();
        let memory_mib = |(shape, pool): &(Shape, Arc<Pool>)| {
            u64::from(shape.size.memory_mib) * pool.state.lock().held() as u64
        };
        let held_mib: u64 = pools.iter().map(memory_mib).sum();
        let has_room =
            |shape: &Shape| held_mib + u64::from(shape.size.memory_mib) <= self.memory_mib_max;
        pools.retain(|(shape, pool)| is_ready(shape) && !pool.state.lock().rests(now));
        let emptiest = pools
            .iter()
            .filter(|(shape, pool)| has_room(shape) && pool.state.lock().wants_more())
            .min_by_key(|(_, pool)| pool.state.lock().held());
        let short = || pools.iter().find(|(_, pool)| pool.state.lock().standbys.len() < STANDBYS);
        let filling = emptiest.map(|pool| (pool, Work::Fill));
        let work = filling.or_else(|| short().map(|pool| (pool, Work::StandBy)));
        work.map(|((shape, pool), work)| (shape.clone(), Arc::clone(pool), work))
    }

    /// Returns when the next work becomes due without a notification.
    pub fn next_deadline(&self) -> Option<Instant> {
        let by_shape = self.by_shape.read();
        let deadlines = by_shape.values().flat_map(|pool| {
            let state = pool.state.lock();
            [state.rests_until, state.ceiling.next_sinking(self.pace.idle_before_shrink)]
        });
        deadlines.flatten().min()
    }

    /// Removes microVMs that ended or exceed the ceiling, and lowers ceilings that are due.
    pub fn tidy(&self, reaper: &Reaper) {
        let now = Instant::now();
        for (_, pool) in self.all() {
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
        self.all().iter().for_each(|(_, pool)| pool.clear(reaper));
    }
}

impl Pool {
    fn new(target: usize) -> Self {
        let state = State {
            ready: Vec::new(),
            standbys: Vec::new(),
            filling: 0,
            checked: None,
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

    /// Takes a ready microVM, else one whose health check began less than `trust` ago, else a
    /// standby, for a creation.
    pub fn take(&self, trust: Duration, reaper: &Reaper) -> Taken {
        let mut state = self.state.lock();
        while let Some(sandbox) = state.ready.pop() {
            if sandbox.is_fit() {
                state.handed_out += 1;
                return Taken::Ready(sandbox);
            }
            state.discarded += 1;
            reaper.reap_later(sandbox);
        }
        if let Some(checked) = state.checked.take_if(|checked| checked.is_trusted(trust)) {
            state.handed_out += 1;
            return Taken::Ready(checked.sandbox);
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

    /// Counts on a microVM of an earlier daemon, if there is room for it. [`Self::expected`] with
    /// what this returns is to follow.
    pub fn expect(&self) -> Option<u64> {
        let mut state = self.state.lock();
        let has_room = state.held() < state.ceiling.now();
        has_room.then(|| {
            state.filling += 1;
            state.generation
        })
    }

    /// Begins to meet the microVM that is counted on.
    pub fn expected(&self, generation: u64) -> Filling<'_> {
        Filling { pool: self, generation }
    }

    /// Takes the microVMs that wait, for a daemon that stops, and ends its standbys.
    pub fn leave(&self, reaper: &Reaper) -> Vec<Arc<Sandbox>> {
        let mut state = self.state.lock();
        state.generation += 1;
        state.standbys.drain(..).for_each(|standby| reaper.drop_later(standby));
        state.take_ready().collect()
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

    /// Begins a health check of a microVM, if the pool still holds it. [`Self::found_fit`] or
    /// [`Self::found_unfit`] follows. A creation that finds nothing else may take it meanwhile.
    pub fn check(&self, id: SandboxId) -> Option<Arc<Sandbox>> {
        let mut state = self.state.lock();
        let index = state.ready.iter().position(|sandbox| sandbox.id == id)?;
        let sandbox = state.ready.remove(index);
        state.checked = Some(Checked { sandbox: Arc::clone(&sandbox), since: Instant::now() });
        Some(sandbox)
    }

    /// Ends a health check that found the microVM well. Checking all of them, the oldest first,
    /// preserves their order.
    pub fn found_fit(&self, id: SandboxId) {
        let mut state = self.state.lock();
        if let Some(checked) = state.checked.take_if(|checked| checked.sandbox.id == id) {
            state.ready.push(checked.sandbox);
        }
    }

    /// Ends a health check that found the microVM unwell: it goes. Returns whether the pool still
    /// held it.
    pub fn found_unfit(&self, id: SandboxId, reaper: &Reaper) -> bool {
        let mut state = self.state.lock();
        let checked = state.checked.take_if(|checked| checked.sandbox.id == id);
        let is_held = checked.is_some();
        if let Some(checked) = checked {
            state.discarded += 1;
            reaper.reap_later(checked.sandbox);
        }
        is_held
    }

    /// Empties the pool, of its standbys too.
    pub fn clear(&self, reaper: &Reaper) {
        let mut state = self.state.lock();
        state.generation += 1;
        state.take_ready().for_each(|sandbox| reaper.reap_later(sandbox));
        state.standbys.drain(..).for_each(|standby| reaper.drop_later(standby));
    }

    fn view(&self, shape: Shape) -> PoolView {
        let state = self.state.lock();
        PoolView {
            shape,
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
        self.ready.len() + self.filling + usize::from(self.checked.is_some())
    }

    fn take_ready(&mut self) -> impl Iterator<Item = Arc<Sandbox>> {
        let checked = self.checked.take().map(|checked| checked.sandbox);
        self.ready.drain(..).chain(checked)
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

impl Checked {
    fn is_trusted(&self, trust: Duration) -> bool {
        self.since.elapsed() < trust && self.sandbox.lives()
    }
}
