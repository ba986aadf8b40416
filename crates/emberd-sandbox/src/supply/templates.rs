//! The templates of one daemon: of each default shape, and of shapes pinned or asked for twice.
//!
//! ```text
//!            start, build                    verified or made
//! Absent ────────────────▶ Building ─────────────────────────────────▶ Ready
//!   ▲  ▲                     │   ▲ build, or in time ─┐                  │
//!   │  └──── remove ─────────┴ failed ──────▶ Failed ◀── invalidated ──────┤
//!   └──────────────────────── remove ───────────┴────────────────────────┘
//! ```
//!
//! A template is invalidated when it is damaged, or when two restores in a row fail and the
//! host is not clearly the cause. A single failure has it verified again.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use emberd_image::PackName;
use emberd_vmm::{Template, TemplateKey};
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::restore::Blame;
use crate::bounds::ResourceError;
use crate::shape::Shape;

mod build;
pub(crate) mod builder;
mod room;
mod store;

use store::Store;

/// Number of restores in a row that fail before the template is invalidated. A single failure
/// may be the host's fault, whatever its error says.
const MISSES_MAX: u32 = 2;

/// Number of failures in a row after which a template is no longer built again automatically. A
/// build takes many seconds of processor time, and a build that fails this often needs a person.
const FAILURES_MAX: u32 = 5;

/// Wait before a template is built again after a failure; doubled with every further one.
const RETRY: Duration = Duration::from_secs(1);

/// A shape that is asked for twice within this time gets a template. A build takes seconds of
/// processor time, which a single sandbox does not repay.
const ASKED_AGAIN: Duration = Duration::from_secs(600);

/// Most shapes with a template or a request for one; beyond it a new shape boots cold.
const SHAPES_MAX: usize = 256;

/// Most shapes that callers pin.
pub(crate) const PINNED_MAX: usize = 64;

/// State of a template.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TemplateState {
    /// The template does not exist; sandboxes boot cold.
    Absent,
    /// The template is being built or verified.
    Building,
    /// Sandboxes are restored from the template.
    Ready,
    /// The build failed; sandboxes boot cold.
    Failed,
}

/// The template of one shape as it is now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TemplateView {
    /// Language pack and size.
    pub shape: Shape,
    /// Whether it stays, even if it is not used: the default of its pack, or pinned.
    pub is_pinned: bool,
    /// State of the template.
    pub state: TemplateState,
    /// Why the build failed, with every cause; none unless the state is `Failed`.
    pub error: Option<String>,
    /// Its directory; none unless it is ready.
    pub dir: Option<PathBuf>,
    /// Bytes its files take on disk; none unless it is ready.
    pub disk_bytes: Option<u64>,
    /// When it was made; none unless it is ready.
    pub made_at: Option<SystemTime>,
}

/// Why a template is not ready.
#[derive(Debug, thiserror::Error)]
pub enum BuildTemplateError {
    /// No such language pack is installed.
    #[error("unknown language pack `{0}`")]
    UnknownPack(PackName),
    /// This daemon makes no templates.
    #[error("this daemon makes no templates: {0}")]
    NoTemplates(String),
    /// [`shutdown`](crate::Sandboxes::shutdown) has begun.
    #[error("the daemon is shutting down")]
    ShuttingDown,
    /// The template was removed during its build.
    #[error("the template of {0} was removed during its build")]
    Removed(Shape),
    /// Too many shapes are pinned.
    #[error("the limit of {PINNED_MAX} pinned shapes is reached")]
    TooManyPinned,
    /// The size is not one that the daemon makes.
    #[error(transparent)]
    Resources(#[from] ResourceError),
    /// The build failed.
    #[error("the template of {shape} could not be built: {error}")]
    Failed {
        /// Language pack and size.
        shape: Shape,
        /// Why, with every cause. Several callers may wait for one build.
        error: String,
    },
}

/// Why a template was not removed.
#[derive(Debug, thiserror::Error)]
pub enum RemoveTemplateError {
    /// No such language pack is installed.
    #[error("unknown language pack `{0}`")]
    UnknownPack(PackName),
    /// This daemon makes no templates.
    #[error("this daemon makes no templates: {0}")]
    NoTemplates(String),
    /// The size is not one that the daemon makes.
    #[error(transparent)]
    Resources(#[from] ResourceError),
    /// Its files could not be removed.
    #[error("cannot remove {}", dir.display())]
    Leftover {
        /// Its directory.
        dir: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// The templates of one daemon.
pub(crate) struct Templates {
    store: Store,
    shapes: Mutex<Shapes>,
    /// Most disk space of the templates together, in bytes; those that stay count too.
    disk_bytes_max: u64,
    /// Notified when a template may need a build.
    work: Notify,
    /// Held by the task that changes the directory: one build at a time.
    build_lock: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct Shapes {
    slots: BTreeMap<Shape, Arc<Slot>>,
    /// When a shape without a slot was last asked for.
    asked: BTreeMap<Shape, Instant>,
}

/// The place of one shape's template.
struct Slot {
    shape: Shape,
    key: TemplateKey,
    /// Whether it is of the default size of its pack.
    is_default: bool,
    is_pinned: AtomicBool,
    /// When a sandbox was last restored from it; at first, when the daemon learned of it.
    used: Mutex<SystemTime>,
    plan: watch::Sender<Plan>,
}

/// State of a template and the work pending on it.
struct Plan {
    state: State,
    /// Failures in a row of builds, and of templates that were built.
    failures: u32,
    /// Restores in a row that failed.
    misses: u32,
    /// Whether the template must be verified again.
    doubted: bool,
    /// The template that must not be used again, should it still be there.
    invalidated: Option<Arc<Template>>,
}

enum State {
    Absent,
    Building(CancellationToken),
    Ready(Arc<Template>),
    /// Why, and when it is tried again, if it is.
    Failed(String, Option<Instant>),
}

impl State {
    fn building() -> Self {
        Self::Building(CancellationToken::new())
    }

    fn ready(&self) -> Option<&Arc<Template>> {
        if let Self::Ready(template) = self { Some(template) } else { None }
    }
}

impl Plan {
    fn fail(&mut self, error: String) {
        let retry = RETRY * (1 << self.failures.min(FAILURES_MAX));
        self.failures += 1;
        let due = (self.failures < FAILURES_MAX).then(|| Instant::now() + retry);
        self.state = State::Failed(error, due);
        (self.misses, self.doubted) = (0, false);
    }
}

impl Templates {
    /// Opens the directory; the template of every shape of `defaults` is wanted. Templates of other
    /// sizes that are there are used too, if `key_of` says that they are of today. Blocks.
    pub fn open(
        dir: &Path,
        defaults: &[Shape],
        key_of: impl Fn(&Shape) -> Option<TemplateKey>,
        disk_bytes_max: u64,
    ) -> io::Result<Self> {
        let (store, found) = Store::open(dir, |shape, key| key_of(shape).as_ref() == Some(key))?;
        let mut slots = BTreeMap::new();
        let shapes = defaults.iter().map(|shape| (shape, true));
        for (shape, is_default) in shapes.chain(found.iter().map(|shape| (shape, false))) {
            if slots.len() < SHAPES_MAX
                && let Some(key) = key_of(shape)
            {
                let slot = || Arc::new(Slot::new(shape.clone(), key, is_default));
                slots.entry(shape.clone()).or_insert_with(slot);
            }
        }
        Ok(Self {
            store,
            shapes: Mutex::new(Shapes { slots, asked: BTreeMap::new() }),
            disk_bytes_max,
            work: Notify::new(),
            build_lock: tokio::sync::Mutex::new(()),
        })
    }

    fn slot(&self, shape: &Shape) -> Option<Arc<Slot>> {
        self.shapes.lock().slots.get(shape).cloned()
    }

    fn slots(&self) -> Vec<Arc<Slot>> {
        self.shapes.lock().slots.values().cloned().collect()
    }

    /// The template of `shape`, if sandboxes can be restored from it.
    pub fn ready(&self, shape: &Shape) -> Option<Arc<Template>> {
        let shapes = self.shapes.lock();
        let slot = shapes.slots.get(shape)?;
        let template = slot.plan.borrow().state.ready().cloned()?;
        *slot.used.lock() = SystemTime::now();
        Some(template)
    }

    /// Records that a sandbox of `shape` boots cold. The second time within [`ASKED_AGAIN`] its
    /// template is wanted.
    pub fn ask(&self, shape: &Shape, key_of: impl FnOnce() -> Option<TemplateKey>) {
        let mut shapes = self.shapes.lock();
        if shapes.slots.contains_key(shape) {
            return;
        }
        let now = Instant::now();
        shapes.asked.retain(|_, asked| now.duration_since(*asked) < ASKED_AGAIN);
        if shapes.asked.remove(shape).is_none() {
            if shapes.asked.len() < SHAPES_MAX {
                shapes.asked.insert(shape.clone(), now);
            }
        } else if shapes.slots.len() < SHAPES_MAX
            && let Some(key) = key_of()
        {
            let slot = Arc::new(Slot::new(shape.clone(), key, false));
            shapes.slots.insert(shape.clone(), slot);
            self.work.notify_one();
        }
    }

    pub fn views(&self) -> Vec<TemplateView> {
        self.slots().iter().map(|slot| slot.view()).collect()
    }

    /// Whether the template of every default shape has failed and none is due for another build.
    pub fn have_all_failed(&self) -> bool {
        let slots = self.slots();
        let mut defaults = slots.iter().filter(|slot| slot.is_default);
        defaults.all(|slot| matches!(slot.plan.borrow().state, State::Failed(..)))
    }

    /// Records that a microVM was restored from `template`.
    pub fn confirm(&self, shape: &Shape, template: &Arc<Template>) {
        let Some(slot) = self.slot(shape) else { return };
        slot.plan.send_if_modified(|plan| {
            if plan.is_of(template) {
                (plan.misses, plan.failures) = (0, 0);
            }
            // No task waits for this change.
            false
        });
    }

    /// Records that a restore from `template` failed. Returns whether that invalidated it.
    pub fn blame(
        &self,
        shape: &Shape,
        template: &Arc<Template>,
        blame: Blame,
        error: &str,
    ) -> bool {
        let Some(slot) = self.slot(shape) else { return false };
        let invalidated = slot.plan.send_if_modified(|plan| {
            if !plan.is_of(template) {
                return false;
            }
            plan.doubted = true;
            plan.misses += u32::from(blame == Blame::Unclear);
            if blame != Blame::Template && plan.misses < MISSES_MAX {
                return false;
            }
            plan.invalidated = Some(Arc::clone(template));
            plan.fail(format!("restoring from the template failed: {error}"));
            true
        });
        if invalidated {
            tracing::warn!(%shape, dir = %template.dir().display(), "template invalidated");
        }
        self.work.notify_one();
        invalidated
    }

    /// Pins `shape`: its template is wanted, and stays.
    pub fn pin(
        &self,
        shape: &Shape,
        key_of: impl FnOnce() -> Option<TemplateKey>,
    ) -> Result<(), BuildTemplateError> {
        let mut shapes = self.shapes.lock();
        let is_pinned = |slot: &Slot| slot.is_pinned.load(Ordering::Relaxed);
        let pinned = shapes.slots.values().filter(|slot| is_pinned(slot)).count();
        let known = shapes.slots.get(shape);
        if known.is_some_and(|slot| slot.is_default || is_pinned(slot)) {
            return Ok(());
        }
        if pinned >= PINNED_MAX {
            return Err(BuildTemplateError::TooManyPinned);
        }
        let slot = match (known, key_of()) {
            (Some(slot), _) => Arc::clone(slot),
            (None, Some(key)) => Arc::new(Slot::new(shape.clone(), key, false)),
            (None, None) => return Err(BuildTemplateError::UnknownPack(shape.pack.clone())),
        };
        slot.is_pinned.store(true, Ordering::Relaxed);
        shapes.slots.insert(shape.clone(), slot);
        Ok(())
    }

    /// Returns the template once it is ready; builds it if it does not exist.
    pub async fn build(&self, shape: &Shape) -> Result<TemplateView, BuildTemplateError> {
        let slot = self.slot(shape);
        let slot = slot.ok_or_else(|| BuildTemplateError::UnknownPack(shape.pack.clone()))?;
        let mut plans = slot.plan.subscribe();
        slot.plan.send_if_modified(|plan| {
            let wanted = matches!(plan.state, State::Absent | State::Failed(..));
            if wanted {
                (plan.state, plan.failures) = (State::building(), 0);
            }
            wanted
        });
        self.work.notify_one();
        let plan = plans.wait_for(|plan| !matches!(plan.state, State::Building(_))).await;
        let plan = plan.expect("the sender lives as long as this");
        match &plan.state {
            State::Failed(error, _) => {
                Err(BuildTemplateError::Failed { shape: shape.clone(), error: error.clone() })
            }
            State::Absent => Err(BuildTemplateError::Removed(shape.clone())),
            State::Ready(_) | State::Building(_) => {
                drop(plan);
                Ok(slot.view())
            }
        }
    }

    /// Removes the template and cancels its build. Calls `empty` once no more microVMs are
    /// restored from the template. A shape that is not a default is forgotten.
    pub async fn remove(
        &self,
        shape: &Shape,
        empty: impl FnOnce(),
    ) -> Result<(), RemoveTemplateError> {
        let Some(slot) = self.slot(shape) else { return Ok(()) };
        if !slot.is_default {
            self.shapes.lock().slots.remove(shape);
        }
        slot.cancel();
        empty();
        let _build_lock = self.build_lock.lock().await;
        let current = self.slot(shape);
        if current.is_some_and(|slot| slot.plan.borrow().state.ready().is_some()) {
            // Another caller has requested the template again in the meantime.
            return Ok(());
        }
        let dir = self.store.path(&slot.shape.pack, &slot.key);
        store::remove(&dir).map_err(|source| RemoveTemplateError::Leftover { dir, source })
    }
}

impl Plan {
    fn is_of(&self, template: &Arc<Template>) -> bool {
        self.state.ready().is_some_and(|ready| Arc::ptr_eq(ready, template))
    }
}

impl Slot {
    fn new(shape: Shape, key: TemplateKey, is_default: bool) -> Self {
        let plan = Plan {
            state: State::building(),
            failures: 0,
            misses: 0,
            doubted: false,
            invalidated: None,
        };
        let (used, plan) = (Mutex::new(SystemTime::now()), watch::Sender::new(plan));
        Self { shape, key, is_default, is_pinned: AtomicBool::new(false), used, plan }
    }

    /// Whether the template stays, even if it is not used.
    fn stays(&self) -> bool {
        self.is_default || self.is_pinned.load(Ordering::Relaxed)
    }

    /// Cancels the build, and lets nothing be restored from the template any more.
    fn cancel(&self) {
        self.plan.send_modify(|plan| {
            if let State::Building(cut) = &plan.state {
                cut.cancel();
            }
            (plan.state, plan.failures, plan.invalidated) = (State::Absent, 0, None);
        });
    }

    fn view(&self) -> TemplateView {
        let plan = self.plan.borrow();
        let (state, error, template) = match &plan.state {
            State::Absent => (TemplateState::Absent, None, None),
            State::Building(_) => (TemplateState::Building, None, None),
            State::Ready(template) => (TemplateState::Ready, None, Some(Arc::clone(template))),
            State::Failed(error, _) => (TemplateState::Failed, Some(error.clone()), None),
        };
        drop(plan);
        let (disk_bytes, made_at) =
            template.as_deref().map(store::size_and_age).unwrap_or_default();
        let dir = template.map(|template| template.dir().to_owned());
        let (shape, is_pinned) = (self.shape.clone(), self.stays());
        TemplateView { shape, is_pinned, state, error, dir, disk_bytes, made_at }
    }
}
