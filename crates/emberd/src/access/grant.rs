//! What one caller may do.

use std::future::pending;
use std::sync::Arc;

use emberd_keys::{KeyLimits, Role, Scope, ScopeSet};

use super::account::Account;
use super::ring::LiveKey;
use crate::server::principal::Principal;

/// Permissions of the caller of a request.
#[derive(Debug, Clone)]
pub struct Grant {
    /// The caller.
    pub(crate) principal: Principal,
    scopes: ScopeSet,
    owner: Option<Arc<str>>,
    /// None for a caller without one.
    key: Option<Arc<LiveKey>>,
}

impl Grant {
    pub(super) fn of_key(key: Arc<LiveKey>) -> Self {
        Self {
            principal: Principal::Key(key.record.id),
            scopes: key.scopes,
            owner: Some(Arc::clone(&key.owner)),
            key: Some(key),
        }
    }

    /// A caller without a key.
    pub(super) fn of_role(principal: Principal, role: Role) -> Self {
        let owner = principal.owner().map(Arc::from);
        Self { principal, scopes: role.scopes(), owner, key: None }
    }

    /// Whether the caller has `scope`.
    pub fn permits(&self, scope: Scope) -> bool {
        self.scopes.permits(scope)
    }

    /// Whether sandboxes of everybody exist for the caller.
    pub fn sees_all(&self) -> bool {
        self.permits(Scope::Admin)
    }

    /// Whether a sandbox of `owner` exists for the caller.
    pub fn sees(&self, owner: Option<&Arc<str>>) -> bool {
        self.sees_all() || (owner.is_some() && owner == self.owner.as_ref())
    }

    /// The owner of sandboxes that the caller creates; none if they are nobody's.
    pub fn owner(&self) -> Option<Arc<str>> {
        self.owner.clone()
    }

    /// The limits of the key, and what it uses; none without a key.
    pub(crate) fn limits(&self) -> Option<(&KeyLimits, &Arc<Account>)> {
        self.key.as_ref().map(|key| (&key.record.limits, &key.account))
    }

    /// Waits until the key ends; without one, it never ends.
    pub fn ended(&self) -> impl Future<Output = ()> + Send + 'static {
        let ended = self.key.as_ref().map(|key| key.ended.clone());
        async move {
            match ended {
                Some(ended) => ended.cancelled().await,
                None => pending().await,
            }
        }
    }

    /// Whether the key may end while the request is under way.
    pub fn may_end(&self) -> bool {
        self.key.is_some()
    }
}
