//! Freezes a sandbox that nobody uses, and thaws it for the next request.
//!
//! ```text
//!          unused, no program runs           request, touch
//! Running ───────── pause ────────▶ Frozen ───── resume ─────▶ Running
//! ```
//! The phase is `Frozen` from before the pause until after the resume. One transition is under way
//! at a time, and a request that comes meanwhile waits for it: many at once cause one resume.

use std::sync::Arc;
use std::time::Duration;

use emberd_proto::{Metrics, chain};
use tokio::time::{Instant, timeout};

use super::journal::Stage;
use super::phase::{Phase, PhaseKind, Request};
use super::reach::Unreached;
use super::sandbox::Sandbox;
use crate::error::OperationError;

/// Longest wait for the guest to tell what runs in it, or to set its clock. One that does not
/// answer is not frozen, or goes on with a late clock.
const ASK_MAX: Duration = Duration::from_secs(5);

/// Longest wait for a VMM to pause or resume its guest.
const TRANSITION_MAX: Duration = Duration::from_secs(30);

/// Pause before another attempt, after a VMM has refused.
const REFUSED_PAUSE: Duration = Duration::from_secs(600);

/// A sandbox in use: it is not frozen until this is dropped.
pub struct InUse {
    sandbox: Arc<Sandbox>,
    thaw: Option<Duration>,
}

impl InUse {
    /// Returns how long the thaw took, if there was one.
    pub fn thaw(&self) -> Option<Duration> {
        self.thaw
    }
}

impl Drop for InUse {
    fn drop(&mut self) {
        self.sandbox.usage.leave();
    }
}

impl Sandbox {
    /// Notes that a use begins of a sandbox that is not frozen: its creation is one.
    pub fn occupy(self: &Arc<Self>) -> InUse {
        self.usage.enter();
        InUse { sandbox: Arc::clone(self), thaw: None }
    }

    /// Notes that a request begins, and thaws the sandbox; `forced`, also one that its callers
    /// want to stay frozen. A sandbox that does not run is left as it is.
    pub async fn enter(self: &Arc<Self>, forced: bool) -> Result<InUse, OperationError> {
        let mut in_use = self.occupy();
        if self.usage.is_frozen() {
            in_use.thaw = self.thaw(forced).await?;
        }
        self.reached().await?;
        Ok(in_use)
    }

    /// Waits until the guest has answered this daemon, which one that is frozen does not.
    pub async fn reached(&self) -> Result<(), OperationError> {
        let unreachable = |Unreached| OperationError::Unreachable(self.id);
        tokio::select! {
            reached = self.reach.met() => reached.map_err(unreachable),
            // Operations in it say what became of it.
            () = self.ended(), if !self.reach.is_met() => Ok(()),
        }
    }

    /// Notes input of a caller, and has the sandbox thawed if it is frozen.
    pub fn knock(self: &Arc<Self>) {
        self.usage.stir();
        if self.usage.is_frozen() {
            let sandbox = Arc::clone(self);
            tokio::spawn(async move {
                if let Err(error) = sandbox.enter(false).await {
                    let error = &error as &dyn std::error::Error;
                    tracing::debug!(id = %sandbox.id, error, "input for a frozen sandbox");
                }
            });
        }
    }

    /// Thaws a frozen sandbox, and returns how long that took.
    async fn thaw(self: &Arc<Self>, forced: bool) -> Result<Option<Duration>, OperationError> {
        let begun = Instant::now();
        // Of its own, so that a caller who leaves does not stop the others' transition.
        let sandbox = Arc::clone(self);
        let thaw = tokio::spawn(async move {
            let _turn = sandbox.transition.lock().await;
            if sandbox.kind() != PhaseKind::Frozen {
                return Ok(false);
            }
            if !forced && !sandbox.lease.lock().terms.auto_resume {
                return Err(OperationError::Frozen(sandbox.id));
            }
            sandbox.resume().await.map(|()| true)
        });
        match timeout(TRANSITION_MAX, thaw).await {
            Ok(Ok(thawed)) => Ok(thawed?.then(|| begun.elapsed())),
            Ok(Err(panicked)) => std::panic::resume_unwind(panicked.into_panic()),
            Err(_) => Err(OperationError::Resume { id: self.id, source: None }),
        }
    }

    /// Resumes the guest of a frozen sandbox. One that has ended, or is being deleted, counts as
    /// resumed: operations in it say what became of it.
    async fn resume(&self) -> Result<(), OperationError> {
        let Ok(machine) = self.machine() else { return Ok(()) };
        match machine.resume().await {
            Some(Ok(())) => {}
            Some(Err(source)) => {
                return Err(OperationError::Resume { id: self.id, source: Some(source) });
            }
            None => return Ok(()),
        }
        self.correct_clock().await;
        // An earlier daemon froze it: what runs in it is still to be found.
        self.reach.wake();
        self.usage.stir();
        self.shift(Request::Thaw, || true, Phase::thawed);
        self.usage.thaw();
        self.journal_running();
        self.signals.idle.notify_one();
        Ok(())
    }

    /// Writes into the journal that the sandbox runs, if it lives. If that fails, it is done later:
    /// a next daemon that believes it frozen thaws it once more.
    fn journal_running(&self) {
        if self.lives() {
            self.or_later(self.journal_as(Stage::Running));
        }
    }

    /// Sets the clock of a guest that was paused. A guest that does not take it goes on late, or
    /// has ended meanwhile.
    async fn correct_clock(&self) {
        let Ok(guest) = self.guest() else { return };
        let why = match timeout(ASK_MAX, guest.correct_clock()).await {
            Ok(Ok(())) => return,
            Ok(Err(error)) => chain(&error),
            Err(_) => format!("the guest did not answer within {ASK_MAX:?}"),
        };
        if self.lives() {
            tracing::warn!(id = %self.id, why, "the clock of a thawed guest is late");
        }
    }

    /// Returns what the guest of a frozen sandbox uses; none of one that runs.
    pub async fn frozen_metrics(&self) -> Option<Metrics> {
        if !self.usage.is_frozen() {
            return None;
        }
        let _turn = self.transition.lock().await;
        self.read(|phase| match phase {
            Phase::Frozen(frozen) => Some(frozen.metrics.clone()),
            _ => None,
        })
    }

    /// Returns when the sandbox may be frozen, if nobody uses it until then.
    pub fn freeze_at(&self) -> Option<Instant> {
        let idle = self.lease.lock().terms.idle.freeze?;
        (self.kind() == PhaseKind::Running).then(|| self.usage.unused_at(idle))
    }

    /// Puts off the next look at the sandbox; returns when that is.
    pub fn put_off(&self, now: Instant) -> Instant {
        let idle = self.lease.lock().terms.idle.freeze.unwrap_or_default();
        self.usage.look_after(idle);
        now + idle
    }

    /// Freezes the sandbox if nobody uses it and no program of a caller runs in it.
    pub async fn freeze(&self) {
        let policy = self.lease.lock().terms.idle;
        let Some(idle) = policy.freeze else { return };
        let Ok(_turn) = self.transition.try_lock() else { return };
        if self.kind() != PhaseKind::Running || !self.usage.is_unused(idle) {
            return;
        }
        // What runs in it is not known yet.
        if !self.reach.is_met() {
            return;
        }
        let (Ok(guest), Ok(machine)) = (self.guest(), self.machine()) else { return };
        let Ok(Ok(metrics)) = timeout(ASK_MAX, guest.metrics()).await else { return };
        // An agent that does not count them may have some.
        if !policy.ignore_programs && metrics.program_count != Some(0) {
            return;
        }
        // First: a next daemon that believes it running would wait for its guest, and who is told
        // that it is frozen finds it so.
        let recorded = self.journal.write(|entry| {
            self.describe(entry, Stage::Frozen);
            entry.metrics = Some(metrics.clone());
        });
        if let Err(error) = recorded {
            tracing::warn!(id = %self.id, %error, "not frozen: that cannot be recorded");
            self.usage.look_after(REFUSED_PAUSE);
            self.journal_running();
            return;
        }
        let unused = || self.usage.freeze(idle);
        let frozen = self.shift(Request::Freeze, unused, |phase| phase.frozen(metrics));
        if !frozen {
            self.journal_running();
            return;
        }
        let paused = timeout(TRANSITION_MAX, machine.pause()).await;
        let why = match paused {
            Ok(Some(Ok(()))) => {
                tracing::debug!(id = %self.id, "frozen");
                return;
            }
            // It has ended, or is being deleted.
            Ok(None) => return,
            Ok(Some(Err(error))) => chain(&error),
            Err(_) => format!("the VMM did not answer within {TRANSITION_MAX:?}"),
        };
        tracing::warn!(id = %self.id, why, "not frozen");
        self.usage.look_after(REFUSED_PAUSE);
        // The guest may stand still all the same.
        if let Err(error) = self.resume().await {
            let error = &error as &dyn std::error::Error;
            tracing::error!(id = %self.id, error, "a sandbox that was not frozen does not run");
        }
    }
}
