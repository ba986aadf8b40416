//! What the requests of one daemon share: limits, each counted by principal, the keys of creations,
//! what is counted, and the audit journal.

use std::convert::Infallible;
use std::sync::Arc;

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use emberd_sandbox::Sandboxes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::budget::Budget;
use super::keys::Keys;
use crate::audit::Audit;
use crate::meters::Meters;
use crate::server::limits::PerPrincipal;
use crate::server::principal::Principal;

/// Most WebSockets of one principal at once. They outlive the requests they began as.
const WEBSOCKETS_MAX: usize = 1024;

/// Everything that the requests of one daemon share, and clones too.
#[derive(Debug, Clone)]
pub struct Limits {
    keys: Keys,
    meters: Meters,
    audit: Audit,
    bodies: Budget,
    outputs: Budget,
    websockets: Arc<PerPrincipal>,
}

impl Default for Limits {
    fn default() -> Self {
        let websockets = Arc::new(PerPrincipal::new(WEBSOCKETS_MAX));
        let (bodies, outputs) = Default::default();
        let (keys, meters, audit) = Default::default();
        Self { keys, meters, audit, bodies, outputs, websockets }
    }
}

impl Limits {
    /// Has requests recorded in `audit`.
    #[must_use]
    pub fn recording(self, audit: Audit) -> Self {
        Self { audit, ..self }
    }

    /// Has requests recorded in `audit`, and remembers the keys of creations that earlier daemons
    /// have answered.
    pub fn recalling(audit: Audit, sandboxes: &Sandboxes) -> Self {
        let limits = Self::default().recording(audit);
        for (id, tag) in sandboxes.tagged() {
            limits.keys.recall(id, &tag);
        }
        limits
    }

    /// The keys of creations.
    pub(super) fn keys(&self) -> &Keys {
        &self.keys
    }

    /// Counters of the requests.
    pub fn meters(&self) -> &Meters {
        &self.meters
    }

    /// The audit journal.
    pub(super) fn audit(&self) -> &Audit {
        &self.audit
    }

    /// The budget of request bodies.
    pub(super) fn bodies(&self) -> &Budget {
        &self.bodies
    }

    /// The budget of the output of programs.
    pub(super) fn outputs(&self) -> &Budget {
        &self.outputs
    }

    /// The limits that the router adds to every request.
    pub(super) fn of(parts: &Parts) -> Self {
        let limits = parts.extensions.get().cloned();
        limits.expect("the router adds them to every request")
    }

    fn websockets_of(&self, principal: Principal) -> WebSocketPermits {
        WebSocketPermits(self.websockets.of(principal))
    }
}

/// The permits for WebSockets of the principal of a request.
#[derive(Debug)]
pub struct WebSocketPermits(Arc<Semaphore>);

impl WebSocketPermits {
    /// Acquires a permit for one more, to be kept while it is open.
    ///
    /// # Errors
    /// [`TooManyWebSockets`] when [`WEBSOCKETS_MAX`] are open.
    pub fn acquire(self) -> Result<OwnedSemaphorePermit, TooManyWebSockets> {
        self.0.try_acquire_owned().map_err(|_| TooManyWebSockets)
    }
}

/// The principal has as many WebSockets as allowed.
#[derive(Debug, thiserror::Error)]
#[error("the limit of {WEBSOCKETS_MAX} open WebSockets is reached")]
pub struct TooManyWebSockets;

impl<S: Sync> FromRequestParts<S> for WebSocketPermits {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Infallible> {
        let principal = Principal::from_request_parts(parts, state).await?;
        Ok(Limits::of(parts).websockets_of(principal))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::principal::Source;

    #[test]
    fn one_principal_cannot_use_up_the_websockets_of_another() {
        let limits = Limits::default();
        let [one, other] = [1, 2].map(|uid| Principal::Local(Source::User(uid)));
        let acquire = |principal| limits.websockets_of(principal).acquire();
        let open: Vec<_> = (0..WEBSOCKETS_MAX).map(|_| acquire(one).unwrap()).collect();
        assert!(acquire(one).is_err());
        assert!(acquire(other).is_ok());
        drop(open);
        assert!(acquire(one).is_ok());
    }
}
