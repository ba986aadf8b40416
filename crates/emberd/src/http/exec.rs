//! `/sandboxes/{id}/exec`.

use axum::extract::State;
use axum::{Extension, Json};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use emberd_api::{ErrorBody, ErrorCode, ExecBody, ExecOutcome, ServerTiming, paths};
use emberd_sandbox::{ExecTimes, Sandboxes};

use super::body::Body;
use super::errors::ApiError;
use super::id::Id;
use super::observe::Timed;

/// Run code in a sandbox; answers when it has ended. A caller that hangs up ends it.
#[utoipa::path(
    post,
    path = paths::EXEC,
    params(("id" = String, Path, description = "`sb_` and 12 hexadecimal digits")),
    request_body = ExecBody,
    responses(
        (status = 200, description = "How the program ended, whichever way", body = ExecOutcome,
         headers(("server-timing" = String, description = "Where the time went"))),
        (status = 400, description = "The body is wrong", body = ErrorBody),
        (status = 404, description = "There is no such sandbox", body = ErrorBody),
        (status = 409, description = "The sandbox is still being created", body = ErrorBody),
        (status = 410, description = "The sandbox's microVM is gone", body = ErrorBody),
        (status = 408, description = "The body stopped coming", body = ErrorBody),
        (status = 413, description = "The body is too large", body = ErrorBody),
        (status = 429, description = "The bodies under way have as many bytes as they may: try \
            again after `Retry-After` seconds", body = ErrorBody),
        (status = 502, description = "The guest did not do as it should", body = ErrorBody),
    )
)]
pub async fn exec(
    State(sandboxes): State<Sandboxes>,
    Id(id): Id,
    body: Body,
) -> Result<(Extension<Timed>, Json<ExecOutcome>), ApiError> {
    let ExecBody { spec, stdin, stdin_base64 } = body.json()?;
    let stdin = stdin_bytes(stdin, stdin_base64)?;
    // Both are held until the program has ended.
    let _share = body.keep(spec.code.len() + stdin.len());
    let executed = sandboxes.get(id)?.exec(spec, &stdin).await?;
    Ok((Extension(timed(&executed.times)), Json(executed.outcome)))
}

fn timed(times: &ExecTimes) -> Timed {
    let timing = ServerTiming::default()
        .with("turn", times.turn)
        .with("connect", times.connection)
        .with("launch", times.launch)
        .with("run", times.run)
        .with("channel", times.rest());
    Timed(timing)
}

fn stdin_bytes(text: Option<String>, base64: Option<String>) -> Result<Vec<u8>, ApiError> {
    let invalid = |error: String| ApiError::new(ErrorCode::InvalidRequest, error);
    match (text, base64) {
        (Some(_), Some(_)) => Err(invalid("stdin and stdin_base64 exclude each other".to_owned())),
        (Some(text), None) => Ok(text.into_bytes()),
        (None, Some(base64)) => {
            BASE64.decode(base64).map_err(|error| invalid(format!("stdin_base64: {error}")))
        }
        (None, None) => Ok(Vec::new()),
    }
}
