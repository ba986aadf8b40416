//! `/sandboxes/{id}/exec`.

use axum::extract::State;
use axum::{Extension, Json};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use emberd_api::{ExecBody, ExecExit, ExecOutcome, ServerTiming, StartedBy, paths};
use emberd_sandbox::{ExecTimes, OperationError, Sandboxes, Unknown};

use super::body::{Body, BodyError};
use super::errors::ApiError;
use super::failures::Failures;
use super::id::Id;
use super::limited::LimitsHit;
use super::observe::Timed;
use super::outputs::{Kept, OutputShare};
use super::scrape::Measured;
use super::spans::{ParentSpan, pass_on};
use crate::meters::Timing;
use crate::traces::Traceparent;

/// A program that has ended, and where the time went.
type Executed = (Marks, Kept<Json<ExecOutcome>>);

/// Where the time went, and limits that the program has reached.
type Marks = (Extension<Timed>, Extension<Measured>, Extension<LimitsHit>);

/// Runs code in a sandbox and answers once it has ended.
///
/// A program that fails is a success of the request: its exit code tells. A caller that hangs up
/// ends the program.
#[utoipa::path(
    post,
    path = paths::EXEC,
    operation_id = "exec_code",
    tag = "sandboxes",
    params(Id, ParentSpan),
    request_body = ExecBody,
    responses(
        (status = 200, description = "The program has ended.", body = ExecOutcome,
         headers(("server-timing" = String, description = "Time that each stage took."))),
        Failures<(BodyError, StdinError, Unknown, OperationError)>,
    )
)]
pub async fn exec(
    State(sandboxes): State<Sandboxes>,
    Id(id): Id,
    parent: Option<Extension<Traceparent>>,
    mut output: OutputShare,
    body: Body,
) -> Result<Executed, ApiError> {
    let ExecBody { mut spec, stdin, stdin_base64 } = body.json()?;
    let stdin = stdin_bytes(stdin, stdin_base64)?;
    // Code and input are held until the program has ended.
    let _share = body.keep(spec.code.len() + stdin.len());
    let sandbox = sandboxes.get(id)?;
    pass_on(parent, &sandbox, &mut spec.env);
    let executed = sandbox.exec_within(spec, &stdin, &mut |piece| output.take(piece)).await?;
    let started_by = match executed.outcome.exit.started_by {
        Some(StartedBy::Zygote) => "zygote",
        Some(StartedBy::Spawn) | None => "spawn",
    };
    let measured = Measured(Timing::Executed { started_by, run: executed.times.run });
    let timed = Extension(timed(&executed.times));
    let hit = Extension(LimitsHit(limits_hit(&executed.outcome.exit)));
    Ok(((timed, Extension(measured), hit), output.kept_by(Json(executed.outcome))))
}

fn limits_hit(exit: &ExecExit) -> Vec<&'static str> {
    let limits = [
        ("timeout_ms", exit.timed_out),
        ("memory_mib", exit.out_of_memory),
        ("stdout_bytes", exit.stdout_truncated),
        ("stderr_bytes", exit.stderr_truncated),
    ];
    limits.into_iter().filter(|(_, is_hit)| *is_hit).map(|(name, _)| name).collect()
}

fn timed(times: &ExecTimes) -> Timed {
    let timing = ServerTiming::default()
        .with("turn", times.permit)
        .with("connect", times.connection)
        .with("launch", times.launch)
        .with("run", times.run)
        .with("channel", times.rest());
    Timed(timing)
}

/// Why the standard input of a body cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum StdinError {
    /// The body has both fields.
    #[error("`stdin` and `stdin_base64` cannot be combined")]
    Both,
    /// The text is not base64.
    #[error("`stdin_base64` is not base64")]
    Base64(#[source] base64::DecodeError),
}

fn stdin_bytes(text: Option<String>, base64: Option<String>) -> Result<Vec<u8>, StdinError> {
    match (text, base64) {
        (Some(_), Some(_)) => Err(StdinError::Both),
        (Some(text), None) => Ok(text.into_bytes()),
        (None, Some(base64)) => BASE64.decode(base64).map_err(StdinError::Base64),
        (None, None) => Ok(Vec::new()),
    }
}
