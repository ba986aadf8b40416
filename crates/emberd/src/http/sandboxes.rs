//! `/sandboxes` and `/sandboxes/{id}`.

use axum::extract::State;
use axum::http::StatusCode;
use axum::{Extension, Json};
use emberd_api::{
    CreateSandbox, CreatedSandbox, LANGUAGE_PACK_DEFAULT, Sandbox, SandboxList, ServerTiming, paths,
};
use emberd_sandbox::{BootPath, CreateError, Created, Resources, SandboxSpec, Sandboxes, Unknown};

use super::body::{Body, BodyError};
use super::egress::{self, EgressError};
use super::errors::ApiError;
use super::failures::Failures;
use super::id::Id;
use super::observe::Timed;
use super::pack;
use super::query::{Query, QueryError};
use super::terms::{TermsError, first_terms};
use super::views::IntoBody;
use crate::egress_file::EgressFile;

/// Creates a sandbox and answers once it can run code.
#[utoipa::path(
    post,
    path = paths::SANDBOXES,
    operation_id = "create_sandbox",
    tag = "sandboxes",
    request_body(content = Option<CreateSandbox>, description = "An empty body means `{}`."),
    responses(
        (status = 201, description = "The sandbox is ready.", body = CreatedSandbox,
         headers(("server-timing" = String, description = "Time that each stage took."))),
        Failures<(BodyError, CreateError, EgressError, TermsError)>,
    )
)]
pub async fn create(
    State(sandboxes): State<Sandboxes>,
    Extension(file): Extension<EgressFile>,
    body: Body,
) -> Result<(StatusCode, Extension<Timed>, Json<CreatedSandbox>), ApiError> {
    let mut wanted: CreateSandbox = body.json_or_default()?;
    let terms = first_terms(&mut wanted, sandboxes.config())?;
    let named = wanted.language_pack.as_deref().filter(|name| !name.is_empty());
    let name = named.unwrap_or(LANGUAGE_PACK_DEFAULT);
    let pack = pack::installed(&sandboxes, name)?;
    let operator = file.operator();
    let policy = egress::first_policy(&sandboxes, &operator, &pack, wanted.egress.as_ref())?;
    let emberd_api::Resources { vcpus, memory_mib } = wanted.resources;
    let resources = Resources { vcpus, memory_mib };
    let spec = SandboxSpec { terms, policy, env: wanted.env, resources };
    let created = sandboxes.create_with(&pack, spec).await?;
    if let Ok(handle) = sandboxes.get(created.id) {
        file.admit(&operator, &sandboxes, &handle);
    }
    let body = CreatedSandbox { id: created.id.to_string() };
    Ok((StatusCode::CREATED, Extension(timed(&created)), Json(body)))
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

/// Lists the sandboxes, oldest first: all, or those with some metadata.
#[utoipa::path(
    get,
    path = paths::SANDBOXES,
    operation_id = "list_sandboxes",
    tag = "sandboxes",
    params(
        ("metadata" = Option<Vec<String>>, Query,
         description = "`NAME=VALUE` that a sandbox has. Repeated, it has all of them."),
    ),
    responses(
        (status = 200, description = "The sandboxes.", body = SandboxList),
        Failures<(QueryError,)>,
    )
)]
pub async fn list(
    State(sandboxes): State<Sandboxes>,
    query: Query,
) -> Result<Json<SandboxList>, ApiError> {
    let pairs = query.pairs("metadata")?;
    let mut views = sandboxes.list();
    views.retain(|view| {
        pairs.iter().all(|(name, value)| view.terms.metadata.get(name) == Some(value))
    });
    Ok(Json(SandboxList { sandboxes: views.into_iter().map(IntoBody::into_body).collect() }))
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
