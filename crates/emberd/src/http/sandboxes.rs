//! `/sandboxes` and `/sandboxes/{id}`.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::extract::State;
use axum::http::StatusCode;
use axum::{Extension, Json};
use emberd_api::{
    BootTimes, CreateSandbox, CreatedSandbox, ErrorBody, LANGUAGE_PACK_DEFAULT, Sandbox,
    SandboxList, SandboxState, ServerTiming, paths,
};
use emberd_sandbox::{BootPath, Created, SandboxState as State_, SandboxView, Sandboxes};

use super::body::Body;
use super::errors::ApiError;
use super::id::Id;
use super::observe::Timed;
use super::pack;

/// Create a sandbox; answers when it is ready.
#[utoipa::path(
    post,
    path = paths::SANDBOXES,
    operation_id = "create_sandbox",
    request_body(content = Option<CreateSandbox>, description = "An empty body is `{}`."),
    responses(
        (status = 201, description = "The sandbox is ready", body = CreatedSandbox,
         headers(("server-timing" = String, description = "Where the time went"))),
        (status = 400, description = "The body is wrong, or there is no such pack", body = ErrorBody),
        (status = 410, description = "It was deleted while it was created", body = ErrorBody),
        (status = 429, description = "There are as many sandboxes as allowed", body = ErrorBody),
        (status = 503, description = "The microVM did not boot, or the daemon stops", body = ErrorBody),
    )
)]
pub async fn create(
    State(sandboxes): State<Sandboxes>,
    body: Body,
) -> Result<(StatusCode, Extension<Timed>, Json<CreatedSandbox>), ApiError> {
    let wanted: CreateSandbox = body.json_or_default()?;
    let named = wanted.language_pack.as_deref().filter(|name| !name.is_empty());
    let name = named.unwrap_or(LANGUAGE_PACK_DEFAULT);
    let pack = pack::installed(&sandboxes, name)?;
    let created = sandboxes.create(&pack).await?;
    let body = CreatedSandbox { id: created.id.to_string() };
    Ok((StatusCode::CREATED, Extension(timed(&created)), Json(body)))
}

/// What was made ahead of need is no part of the answer's time.
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

/// List all sandboxes, oldest first.
#[utoipa::path(
    get,
    path = paths::SANDBOXES,
    operation_id = "list_sandboxes",
    responses((status = 200, description = "All sandboxes", body = SandboxList))
)]
pub async fn list(State(sandboxes): State<Sandboxes>) -> Json<SandboxList> {
    Json(SandboxList { sandboxes: sandboxes.list().iter().map(shown).collect() })
}

/// Show one sandbox.
#[utoipa::path(
    get,
    path = paths::SANDBOX,
    operation_id = "get_sandbox",
    params(("id" = String, Path, description = "`sb_` and 12 hexadecimal digits")),
    responses(
        (status = 200, description = "The sandbox", body = Sandbox),
        (status = 404, description = "There is no such sandbox", body = ErrorBody),
    )
)]
pub async fn get(
    State(sandboxes): State<Sandboxes>,
    Id(id): Id,
) -> Result<Json<Sandbox>, ApiError> {
    Ok(Json(shown(&sandboxes.get(id)?.view())))
}

/// Delete a sandbox; answers when it is out of reach and its microVM is being killed. What is
/// left of it on the host is removed behind the answer, before the daemon stops.
#[utoipa::path(
    delete,
    path = paths::SANDBOX,
    operation_id = "delete_sandbox",
    params(("id" = String, Path, description = "`sb_` and 12 hexadecimal digits")),
    responses(
        (status = 204, description = "The sandbox is out of reach",
         headers(("server-timing" = String, description = "Where the time went"))),
        (status = 404, description = "There is no such sandbox", body = ErrorBody),
    )
)]
pub async fn delete(
    State(sandboxes): State<Sandboxes>,
    Id(id): Id,
) -> Result<(StatusCode, Extension<Timed>), ApiError> {
    sandboxes.delete(id).await?;
    Ok((StatusCode::NO_CONTENT, Extension(Timed::default())))
}

fn shown(view: &SandboxView) -> Sandbox {
    let (state, reason, vmm_pid) = match view.state {
        State_::Creating => (SandboxState::Creating, None, None),
        State_::Ready { vmm_pid } => (SandboxState::Ready, None, Some(vmm_pid)),
        State_::Gone(reason) => (SandboxState::Gone, Some(format!("its VMM {reason}")), None),
    };
    let micros = |duration: Duration| u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
    Sandbox {
        id: view.id.to_string(),
        language_pack: view.pack.to_string(),
        state,
        reason,
        created_at_ms: epoch_ms(view.created_at),
        boot_path: view.boot_path.map(|path| path.to_string()),
        boot: view.boot.map(|boot| BootTimes {
            vmm_us: micros(boot.vmm),
            load_us: boot.load.map(micros),
            guest_us: micros(boot.guest),
            renew_us: boot.renew.map(micros),
            warm_up_us: boot.warm_up.map(micros),
            kernel_us: boot.kernel.map(micros),
            init_us: boot.init.map(micros),
        }),
        vmm_pid,
        dir: view.dir.display().to_string(),
    }
}

/// Milliseconds since the Unix epoch.
pub fn epoch_ms(time: SystemTime) -> u64 {
    let since_epoch = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX)
}
