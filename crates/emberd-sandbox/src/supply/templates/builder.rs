//! Builds the requested templates one at a time, in the background.

use std::sync::Arc;

use emberd_proto::chain;
use emberd_vmm::{Template, TemplateError};
use tokio::task::spawn_blocking;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;

use super::build::{MakeError, make};
use super::store::{self, open_verified};
use super::{Plan, Slot, State, Templates};
use crate::supply::sources::Sources;

/// The pack whose template is built first: the default for callers that name no pack.
const FIRST_PACK: &str = "python";

/// Why a template could not be obtained.
#[derive(Debug, thiserror::Error)]
enum ObtainError {
    /// The template's directory holds an unusable template that cannot be removed.
    #[error("cannot remove the unusable template")]
    Remove(#[source] std::io::Error),
    /// The build failed.
    #[error(transparent)]
    Make(#[from] MakeError),
}

/// Work on one template.
enum Task {
    Obtain(CancellationToken),
    Verify(Arc<Template>),
}

/// Builds and verifies templates on request; never returns.
pub(crate) async fn build_all(sources: Arc<Sources>, templates: Arc<Templates>) {
    loop {
        let woken = templates.work.notified();
        match templates.next_task() {
            Some((slot, Task::Obtain(cut))) => obtain(&sources, &templates, &slot, cut).await,
            Some((slot, Task::Verify(template))) => verify(&sources, &slot, template).await,
            None => match templates.next_retry() {
                // A notification and the deadline have the same effect.
                Some(deadline) => drop(timeout_at(deadline, woken).await),
                None => woken.await,
            },
        }
    }
}

impl Templates {
    /// Returns the next task. Requested builds come before retries of failed builds, and those of
    /// the default sizes first.
    fn next_task(&self) -> Option<(Arc<Slot>, Task)> {
        let mut slots = self.slots();
        slots.sort_by_key(|slot| (!slot.is_default, slot.shape.pack.as_str() != FIRST_PACK));
        let wanted = slots.iter().find_map(|slot| Some((Arc::clone(slot), slot.wanted()?)));
        let retry = || slots.iter().find_map(|slot| Some((Arc::clone(slot), slot.retry()?)));
        wanted.or_else(retry)
    }

    fn next_retry(&self) -> Option<Instant> {
        let retry = |slot: &Arc<Slot>| match slot.plan.borrow().state {
            State::Failed(_, due) => due,
            _ => None,
        };
        self.slots().iter().filter_map(retry).min()
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
            // No task waits for this change.
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

    /// Ends a build, unless it was cancelled.
    fn settle(&self, cut: &CancellationToken, end: impl FnOnce(&mut Plan)) {
        self.plan.send_modify(|plan| {
            if !cut.is_cancelled() {
                end(plan);
            }
        });
    }
}

async fn obtain(sources: &Sources, templates: &Templates, slot: &Slot, cut: CancellationToken) {
    let build_lock = templates.build_lock.lock().await;
    let (started, shape) = (Instant::now(), &slot.shape);
    let obtained = cut.run_until_cancelled(open_or_make(sources, templates, slot)).await;
    match obtained {
        None => tracing::info!(%shape, "template removed while it was built"),
        Some(Ok(template)) => {
            let dir = template.dir().display();
            tracing::info!(%shape, %dir, after = ?started.elapsed(), "template ready");
            let template = Arc::new(template);
            slot.settle(&cut, |plan| plan.state = State::Ready(template));
            templates.make_room(shape);
        }
        Some(Err(error)) => {
            let error = chain(&error);
            tracing::error!(%shape, error, after = ?started.elapsed(), "no template");
            slot.settle(&cut, |plan| plan.fail(error));
        }
    }
    drop(build_lock);
    sources.pools.wake.notify_one();
}

/// Returns the existing template if it is usable, else builds a new one.
async fn open_or_make(
    sources: &Sources,
    templates: &Templates,
    slot: &Slot,
) -> Result<Template, ObtainError> {
    let shape = &slot.shape;
    let path = templates.store.path(&shape.pack, &slot.key);
    let invalidated = slot.plan.borrow().invalidated.clone();
    match opened(&path, slot).await {
        Ok(template) if invalidated.as_deref() != Some(&template) => return Ok(template),
        Ok(_) => tracing::info!(%shape, "removing the invalidated template"),
        Err(TemplateError::Read { source, .. })
            if source.kind() == std::io::ErrorKind::NotFound && !path.exists() => {}
        Err(error) => {
            let error = &error as &dyn std::error::Error;
            tracing::warn!(%shape, error, "removing an unusable template");
        }
    }
    store::remove(&path).map_err(ObtainError::Remove)?;
    slot.plan.send_modify(|plan| plan.invalidated = None);
    tracing::info!(%shape, "building a template");
    let base = &sources.base;
    let made = make(base, &base.sandbox(shape), sources.image(&shape.pack), &path).await;
    match made {
        Ok(template) => Ok(template),
        // Another daemon may have published the template first.
        Err(error @ MakeError::Snapshot(_)) => {
            opened(&path, slot).await.map_err(|_nothing_there| error.into())
        }
        Err(error) => Err(error.into()),
    }
}

/// Opens and verifies the template at `path` on a blocking thread.
async fn opened(path: &std::path::Path, slot: &Slot) -> Result<Template, TemplateError> {
    let (path, key) = (path.to_owned(), slot.key.clone());
    let opened = spawn_blocking(move || open_verified(&path, &key)).await;
    opened.unwrap_or_else(|panicked| std::panic::resume_unwind(panicked.into_panic()))
}

/// Verifies a template after a restore from it failed.
async fn verify(sources: &Sources, slot: &Slot, template: Arc<Template>) {
    if let Err(error) = opened(template.dir(), slot).await {
        sources.invalidate(&slot.shape, &template, &error);
    }
}
