//! `/sandboxes/{id}/logs`.

use std::convert::Infallible;

use axum::body::Body;
use axum::extract::State;
use axum::http::header::{CONTENT_TYPE, X_CONTENT_TYPE_OPTIONS};
use axum::response::{IntoResponse, Response};
use emberd_api::paths;
use emberd_sandbox::{OperationError, Sandboxes, Unknown};
use futures::stream::unfold;

use super::errors::ApiError;
use super::failures::Failures;
use super::id::Id;
use super::query::{Query, QueryError};

/// Reads the console log of a sandbox: the output of its guest's kernel, and of its VMM.
///
/// Control characters are removed. Code in the sandbox can write to the log.
#[utoipa::path(
    get,
    path = paths::LOGS,
    operation_id = "get_logs",
    tag = "sandboxes",
    params(
        Id,
        ("follow" = Option<bool>, Query,
         description = "Whether to follow the log until the sandbox or the daemon ends."),
        ("tail" = Option<usize>, Query,
         description = "Number of lines at the end of the log to begin with. All lines that are \
            kept when absent."),
    ),
    responses(
        (status = 200, description = "Lines of the log.", body = String,
         content_type = "text/plain"),
        Failures<(QueryError, Unknown, OperationError)>,
    )
)]
pub async fn logs(
    State(sandboxes): State<Sandboxes>,
    Id(id): Id,
    query: Query,
) -> Result<Response, ApiError> {
    let (follow, tail) = (query.flag("follow")?, query.number("tail")?);
    let log = sandboxes.get(id)?.console_log(tail, follow).await?;
    let pieces = unfold(log, async |mut log| {
        let text = log.next().await?;
        Some((Ok::<_, Infallible>(text), log))
    });
    let headers =
        [(CONTENT_TYPE, "text/plain; charset=utf-8"), (X_CONTENT_TYPE_OPTIONS, "nosniff")];
    Ok((headers, Body::from_stream(pieces)).into_response())
}
