//! `/sandboxes/{id}/egress`, the paths below it, and `/egress/profiles`.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::extract::State;
use axum::{Extension, Json};
use emberd_api::{
    CheckEgress, EgressCheck, EgressInfo, EgressLists, EgressPatch, EgressProfile,
    EgressProfileList, EgressReason, EgressRule, EgressState, EgressTotals,
    SandboxEgress as SandboxEgressBody, paths,
};
use emberd_egress::{
    BUILT_IN, Ceiling, Check, EgressDenied, Entry, EntrySpec, Operator, PackProfiles, Policy,
    PolicyError, PolicySpec,
};
use emberd_image::PackName;
use emberd_sandbox::{EgressState as EgressStateView, Handle, Sandboxes, Unknown};

use super::body::{Body, BodyError};
use super::errors::ApiError;
use super::failures::Failures;
use super::id::{Id, PathError};
use super::quota::LimitError;
use super::views::IntoBody;
use crate::egress_file::{EgressFile, profiles as profiles_of};
use crate::egress_record;

pub mod log;

/// Why network access of a sandbox cannot be read or changed.
#[derive(Debug, thiserror::Error)]
pub enum EgressError {
    /// The policy cannot be compiled.
    #[error(transparent)]
    Policy(#[from] PolicyError),
    /// The ceiling of the caller's key cannot be read.
    #[error(transparent)]
    Key(#[from] LimitError),
    /// The daemon carries no connections.
    #[error("egress is switched off")]
    Off,
    /// The guest cannot capture connections.
    #[error("the guest cannot send connections of its programs: {why}")]
    Guest {
        /// Why, by the guest's account.
        why: String,
    },
    /// A port is 0.
    #[error("/port: a port is 1 to 65535")]
    Port,
}

/// Shows the policy of a sandbox, whether it is in force, and what the sandbox used.
#[utoipa::path(
    get,
    path = paths::EGRESS,
    operation_id = "get_egress",
    tag = "egress",
    params(Id),
    responses(
        (status = 200, description = "The network access of the sandbox.", body = SandboxEgressBody),
        Failures<(PathError, Unknown)>,
    )
)]
pub async fn get(
    State(sandboxes): State<Sandboxes>,
    Id(id): Id,
) -> Result<Json<SandboxEgressBody>, ApiError> {
    Ok(Json(body(&sandboxes.get(id)?, None)))
}

/// Replaces the policy of a sandbox.
///
/// Connections that the new policy does not allow are reset.
#[utoipa::path(
    put,
    path = paths::EGRESS,
    operation_id = "replace_egress",
    tag = "egress",
    params(Id),
    request_body = PolicySpec,
    responses(
        (status = 200, description = "The policy is in force.", body = SandboxEgressBody),
        Failures<(PathError, BodyError, Unknown, EgressError)>,
    )
)]
pub async fn replace(
    State(sandboxes): State<Sandboxes>,
    Extension(file): Extension<EgressFile>,
    Id(id): Id,
    request: Body,
) -> Result<Json<SandboxEgressBody>, ApiError> {
    let wanted: PolicySpec = request.json()?;
    change(&sandboxes, &file, &sandboxes.get(id)?, |operator, packs, policy| {
        Policy::compile_within(operator, packs, &wanted, policy.own_ceiling())
    })
}

/// Changes the policy of a sandbox: removes profiles and entries, and adds others.
///
/// The change is made as a whole or not at all. `remove` removes entries with the same host and
/// ports, whatever their options.
#[utoipa::path(
    patch,
    path = paths::EGRESS,
    operation_id = "change_egress",
    tag = "egress",
    params(Id),
    request_body = EgressPatch,
    responses(
        (status = 200, description = "The policy is in force.", body = SandboxEgressBody),
        Failures<(PathError, BodyError, Unknown, EgressError)>,
    )
)]
pub async fn patch(
    State(sandboxes): State<Sandboxes>,
    Extension(file): Extension<EgressFile>,
    Id(id): Id,
    request: Body,
) -> Result<Json<SandboxEgressBody>, ApiError> {
    let wanted: EgressPatch = request.json()?;
    change(&sandboxes, &file, &sandboxes.get(id)?, |operator, packs, policy| {
        let EgressLists { profiles, allow, deny } = wanted.add.clone();
        let added = PolicySpec { profiles, allow, deny, ..PolicySpec::default() };
        let compile =
            |spec: &PolicySpec| Policy::compile_within(operator, packs, spec, policy.own_ceiling());
        // On its own first: an error points into what the caller sent.
        compile(&added).map_err(|error| error.within("/add"))?;
        compile(&patched(policy.spec(), &wanted)?)
    })
}

/// Compiles a policy, and puts it in force. A guest that cannot capture connections gets none
/// that allows something.
fn change(
    sandboxes: &Sandboxes,
    file: &EgressFile,
    handle: &Handle,
    compile: impl FnOnce(&Operator, &PackProfiles, &Policy) -> Result<Policy, PolicyError>,
) -> Result<Json<SandboxEgressBody>, ApiError> {
    let egress = handle.egress().ok_or(EgressError::Off)?;
    let packs = profiles_of(sandboxes, &handle.view().shape.pack);
    let reset = file.change(&egress, |operator, policy| {
        let policy = compile(operator, packs, policy)?;
        match handle.egress_state() {
            EgressStateView::Unavailable { why } if !policy.in_force().is_empty() => {
                Err(EgressError::Guest { why })
            }
            _ => Ok(policy),
        }
    })?;
    handle.policy_changed();
    Ok(Json(body(handle, Some(reset))))
}

/// The policy after a patch.
fn patched(spec: &PolicySpec, patch: &EgressPatch) -> Result<PolicySpec, PolicyError> {
    let EgressPatch { add, remove } = patch;
    let mut profiles: Vec<String> = spec.profiles.clone();
    profiles.retain(|name| !remove.profiles.contains(name));
    for name in &add.profiles {
        if !profiles.contains(name) {
            profiles.push(name.clone());
        }
    }
    Ok(PolicySpec {
        profiles,
        allow: patched_entries(&spec.allow, &add.allow, &remove.allow, "allow")?,
        deny: patched_entries(&spec.deny, &add.deny, &remove.deny, "deny")?,
        ..spec.clone()
    })
}

fn patched_entries(
    entries: &[EntrySpec],
    add: &[EntrySpec],
    remove: &[EntrySpec],
    list: &str,
) -> Result<Vec<EntrySpec>, PolicyError> {
    let mut removed = Vec::with_capacity(remove.len());
    for (at, spec) in remove.iter().enumerate() {
        let pointer = || format!("/remove/{list}/{at}");
        let failed = |error| PolicyError::Entry { pointer: pointer(), entry: spec.text(), error };
        removed.push(Entry::new(spec).map_err(failed)?.to_string());
    }
    let text = |spec: &EntrySpec| Entry::new(spec).map_or(spec.text(), |entry| entry.to_string());
    let mut kept = entries.to_vec();
    kept.retain(|spec| !removed.contains(&text(spec)));
    for spec in add {
        let is_same = |other: &EntrySpec| Entry::new(other).ok() == Entry::new(spec).ok();
        if !kept.iter().any(is_same) {
            kept.push(spec.clone());
        }
    }
    Ok(kept)
}

/// Shows what would happen to a connection.
///
/// No connection is made. A name that the policy allows is looked up.
#[utoipa::path(
    post,
    path = paths::EGRESS_CHECK,
    operation_id = "check_egress",
    tag = "egress",
    params(Id),
    request_body = CheckEgress,
    responses(
        (status = 200, description = "The decision.", body = EgressCheck),
        Failures<(PathError, BodyError, Unknown, EgressError)>,
    )
)]
pub async fn check(
    State(sandboxes): State<Sandboxes>,
    Extension(file): Extension<EgressFile>,
    Id(id): Id,
    request: Body,
) -> Result<Json<EgressCheck>, ApiError> {
    let CheckEgress { host, port } = request.json()?;
    if port == 0 {
        return Err(EgressError::Port.into());
    }
    let handle = sandboxes.get(id)?;
    let egress = handle.egress().ok_or(EgressError::Off)?;
    let check = egress.check(&host, port).await;
    let packs = profiles_of(&sandboxes, &handle.view().shape.pack);
    let policy = egress.policy();
    let permits = |spec: &PolicySpec| {
        Policy::compile_within(&file.operator(), packs, spec, policy.own_ceiling()).is_ok()
    };
    let hint = hint(&check, &host, port, permits);
    let Check { decision, reason, entry, from, addresses } = check;
    Ok(Json(EgressCheck {
        decision: egress_record::decision(decision),
        reason,
        entry: entry.map(|entry| entry.to_string()),
        from: from.map(|from| from.to_string()),
        addresses: addresses.iter().map(ToString::to_string).collect(),
        hint,
    }))
}

/// How to allow a connection that would not be made.
fn hint(
    check: &Check,
    host: &str,
    port: u16,
    permits: impl FnOnce(&PolicySpec) -> bool,
) -> Option<String> {
    let reason = check.reason?;
    let (host, port) = (host.to_owned(), Some(port));
    let denied = EgressDenied { host, port, reason, count: 1 };
    let hint = match reason {
        EgressReason::NoRule | EgressReason::PortNotAllowed => {
            let entry = denied.entry()?;
            let allow = vec![EntrySpec::from(&*entry)];
            let wanted = PolicySpec { allow, ..PolicySpec::default() };
            if permits(&wanted) {
                format!("add \"{entry}\" to `allow`")
            } else {
                format!("ask the operator to permit \"{entry}\"")
            }
        }
        EgressReason::DeniedByRule => {
            format!("remove \"{}\" from `deny`", check.entry.as_ref()?)
        }
        EgressReason::OverCeiling | EgressReason::OperatorDenied => {
            "ask the operator to permit it".to_owned()
        }
        EgressReason::PrivateAddress => "ask the operator to add the range to `private`, and \
            allow the range, or the name with \"private\": true"
            .to_owned(),
        EgressReason::NoSuchName | EgressReason::LookupFailed => {
            "check the name on the host that runs emberd".to_owned()
        }
        _ => return None,
    };
    Some(hint)
}

/// Lists the profiles of policies: those of emberd, of the operator and of the language packs.
#[utoipa::path(
    get,
    path = paths::EGRESS_PROFILES,
    operation_id = "list_egress_profiles",
    tag = "egress",
    responses(
        (status = 200, description = "All profiles.", body = EgressProfileList),
        Failures<()>,
    )
)]
pub async fn profiles(
    State(sandboxes): State<Sandboxes>,
    Extension(file): Extension<EgressFile>,
) -> Json<EgressProfileList> {
    Json(EgressProfileList { profiles: every_profile(&sandboxes, &file.operator()) })
}

/// Every profile that a policy can name. One that another of the same name hides is left out.
fn every_profile(sandboxes: &Sandboxes, operator: &Operator) -> Vec<EgressProfile> {
    let mut all: BTreeMap<(String, String), Vec<String>> = BTreeMap::new();
    for (name, entries) in operator.profiles() {
        let entries = entries.iter().map(ToString::to_string).collect();
        all.insert((name.to_owned(), "operator".to_owned()), entries);
    }
    let is_operators = |name: &str| operator.profiles().any(|(own, _)| own == name);
    for (name, entries) in BUILT_IN.iter().filter(|(name, _)| !is_operators(name)) {
        let entries = entries.iter().map(|entry| (*entry).to_owned()).collect();
        all.insert(((*name).to_owned(), "built-in".to_owned()), entries);
    }
    let is_hidden =
        |name: &str| is_operators(name) || BUILT_IN.iter().any(|(built_in, _)| *built_in == name);
    for (pack, image) in &sandboxes.images().packs {
        for (name, entries) in image.profiles.iter().filter(|(name, _)| !is_hidden(name)) {
            all.insert((name.clone(), format!("pack:{pack}")), entries.clone());
        }
    }
    let profile = |((name, from), allow)| EgressProfile { name, allow, from };
    all.into_iter().map(profile).collect()
}

/// Network access that the daemon gives to sandboxes; none if it gives none.
pub fn info(sandboxes: &Sandboxes, operator: &Operator) -> Option<EgressInfo> {
    sandboxes.config().egress.as_ref()?;
    let mut profiles: Vec<_> =
        every_profile(sandboxes, operator).into_iter().map(|profile| profile.name).collect();
    profiles.dedup();
    let (default, ceiling) = (operator.default_texts(), operator.ceiling_texts());
    Some(EgressInfo { default, ceiling, profiles })
}

/// The policy of a new sandbox; none if the daemon carries no connections and the caller asks for
/// none.
///
/// # Errors
/// [`EgressError`].
pub fn first_policy(
    sandboxes: &Sandboxes,
    file: &EgressFile,
    operator: &Arc<Operator>,
    pack: &PackName,
    wanted: Option<&PolicySpec>,
    own: Option<&Ceiling>,
) -> Result<Option<Arc<Policy>>, EgressError> {
    let packs = profiles_of(sandboxes, pack);
    let is_off = sandboxes.config().egress.is_none();
    let policy = match wanted {
        None if is_off => return Ok(None),
        None if own.is_none() => return Ok(Some(file.default_policy(operator, sandboxes, pack))),
        None => Policy::default_of(operator, packs, own),
        Some(wanted) => {
            let policy = Policy::compile_within(operator, packs, wanted, own);
            policy.map_err(|error| error.within("/egress"))?
        }
    };
    if !is_off {
        return Ok(Some(Arc::new(policy)));
    }
    if policy.in_force().is_empty() { Ok(None) } else { Err(EgressError::Off) }
}

fn body(handle: &Handle, reset: Option<usize>) -> SandboxEgressBody {
    let (state, why) = match handle.egress_state() {
        EgressStateView::Ready => (EgressState::Ready, None),
        EgressStateView::Connecting => (EgressState::Connecting, None),
        EgressStateView::Off => {
            (EgressState::Unavailable, Some("egress is switched off".to_owned()))
        }
        EgressStateView::Unavailable { why } => (EgressState::Unavailable, Some(why)),
    };
    let Some(egress) = handle.egress() else {
        return SandboxEgressBody {
            policy: PolicySpec::default(),
            in_force: Vec::new(),
            state,
            why,
            connections: 0,
            totals: EgressTotals::default(),
            reset,
        };
    };
    let policy = egress.policy();
    let rule = |rule: &emberd_egress::InForce| EgressRule {
        entry: rule.entry.to_string(),
        from: rule.source.to_string(),
    };
    SandboxEgressBody {
        policy: policy.spec().clone(),
        in_force: policy.in_force().iter().map(rule).collect(),
        state,
        why,
        connections: egress.connections(),
        totals: egress.totals().into_body(),
        reset,
    }
}
