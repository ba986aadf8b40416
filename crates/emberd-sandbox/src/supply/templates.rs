//! The templates of one daemon: one for each language pack.
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
//! host is not clearly the cause. A single failure has the template verified again.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use emberd_image::PackName;
use emberd_vmm::{Template, TemplateKey};
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::restore::Blame;

mod build;
pub(crate) mod builder;
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

/// State of a language pack's template.
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

/// The template of one language pack as it is now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TemplateView {
    /// The language pack.
    pub pack: PackName,
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
    #[error("the template of `{0}` was removed during its build")]
    Removed(PackName),
    /// The build failed.
    #[error("the template of `{pack}` could not be built: {error}")]
    Failed {
        /// The language pack.
        pack: PackName,
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
    slots: BTreeMap<PackName, Slot>,
    /// Notified when a template may need a build.
    work: Notify,
    /// Held by the task that changes the directory: one build at a time.
    build_lock: tokio::sync::Mutex<()>,
}

/// The place of one pack's template.
struct Slot {
    key: TemplateKey,
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
    /// Opens the directory; every template is wanted. Blocks.
    pub fn open(dir: &Path, keys: BTreeMap<PackName, TemplateKey>) -> io::Result<Self> {
        let current: BTreeSet<_> = keys.iter().map(|(pack, key)| store::name(pack, key)).collect();
        let slot = |key| {
            let plan = Plan {
                state: State::building(),
                failures: 0,
                misses: 0,
                doubted: false,
                invalidated: None,
            };
            Slot { key, plan: watch::Sender::new(plan) }
        };
        Ok(Self {
            store: Store::open(dir, &current)?,
            slots: keys.into_iter().map(|(pack, key)| (pack, slot(key))).collect(),
            work: Notify::new(),
            build_lock: tokio::sync::Mutex::new(()),
        })
    }

    /// The template of `pack`, if sandboxes can be restored from it.
    pub fn ready(&self, pack: &PackName) -> Option<Arc<Template>> {
        self.slots.get(pack)?.plan.borrow().state.ready().cloned()
    }

    pub fn views(&self) -> Vec<TemplateView> {
        self.slots.iter().map(|(pack, slot)| slot.view(pack)).collect()
    }

    /// Whether every template has failed and none is due for another build.
    pub fn have_all_failed(&self) -> bool {
        self.slots.values().all(|slot| matches!(slot.plan.borrow().state, State::Failed(..)))
    }

    /// Records that a microVM was restored from `template`.
    pub fn confirm(&self, pack: &PackName, template: &Arc<Template>) {
        let Some(slot) = self.slots.get(pack) else { return };
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
        pack: &PackName,
        template: &Arc<Template>,
        blame: Blame,
        error: &str,
    ) -> bool {
        let Some(slot) = self.slots.get(pack) else { return false };
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
            tracing::warn!(%pack, dir = %template.dir().display(), "template invalidated");
        }
        self.work.notify_one();
        invalidated
    }

    /// Returns the template once it is ready; builds it if it does not exist.
    pub async fn build(&self, pack: &PackName) -> Result<TemplateView, BuildTemplateError> {
        let slot = self.slots.get(pack);
        let slot = slot.ok_or_else(|| BuildTemplateError::UnknownPack(pack.clone()))?;
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
                Err(BuildTemplateError::Failed { pack: pack.clone(), error: error.clone() })
            }
            State::Absent => Err(BuildTemplateError::Removed(pack.clone())),
            State::Ready(_) | State::Building(_) => {
                drop(plan);
                Ok(slot.view(pack))
            }
        }
    }

    /// Removes the template and cancels its build. Calls `empty` once no more microVMs are
    /// restored from the template.
    pub async fn remove(
        &self,
        pack: &PackName,
        empty: impl FnOnce(),
    ) -> Result<(), RemoveTemplateError> {
        let slot = self.slots.get(pack);
        let slot = slot.ok_or_else(|| RemoveTemplateError::UnknownPack(pack.clone()))?;
        slot.plan.send_modify(|plan| {
            if let State::Building(cut) = &plan.state {
                cut.cancel();
            }
            (plan.state, plan.failures, plan.invalidated) = (State::Absent, 0, None);
        });
        empty();
        let _build_lock = self.build_lock.lock().await;
        if slot.plan.borrow().state.ready().is_some() {
            // Another caller has requested the template again in the meantime.
            return Ok(());
        }
        let dir = self.store.path(pack, &slot.key);
        store::remove(&dir).map_err(|source| RemoveTemplateError::Leftover { dir, source })
    }
}

impl Plan {
    fn is_of(&self, template: &Arc<Template>) -> bool {
        self.state.ready().is_some_and(|ready| Arc::ptr_eq(ready, template))
    }
}

impl Slot {
    fn view(&self, pack: &PackName) -> TemplateView {
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
        TemplateView { pack: pack.clone(), state, error, dir, disk_bytes, made_at }
    }
}
