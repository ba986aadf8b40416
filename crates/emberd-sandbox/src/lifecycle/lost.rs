//! Sandboxes whose microVM ended while no daemon ran: gone, until they are deleted or expire.

use emberd_vmm::{ExitReason, Left};
use tokio::task::spawn_blocking;
use tokio_util::sync::CancellationToken;

use super::phase::{Gone, Phase, Request, Was, Why};
use super::sandbox::Sandbox;

impl Phase {
    /// A sandbox whose microVM this daemon never had.
    fn lost() -> Self {
        // Nobody waits for its end.
        let ending = CancellationToken::new();
        ending.cancel();
        Self::Gone(Gone { why: Why::Exited(ExitReason::Unknown), was: Was::Lost(ending) })
    }

    fn is_lost(&self) -> bool {
        matches!(self, Self::Gone(Gone { was: Was::Lost(_), .. }))
    }
}

impl Sandbox {
    /// Records that the microVM ended before this daemon found it.
    pub fn lose(&self) {
        self.shift(Request::Delete, || true, |_| Phase::lost());
    }

    /// Whether the microVM ended before this daemon found it.
    pub fn is_lost(&self) -> bool {
        self.read(Phase::is_lost)
    }

    /// Removes what a microVM that ended before has left, if it did.
    pub async fn remove_lost(&self) {
        if !self.is_lost() {
            return;
        }
        let left = Left::Ended { dir: self.dir.clone(), is_of_this_boot: true };
        if let Ok(Err(error)) = spawn_blocking(|| left.remove()).await {
            let error = &error as &dyn std::error::Error;
            tracing::error!(id = %self.id, error, "left behind");
        }
    }
}
