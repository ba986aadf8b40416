//! `/sandboxes/{id}/metrics`.

use axum::Json;
use axum::extract::State;
use emberd_api::{Metrics, paths};
use emberd_sandbox::{OperationError, Sandboxes, Unknown};

use super::errors::ApiError;
use super::failures::Failures;
use super::id::Id;

/// Shows what a sandbox uses of its machine.
///
/// The numbers are the guest's own: code in the sandbox can falsify them.
#[utoipa::path(
    get,
    path = paths::METRICS,
    operation_id = "get_metrics",
    tag = "sandboxes",
    params(Id),
    responses(
        (status = 200, description = "The current resource usage.", body = Metrics),
        Failures<(Unknown, OperationError)>,
    )
)]
pub async fn metrics(
    State(sandboxes): State<Sandboxes>,
    Id(id): Id,
) -> Result<Json<Metrics>, ApiError> {
    Ok(Json(sandboxes.get(id)?.metrics().await?))
}
