//! `/sandboxes/{id}/logs`.

use std::convert::Infallible;

use axum::body::Body;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::header::{CONTENT_TYPE, X_CONTENT_TYPE_OPTIONS};
use axum::response::{IntoResponse, Response};
use emberd_api::{ErrorBody, ErrorCode, paths};
use emberd_sandbox::Sandboxes;
use futures::stream::unfold;
use serde::Deserialize;
use utoipa::IntoParams;

use super::errors::ApiError;
use super::id::Id;

/// What of a log is wanted.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct Wanted {
    /// Go on with what is added, until the sandbox or the daemon ends.
    #[serde(default)]
    follow: bool,
    /// Begin that many lines before the end; with all that is held when absent.
    tail: Option<usize>,
}

/// Read the console log of a sandbox: what its guest's kernel prints, and its VMM. Control
/// characters are taken out; the rest is as the guest chose it.
#[utoipa::path(
    get,
    path = paths::LOGS,
    params(("id" = String, Path, description = "`sb_` and 12 hexadecimal digits"), Wanted),
    responses(
        (status = 200, description = "Lines of the log", body = String, content_type = "text/plain"),
        (status = 400, description = "The query is wrong", body = ErrorBody),
        (status = 404, description = "There is no such sandbox", body = ErrorBody),
        (status = 409, description = "The sandbox is still being created", body = ErrorBody),
        (status = 410, description = "The sandbox was deleted meanwhile", body = ErrorBody),
    )
)]
pub async fn logs(
    State(sandboxes): State<Sandboxes>,
    Id(id): Id,
    wanted: Result<Query<Wanted>, QueryRejection>,
) -> Result<Response, ApiError> {
    let Query(Wanted { follow, tail }) = wanted.map_err(|rejection| {
        ApiError::new(ErrorCode::InvalidRequest, rejection.body_text())
            .hint("the query takes follow=true and tail=LINES")
    })?;
    let log = sandboxes.get(id)?.console_log(tail, follow).await?;
    let pieces = unfold(log, async |mut log| {
        let text = log.next().await?;
        Some((Ok::<_, Infallible>(text), log))
    });
    let headers =
        [(CONTENT_TYPE, "text/plain; charset=utf-8"), (X_CONTENT_TYPE_OPTIONS, "nosniff")];
    Ok((headers, Body::from_stream(pieces)).into_response())
}
