//! `/sandboxes` and `/sandboxes/{id}`.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use axum::{Extension, Json};
use emberd_api::{
    CreateSandbox, CreatedSandbox, LANGUAGE_PACK_DEFAULT, LIST_LIMIT_MAX, REPLAYED_HEADER, Sandbox,
    SandboxList, SandboxPhase, ServerTiming, paths,
};
use emberd_sandbox::{
    BootPath, Cpu, CreateError, Created, FollowUp, Resources, SandboxSpec, Sandboxes, Unknown,
};

use super::audited::Made;
use super::body::{Body, BodyError};
use super::egress::{self, EgressError};
use super::errors::ApiError;
use super::failures::Failures;
use super::id::Id;
use super::idempotency::WithKey;
use super::keys::KeyError;
use super::observe::{Afterwards, Timed};
use super::pack;
use super::query::{Query, QueryError};
use super::quota::{Bounds, count_creation};
use super::scrape::Measured;
use super::terms::{ChangeError, first_terms};
use super::views::IntoBody;
use crate::access::Grant;
use crate::egress_file::{Admitted, EgressFile};
use crate::meters::Timing;

/// Creates a sandbox and answers once it can run code.
#[utoipa::path(
    post,
    path = paths::SANDBOXES,
    operation_id = "create_sandbox",
    tag = "sandboxes",
    params(
        ("idempotency-key" = Option<String>, Header,
         description = "Key of the creation, of 1 to 128 visible ASCII characters. Repeated with \
            the same key and body within 24 hours, the request creates nothing and has the same \
            answer, also once that sandbox is deleted. One that comes while the first is under \
            way waits for it. A creation that failed is not remembered."),
    ),
    request_body(content = Option<CreateSandbox>, description = "An empty body means `{}`."),
    responses(
        (status = 201, description = "The sandbox is ready.", body = CreatedSandbox,
         headers(
            ("server-timing" = String, description = "Time that each stage took."),
            ("idempotent-replayed" = Option<String>,
             description = "`true` where an earlier request with the key created the sandbox."),
         )),
        Failures<(BodyError, CreateError, EgressError, ChangeError, KeyError)>,
    )
)]
pub async fn create(
    State(sandboxes): State<Sandboxes>,
    Extension(file): Extension<EgressFile>,
    grant: Option<Extension<Grant>>,
    key: WithKey,
    body: Body,
) -> Result<Response, ApiError> {
    let wanted: CreateSandbox = body.json_or_default()?;
    let Some(turn) = key.turn(&wanted).await? else {
        let made = make(&sandboxes, &file, wanted, None, grant.as_ref()).await?;
        return Ok(answer(made));
    };
    if let Some(id) = turn.created() {
        let body = Json(CreatedSandbox { id: id.to_string() });
        let made = Extension(Made(id));
        return Ok((StatusCode::CREATED, [(REPLAYED_HEADER, "true")], made, body).into_response());
    }
    let made = make(&sandboxes, &file, wanted, Some(turn.tag()), grant.as_ref()).await?;
    turn.remember(made.created.id);
    Ok(answer(made))
}

/// A sandbox that was just created, and what begins once its caller is answered.
struct New {
    created: Created,
    follow_up: FollowUp,
    /// None if the sandbox is deleted already.
    admitted: Option<Admitted>,
}

async fn make(
    sandboxes: &Sandboxes,
    file: &EgressFile,
    mut wanted: CreateSandbox,
    tag: Option<String>,
    grant: Option<&Extension<Grant>>,
) -> Result<New, ApiError> {
    let bounds = Bounds::of(grant);
    let terms = first_terms(&mut wanted, sandboxes.config(), bounds)?;
    let named = wanted.language_pack.as_deref().filter(|name| !name.is_empty());
    let name = named.unwrap_or(LANGUAGE_PACK_DEFAULT);
    let pack = pack::installed(sandboxes, name)?;
    bounds.check_pack(&pack).map_err(ChangeError::Key)?;
    let (operator, ceiling) = (file.operator(), bounds.ceiling().map_err(EgressError::Key)?);
    let policy = egress::first_policy(
        sandboxes,
        file,
        &operator,
        &pack,
        wanted.egress.as_ref(),
        ceiling.as_ref(),
    )?;
    let emberd_api::Resources { vcpus, memory_mib, cpu_percent, cpu_weight, disk_mib, pids } =
        wanted.resources;
    let cpu = Cpu { percent: cpu_percent, weight: cpu_weight };
    let resources = Resources { vcpus, memory_mib, cpu, pids, disk_mib };
    let (owner, quota) = (grant.and_then(|grant| grant.owner()), bounds.quota());
    let spec = SandboxSpec { terms, policy, env: wanted.env, resources, tag, owner, quota };
    let counted = count_creation(grant)?;
    let (created, follow_up) = sandboxes.create_with(&pack, spec).await.inspect_err(|error| {
        counted.unless_refused(error);
    })?;
    let handle = sandboxes.get(created.id).ok();
    let admitted = handle.map(|handle| file.admit(&operator, sandboxes, handle));
    Ok(New { created, follow_up, admitted })
}

fn answer(New { created, follow_up, admitted }: New) -> Response {
    let body = Json(CreatedSandbox { id: created.id.to_string() });
    let measured = Measured(Timing::Created(created.boot_path.to_string()));
    let marks = (Extension(timed(&created)), Extension(measured), Extension(Made(created.id)));
    let mut response = (StatusCode::CREATED, marks, body).into_response();
    Afterwards::drop((follow_up, admitted), &mut response);
    response
}

/// A microVM of the warm pool was started before the request: its stages are not in the header.
fn timed(created: &Created) -> Timed {
    let Created { boot_path, boot, .. } = created;
    let timing = ServerTiming::default().saying("boot-path", boot_path.to_string());
    if *boot_path == BootPath::WarmPool {
        return Timed(timing);
    }
    let stages = [
        ("vmm", Some(boot.vmm)),
        ("load", boot.load),
        ("guest", Some(boot.guest)),
        ("renew", boot.renew),
        ("warm-up", boot.warm_up),
    ];
    let stages = stages.into_iter().filter_map(|(name, took)| Some((name, took?)));
    Timed(stages.fold(timing, |timing, (name, took)| timing.with(name, took)))
}

/// Lists the caller's sandboxes, oldest first: all, or those in some phases or with some metadata.
#[utoipa::path(
    get,
    path = paths::SANDBOXES,
    operation_id = "list_sandboxes",
    tag = "sandboxes",
    params(
        ("metadata" = Option<Vec<String>>, Query,
         description = "`NAME=VALUE` that a sandbox has. Repeated, it has all of them."),
        ("phase" = Option<Vec<SandboxPhase>>, Query,
         description = "Phase that a sandbox is in. Repeated, it is in one of them."),
        ("limit" = Option<usize>, Query,
         description = "Largest number of sandboxes, 1 to 1,000. All when absent."),
        ("after" = Option<u64>, Query,
         description = "The `next` of the page before. From the oldest on when absent."),
    ),
    responses(
        (status = 200, description = "The sandboxes, and where more begin, if there are more.",
         body = SandboxList),
        Failures<(QueryError,)>,
    )
)]
pub async fn list(
    State(sandboxes): State<Sandboxes>,
    grant: Option<Extension<Grant>>,
    query: Query,
) -> Result<Json<SandboxList>, ApiError> {
    let pairs = query.pairs("metadata")?;
    let phases = query.choices("phase", &SandboxPhase::ALL.map(|phase| (phase.name(), phase)))?;
    let limit = query.number_in("limit", 1..=LIST_LIMIT_MAX)?;
    let after: Option<u64> = query.number("after")?;
    let mut views = sandboxes.list_after(after).into_iter().filter(|(_, view)| {
        let has = |(name, value): &(String, String)| view.terms.metadata.get(name) == Some(value);
        let phase = view.state.phase().into_body();
        let is_seen = grant.as_ref().is_none_or(|grant| grant.sees(view.owner.as_ref()));
        is_seen && pairs.iter().all(has) && (phases.is_empty() || phases.contains(&phase))
    });
    let limit = limit.unwrap_or(usize::MAX);
    let page: Vec<_> = views.by_ref().take(limit).collect();
    let next = views.next().and_then(|_| page.last().map(|(serial, _)| *serial));
    let sandboxes = page.into_iter().map(|(_, view)| view.into_body()).collect();
    Ok(Json(SandboxList { sandboxes, next }))
}

/// Shows one sandbox.
#[utoipa::path(
    get,
    path = paths::SANDBOX,
    operation_id = "get_sandbox",
    tag = "sandboxes",
    params(Id),
    responses(
        (status = 200, description = "The sandbox.", body = Sandbox),
        Failures<(Unknown,)>,
    )
)]
pub async fn get(
    State(sandboxes): State<Sandboxes>,
    Id(id): Id,
) -> Result<Json<Sandbox>, ApiError> {
    Ok(Json(sandboxes.get(id)?.view().into_body()))
}

/// Deletes a sandbox.
///
/// Answers once no request can reach the sandbox and its microVM is being killed; the rest of it is
/// removed after the response, before the daemon stops.
#[utoipa::path(
    delete,
    path = paths::SANDBOX,
    operation_id = "delete_sandbox",
    tag = "sandboxes",
    params(Id),
    responses(
        (status = 204, description = "The sandbox is deleted. Its resources are released shortly after.",
         headers(("server-timing" = String, description = "Time that each stage took."))),
        Failures<(Unknown,)>,
    )
)]
pub async fn delete(
    State(sandboxes): State<Sandboxes>,
    Id(id): Id,
) -> Result<(StatusCode, Extension<Timed>), ApiError> {
    sandboxes.delete(id).await?;
    Ok((StatusCode::NO_CONTENT, Extension(Timed::default())))
}
