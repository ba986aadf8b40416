//! `/sandboxes/{id}/metrics`.

use axum::Json;
use axum::extract::State;
use emberd_api::{ErrorBody, Metrics, paths};
use emberd_sandbox::Sandboxes;

use super::errors::ApiError;
use super::id::Id;

/// Show what a sandbox uses of its machine, by its guest's own account: code in it can make the
/// guest say anything.
#[utoipa::path(
    get,
    path = paths::METRICS,
    params(("id" = String, Path, description = "`sb_` and 12 hexadecimal digits")),
    responses(
        (status = 200, description = "What it uses now", body = Metrics),
        (status = 404, description = "There is no such sandbox", body = ErrorBody),
        (status = 409, description = "The sandbox is still being created", body = ErrorBody),
        (status = 410, description = "The sandbox's microVM is gone", body = ErrorBody),
        (status = 502, description = "The guest did not do as it should", body = ErrorBody),
    )
)]
pub async fn metrics(
    State(sandboxes): State<Sandboxes>,
    Id(id): Id,
) -> Result<Json<Metrics>, ApiError> {
    Ok(Json(sandboxes.get(id)?.metrics().await?))
}
