//! `/usage`: what callers use, and what they may.

use std::collections::HashMap;
use std::sync::Arc;

use axum::extract::State;
use axum::{Extension, Json};
use emberd_api::{Usage, UsageLimits, UsageList, Used, paths};
use emberd_keys::{KeyLimits, Scope};
use emberd_sandbox::{Holdings, Sandboxes};

use super::errors::ApiError;
use super::failures::Failures;
use super::query::{Query, QueryError};
use super::views::IntoBody;
use crate::access::{Access, AccessError, Grant, LiveKey, Now};

/// Resources of the sandboxes of each owner.
type ByOwner = HashMap<Option<Arc<str>>, Holdings>;

/// Shows what the caller uses and may use, or with `all` what every key does.
///
/// The answer comes also where the key has as many requests under way as it may.
#[utoipa::path(
    get,
    path = paths::USAGE,
    operation_id = "get_usage",
    tag = "daemon",
    params(
        ("all" = Option<bool>, Query,
         description = "Every key and every other owner of sandboxes, in place of the caller. For \
            administrators only."),
    ),
    responses(
        (status = 200, description = "One caller, or all.", body = UsageList),
        Failures<(QueryError,)>,
    )
)]
pub async fn usage(
    State(sandboxes): State<Sandboxes>,
    Extension(access): Extension<Access>,
    grant: Option<Extension<Grant>>,
    query: Query,
) -> Result<Json<UsageList>, ApiError> {
    let all = query.flag("all")?;
    if all && grant.as_ref().is_some_and(|grant| !grant.sees_all()) {
        return Err(AccessError::Scope(Scope::Admin).into());
    }
    let mut held = sandboxes.holdings();
    let keys = access.live_keys();
    if all {
        return Ok(Json(UsageList { callers: of_all(&keys, held) }));
    }
    let owner = grant.and_then(|grant| grant.owner());
    let key = keys.iter().find(|key| owner.as_ref() == Some(&key.owner));
    let usage = match key {
        Some(key) => of_key(key, &mut held),
        None => of_owner(owner.clone(), held.remove(&owner).unwrap_or_default()),
    };
    Ok(Json(UsageList { callers: vec![usage] }))
}

fn of_all(keys: &[Arc<LiveKey>], mut held: ByOwner) -> Vec<Usage> {
    let mut callers: Vec<_> = keys.iter().map(|key| of_key(key, &mut held)).collect();
    callers.extend(held.into_iter().map(|(owner, held)| of_owner(owner, held)));
    callers.sort_by(|one, other| (&one.name, &one.owner).cmp(&(&other.name, &other.owner)));
    callers
}

fn of_key(key: &LiveKey, held: &mut ByOwner) -> Usage {
    let owner = Some(Arc::clone(&key.owner));
    let held = held.remove(&owner).unwrap_or_default();
    let (limits, account) = (&key.record.limits, &key.account);
    let left = |most| account.creates_left(most, Now::read().boot);
    let mut usage = of_owner(owner, held);
    usage.name = Some(key.record.name.as_str().to_owned());
    usage.used.creates_left = limits.creates_per_minute.map(left);
    usage.used.requests = Some(account.requests());
    usage.limits = limits.clone().into_body();
    usage
}

fn of_owner(owner: Option<Arc<str>>, held: Holdings) -> Usage {
    let Holdings { sandboxes, vcpus, memory_mib, disk_mib } = held;
    Usage {
        owner: owner.map(|owner| owner.to_string()),
        name: None,
        used: Used { sandboxes, vcpus, memory_mib, disk_mib, creates_left: None, requests: None },
        limits: UsageLimits::default(),
    }
}

impl IntoBody for KeyLimits {
    type Body = UsageLimits;

    fn into_body(self) -> UsageLimits {
        UsageLimits {
            sandboxes: self.sandboxes,
            vcpus: self.vcpus,
            memory_mib: self.memory_mib,
            disk_gib: self.disk_gib,
            timeout_ms: self.timeout_ms,
            creates_per_minute: self.creates_per_minute,
            requests: self.requests,
            packs: self.packs,
            egress: self.egress,
        }
    }
}
