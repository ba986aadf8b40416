//! Builds what templates are wanted, one at a time, behind everybody's back.

use std::sync::Arc;

use emberd_guest::chain;
use emberd_image::PackName;
use emberd_vmm::{Template, TemplateError};
use tokio::task::spawn_blocking;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;

use super::build::{MakeError, make};
use super::store::{self, open_verified};
use super::{Plan, Slot, State, Templates};
use crate::supply::sources::Sources;

/// The pack whose template is built first: the one callers get who name none.
const FIRST_PACK: &str = "python";

/// Why there is no template.
#[derive(Debug, thiserror::Error)]
enum ObtainError {
    /// What lies in its place cannot be removed.
    #[error("cannot remove the unusable template")]
    Remove(#[source] std::io::Error),
    /// It was not made.
    #[error(transparent)]
    Make(#[from] MakeError),
}

/// What there is to do.
enum Task {
    Obtain(CancellationToken),
    Verify(Arc<Template>),
}

/// Does what is wanted; never ends.
pub(crate) async fn build_all(sources: Arc<Sources>, templates: Arc<Templates>) {
    loop {
        let woken = templates.work.notified();
        match templates.next_task() {
            Some((pack, slot, Task::Obtain(cut))) => {
                obtain(&sources, &templates, pack, slot, cut).await;
            }
            Some((pack, slot, Task::Verify(template))) => {
                verify(&sources, pack, slot, template).await;
            }
            None => match templates.next_retry() {
                // Whether it was told or it is time makes no difference.
                Some(deadline) => drop(timeout_at(deadline, woken).await),
                None => woken.await,
            },
        }
    }
}

impl Templates {
    /// What is wanted comes before what failed and is tried again.
    fn next_task(&self) -> Option<(&PackName, &Slot, Task)> {
        let first = self.slots.iter().filter(|(pack, _)| pack.as_str() == FIRST_PACK);
        let others = self.slots.iter().filter(|(pack, _)| pack.as_str() != FIRST_PACK);
        let slots = || first.clone().chain(others.clone());
        let wanted = slots().find_map(|(pack, slot)| Some((pack, slot, slot.wanted()?)));
        wanted.or_else(|| slots().find_map(|(pack, slot)| Some((pack, slot, slot.retry()?))))
    }

    fn next_retry(&self) -> Option<Instant> {
        let retry = |slot: &Slot| match slot.plan.borrow().state {
            State::Failed(_, due) => due,
            _ => None,
        };
        self.slots.values().filter_map(retry).min()
    }
}

impl Slot {
    fn wanted(&self) -> Option<Task> {
        let mut task = None;
        self.plan.send_if_modified(|plan| {
            task = match &plan.state {
                State::Building(cut) => Some(Task::Obtain(cut.clone())),
                State::Ready(template) if std::mem::take(&mut plan.doubted) => {
                    Some(Task::Verify(Arc::clone(template)))
                }
                _ => None,
            };
            // Nobody waits for that.
            false
        });
        task
    }

    fn retry(&self) -> Option<Task> {
        let cut = CancellationToken::new();
        let due = self.plan.send_if_modified(|plan| {
            let due = matches!(plan.state, State::Failed(_, Some(due)) if due <= Instant::now());
            if due {
                plan.state = State::Building(cut.clone());
            }
            due
        });
        due.then_some(Task::Obtain(cut))
    }

    /// Ends a build, unless it was cut off.
    fn settle(&self, cut: &CancellationToken, end: impl FnOnce(&mut Plan)) {
        self.plan.send_modify(|plan| {
            if !cut.is_cancelled() {
                end(plan);
            }
        });
    }
}

async fn obtain(
    sources: &Sources,
    templates: &Templates,
    pack: &PackName,
    slot: &Slot,
    cut: CancellationToken,
) {
    let turn = templates.turn.lock().await;
    let started = Instant::now();
    let obtained = cut.run_until_cancelled(open_or_make(sources, templates, pack, slot)).await;
    match obtained {
        None => tracing::info!(%pack, "template removed while it was built"),
        Some(Ok(template)) => {
            let dir = template.dir().display();
            tracing::info!(%pack, %dir, after = ?started.elapsed(), "template ready");
            let template = Arc::new(template);
            slot.settle(&cut, |plan| plan.state = State::Ready(template));
        }
        Some(Err(error)) => {
            let error = chain(&error);
            tracing::error!(%pack, error, after = ?started.elapsed(), "no template");
            slot.settle(&cut, |plan| plan.fail(error));
        }
    }
    drop(turn);
    sources.pools.wake.notify_one();
}

/// The template that lies there, else a new one.
async fn open_or_make(
    sources: &Sources,
    templates: &Templates,
    pack: &PackName,
    slot: &Slot,
) -> Result<Template, ObtainError> {
    let path = templates.store.path(pack, &slot.key);
    let invalidated = slot.plan.borrow().invalidated.clone();
    match opened(&path, slot).await {
        Ok(template) if invalidated.as_deref() != Some(&template) => return Ok(template),
        Ok(_) => tracing::info!(%pack, "removing the invalidated template"),
        Err(TemplateError::Read { source, .. })
            if source.kind() == std::io::ErrorKind::NotFound && !path.exists() => {}
        Err(error) => {
            let error = &error as &dyn std::error::Error;
            tracing::warn!(%pack, error, "removing an unusable template");
        }
    }
    store::remove(&path).map_err(ObtainError::Remove)?;
    slot.plan.send_modify(|plan| plan.invalidated = None);
    tracing::info!(%pack, "building a template");
    let base = &sources.base;
    let made = make(base, &base.sandbox(pack), sources.image(pack), &path).await;
    match made {
        Ok(template) => Ok(template),
        // Perhaps another daemon was faster.
        Err(error @ MakeError::Snapshot(_)) => {
            opened(&path, slot).await.map_err(|_nothing_there| error.into())
        }
        Err(error) => Err(error.into()),
    }
}

/// Opens and verifies the template at `path`, on a thread that may block.
async fn opened(path: &std::path::Path, slot: &Slot) -> Result<Template, TemplateError> {
    let (path, key) = (path.to_owned(), slot.key.clone());
    let opened = spawn_blocking(move || open_verified(&path, &key)).await;
    opened.unwrap_or_else(|panicked| std::panic::resume_unwind(panicked.into_panic()))
}

/// Reads a template again of which a restore failed.
async fn verify(sources: &Sources, pack: &PackName, slot: &Slot, template: Arc<Template>) {
    if let Err(error) = opened(template.dir(), slot).await {
        sources.invalidate(pack, &template, &error);
    }
}
