//! `/sandboxes/{id}/processes` and the paths below it.

use axum::body::Body as RawBody;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::{Extension, Json};
use emberd_api::{Process, ProcessList, ProcessSpec, SignalProcess, TtySize, paths};
use emberd_sandbox::{OperationError, ProcessError, Sandboxes, Unknown};

use super::body::{Body, BodyError, Pieces, PiecesError};
use super::errors::ApiError;
use super::failures::Failures;
use super::id::{Id, PathError, Within};
use super::query::{Query, QueryError};
use super::spans::{ParentSpan, pass_on};
use super::views::IntoBody as _;
use crate::traces::Traceparent;

pub mod events;
mod websocket;

/// Starts a process and answers once it runs.
///
/// The process goes on until it ends, is deleted, or its sandbox is deleted.
#[utoipa::path(
    post,
    path = paths::PROCESSES,
    operation_id = "start_process",
    tag = "processes",
    params(Id, ParentSpan),
    request_body = ProcessSpec,
    responses(
        (status = 201, description = "The process runs.", body = Process),
        Failures<(BodyError, Unknown, OperationError, ProcessError)>,
    )
)]
pub async fn start(
    State(sandboxes): State<Sandboxes>,
    Id(id): Id,
    parent: Option<Extension<Traceparent>>,
    body: Body,
) -> Result<(StatusCode, Json<Process>), ApiError> {
    let mut spec: ProcessSpec = body.json()?;
    drop(body);
    let sandbox = sandboxes.get(id)?;
    pass_on(parent, &sandbox, &mut spec.env);
    let process = sandbox.processes()?.start(spec).await?;
    Ok((StatusCode::CREATED, Json(process.view().into_body())))
}

/// Lists the processes that run, and those that ended recently, by process id.
#[utoipa::path(
    get,
    path = paths::PROCESSES,
    operation_id = "list_processes",
    tag = "processes",
    params(Id),
    responses(
        (status = 200, description = "The processes.", body = ProcessList),
        Failures<(Unknown, OperationError)>,
    )
)]
pub async fn list(
    State(sandboxes): State<Sandboxes>,
    Id(id): Id,
) -> Result<Json<ProcessList>, ApiError> {
    let processes = sandboxes.get(id)?.processes()?.list();
    let processes = processes.iter().map(|process| process.view().into_body()).collect();
    Ok(Json(ProcessList { processes }))
}

/// Shows one process.
#[utoipa::path(
    get,
    path = paths::PROCESS,
    operation_id = "get_process",
    tag = "processes",
    params(Within<u32>),
    responses(
        (status = 200, description = "The process.", body = Process),
        Failures<(PathError, Unknown, OperationError, ProcessError)>,
    )
)]
pub async fn get(
    State(sandboxes): State<Sandboxes>,
    Within(id, pid): Within<u32>,
) -> Result<Json<Process>, ApiError> {
    Ok(Json(sandboxes.get(id)?.processes()?.get(pid)?.view().into_body()))
}

/// Kills a process and all it started, and forgets it.
///
/// Answers once the sandbox has forgotten it: it does not come back with a restarted daemon.
#[utoipa::path(
    delete,
    path = paths::PROCESS,
    operation_id = "delete_process",
    tag = "processes",
    params(Within<u32>),
    responses(
        (status = 204, description = "The process is killed and forgotten."),
        Failures<(PathError, Unknown, OperationError, ProcessError)>,
    )
)]
pub async fn delete(
    State(sandboxes): State<Sandboxes>,
    Within(id, pid): Within<u32>,
) -> Result<StatusCode, ApiError> {
    sandboxes.get(id)?.processes()?.delete(pid).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Writes the body to the standard input of a process.
///
/// Answers once all of it is on its way: the guest takes up to 256 KiB more than the program has
/// read.
/// Concurrent requests write one after the other.
#[utoipa::path(
    post,
    path = paths::PROCESS_STDIN,
    operation_id = "write_stdin",
    tag = "processes",
    params(
        Within<u32>,
        ("end" = Option<bool>, Query,
         description = "Whether standard input ends after the body. A terminal receives Ctrl-D."),
    ),
    request_body(content = Vec<u8>, content_type = "application/octet-stream"),
    responses(
        (status = 204, description = "The body is written."),
        Failures<(PathError, QueryError, PiecesError, Unknown, OperationError, ProcessError)>,
    )
)]
pub async fn stdin(
    State(sandboxes): State<Sandboxes>,
    Within(id, pid): Within<u32>,
    query: Query,
    headers: HeaderMap,
    body: RawBody,
) -> Result<StatusCode, ApiError> {
    let end = query.flag("end")?;
    let process = sandboxes.get(id)?.processes()?.get(pid)?;
    let mut stdin = process.stdin().await?;
    let mut pieces = Pieces::new(&headers, body);
    loop {
        let piece = tokio::select! {
            // Bytes that arrived before the process ended have their own error.
            biased;
            piece = pieces.next() => piece?,
            _ = process.wait() => return Err(ProcessError::Ended(pid).into()),
        };
        match piece {
            Some(piece) => stdin.write(piece).await?,
            None => break,
        }
    }
    if end {
        stdin.end().await?;
    }
    Ok(StatusCode::NO_CONTENT)
}

/// Sends a signal to a process and all it started.
#[utoipa::path(
    post,
    path = paths::PROCESS_SIGNAL,
    operation_id = "signal_process",
    tag = "processes",
    params(Within<u32>),
    request_body = SignalProcess,
    responses(
        (status = 204, description = "The signal is sent."),
        Failures<(PathError, BodyError, Unknown, OperationError, ProcessError)>,
    )
)]
pub async fn signal(
    State(sandboxes): State<Sandboxes>,
    Within(id, pid): Within<u32>,
    body: Body,
) -> Result<StatusCode, ApiError> {
    let SignalProcess { signal } = body.json()?;
    sandboxes.get(id)?.processes()?.get(pid)?.signal(signal).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Changes the size of the terminal of a process.
#[utoipa::path(
    post,
    path = paths::PROCESS_RESIZE,
    operation_id = "resize_process",
    tag = "processes",
    params(Within<u32>),
    request_body = TtySize,
    responses(
        (status = 204, description = "The new size is sent."),
        Failures<(PathError, BodyError, Unknown, OperationError, ProcessError)>,
    )
)]
pub async fn resize(
    State(sandboxes): State<Sandboxes>,
    Within(id, pid): Within<u32>,
    body: Body,
) -> Result<StatusCode, ApiError> {
    let size: TtySize = body.json()?;
    sandboxes.get(id)?.processes()?.get(pid)?.resize(size).await?;
    Ok(StatusCode::NO_CONTENT)
}
