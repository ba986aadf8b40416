//! `/sandboxes` and `/sandboxes/{id}`.

use std::time::UNIX_EPOCH;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use emberd_api::{
    BootTimes, CreateSandbox, CreatedSandbox, ErrorBody, ErrorCode, LANGUAGE_PACK_DEFAULT, Sandbox,
    SandboxList, SandboxState, paths,
};
use emberd_image::PackName;
use emberd_sandbox::{BOOT_PATH, CreateError, SandboxState as State_, SandboxView, Sandboxes};
use emberd_vmm::Vmm;

use super::body::Body;
use super::errors::ApiError;
use super::id::Id;

/// Create a sandbox; answers when it is ready.
#[utoipa::path(
    post,
    path = paths::SANDBOXES,
    operation_id = "create_sandbox",
    request_body(content = Option<CreateSandbox>, description = "An empty body is `{}`."),
    responses(
        (status = 201, description = "The sandbox is ready", body = CreatedSandbox),
        (status = 400, description = "The body is wrong, or there is no such pack", body = ErrorBody),
        (status = 410, description = "It was deleted while it was created", body = ErrorBody),
        (status = 429, description = "There are as many sandboxes as allowed", body = ErrorBody),
        (status = 503, description = "The microVM did not boot, or the daemon stops", body = ErrorBody),
    )
)]
pub async fn create<V: Vmm>(
    State(sandboxes): State<Sandboxes<V>>,
    body: Body,
) -> Result<(StatusCode, Json<CreatedSandbox>), ApiError> {
    let wanted: CreateSandbox = body.json_or_default()?;
    let name = wanted.language_pack.unwrap_or_else(|| LANGUAGE_PACK_DEFAULT.to_owned());
    let pack: PackName = name.parse().map_err(|error: emberd_image::PackNameError| {
        ApiError::new(ErrorCode::UnknownPack, error.to_string()).hint(installed(&sandboxes))
    })?;
    match sandboxes.create(&pack).await {
        Ok(id) => Ok((StatusCode::CREATED, Json(CreatedSandbox { id: id.to_string() }))),
        Err(error @ CreateError::UnknownPack(_)) => {
            Err(ApiError::from(error).hint(installed(&sandboxes)))
        }
        Err(error) => Err(error.into()),
    }
}

fn installed<V: Vmm>(sandboxes: &Sandboxes<V>) -> String {
    let names: Vec<_> = sandboxes.images().packs.keys().map(PackName::as_str).collect();
    format!("installed are: {}", names.join(", "))
}

/// List all sandboxes, oldest first.
#[utoipa::path(
    get,
    path = paths::SANDBOXES,
    operation_id = "list_sandboxes",
    responses((status = 200, description = "All sandboxes", body = SandboxList))
)]
pub async fn list<V: Vmm>(State(sandboxes): State<Sandboxes<V>>) -> Json<SandboxList> {
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
pub async fn get<V: Vmm>(
    State(sandboxes): State<Sandboxes<V>>,
    Id(id): Id,
) -> Result<Json<Sandbox>, ApiError> {
    let unknown = || ApiError::new(ErrorCode::UnknownSandbox, format!("unknown sandbox {id}"));
    sandboxes.get(id).map(|view| Json(shown(&view))).ok_or_else(unknown)
}

/// Delete a sandbox; nothing of it is left when this answers.
#[utoipa::path(
    delete,
    path = paths::SANDBOX,
    operation_id = "delete_sandbox",
    params(("id" = String, Path, description = "`sb_` and 12 hexadecimal digits")),
    responses(
        (status = 204, description = "The sandbox is gone"),
        (status = 404, description = "There is no such sandbox", body = ErrorBody),
    )
)]
pub async fn delete<V: Vmm>(
    State(sandboxes): State<Sandboxes<V>>,
    Id(id): Id,
) -> Result<StatusCode, ApiError> {
    sandboxes.delete(id).await?;
    Ok(StatusCode::NO_CONTENT)
}

fn shown(view: &SandboxView) -> Sandbox {
    let (state, reason, vmm_pid) = match view.state {
        State_::Creating => (SandboxState::Creating, None, None),
        State_::Ready { vmm_pid } => (SandboxState::Ready, None, Some(vmm_pid)),
        State_::Gone(reason) => (SandboxState::Gone, Some(format!("its VMM {reason}")), None),
    };
    let created_at = view.created_at.duration_since(UNIX_EPOCH).unwrap_or_default();
    let micros = |duration: std::time::Duration| u64::try_from(duration.as_micros());
    let micros = |duration| micros(duration).unwrap_or(u64::MAX);
    Sandbox {
        id: view.id.to_string(),
        language_pack: view.pack.to_string(),
        state,
        reason,
        created_at_ms: u64::try_from(created_at.as_millis()).unwrap_or(u64::MAX),
        boot_path: BOOT_PATH.to_owned(),
        boot: view.boot.map(|boot| BootTimes {
            vmm_us: micros(boot.vmm),
            guest_us: micros(boot.guest),
            kernel_us: boot.kernel.map(micros),
            init_us: boot.init.map(micros),
        }),
        vmm_pid,
        dir: view.dir.display().to_string(),
    }
}
