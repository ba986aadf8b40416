//! `/sandboxes/{id}/processes` and what is below it.

use axum::Json;
use axum::body::Body as RawBody;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use emberd_api::{ErrorBody, Process, ProcessList, ProcessSpec, SignalProcess, TtySize, paths};
use emberd_sandbox::{ProcessError, ProcessView, Sandboxes};
use serde::Deserialize;

use super::body::{Body, Pieces};
use super::errors::ApiError;
use super::id::{Id, ProcessId};
use super::query::Query;
use super::sandboxes::epoch_ms;

pub mod events;
mod websocket;

/// Start a process; answers once it runs. It goes on until it ends, is deleted, or its sandbox
/// is, whoever listens.
#[utoipa::path(
    post,
    path = paths::PROCESSES,
    operation_id = "start_process",
    params(("id" = String, Path, description = "`sb_` and 12 hexadecimal digits")),
    request_body = ProcessSpec,
    responses(
        (status = 201, description = "It runs", body = Process),
        (status = 400, description = "The body is wrong, or asks for a limit the guest cannot hold",
         body = ErrorBody),
        (status = 404, description = "There is no such sandbox, or no such user", body = ErrorBody),
        (status = 409, description = "The sandbox is still being created", body = ErrorBody),
        (status = 410, description = "The sandbox's microVM is gone", body = ErrorBody),
        (status = 422, description = "The program could not be started", body = ErrorBody),
        (status = 429, description = "There are as many processes as allowed", body = ErrorBody),
        (status = 502, description = "The guest did not do as it should", body = ErrorBody),
    )
)]
pub async fn start(
    State(sandboxes): State<Sandboxes>,
    Id(id): Id,
    body: Body,
) -> Result<(StatusCode, Json<Process>), ApiError> {
    let spec: ProcessSpec = body.json()?;
    drop(body);
    let process = sandboxes.get(id)?.processes()?.start(spec).await?;
    Ok((StatusCode::CREATED, Json(shown(process.view()))))
}

/// List the processes that run, and those that ended lately, by process id.
#[utoipa::path(
    get,
    path = paths::PROCESSES,
    operation_id = "list_processes",
    params(("id" = String, Path, description = "`sb_` and 12 hexadecimal digits")),
    responses(
        (status = 200, description = "The processes", body = ProcessList),
        (status = 404, description = "There is no such sandbox", body = ErrorBody),
    )
)]
pub async fn list(
    State(sandboxes): State<Sandboxes>,
    Id(id): Id,
) -> Result<Json<ProcessList>, ApiError> {
    let processes = sandboxes.get(id)?.processes()?.list();
    let processes = processes.iter().map(|process| shown(process.view())).collect();
    Ok(Json(ProcessList { processes }))
}

/// Show one process.
#[utoipa::path(
    get,
    path = paths::PROCESS,
    operation_id = "get_process",
    params(("id" = String, Path, description = "`sb_` and 12 hexadecimal digits"),
           ("pid" = u32, Path, description = "The process's number")),
    responses(
        (status = 200, description = "The process", body = Process),
        (status = 404, description = "There is no such sandbox or process", body = ErrorBody),
    )
)]
pub async fn get(
    State(sandboxes): State<Sandboxes>,
    ProcessId(id, pid): ProcessId,
) -> Result<Json<Process>, ApiError> {
    Ok(Json(shown(sandboxes.get(id)?.processes()?.get(pid)?.view())))
}

/// Kill a process with all it started, and forget it.
#[utoipa::path(
    delete,
    path = paths::PROCESS,
    operation_id = "delete_process",
    params(("id" = String, Path, description = "`sb_` and 12 hexadecimal digits"),
           ("pid" = u32, Path, description = "The process's number")),
    responses(
        (status = 204, description = "It is being killed"),
        (status = 404, description = "There is no such sandbox or process", body = ErrorBody),
    )
)]
pub async fn delete(
    State(sandboxes): State<Sandboxes>,
    ProcessId(id, pid): ProcessId,
) -> Result<StatusCode, ApiError> {
    sandboxes.get(id)?.processes()?.delete(pid)?;
    Ok(StatusCode::NO_CONTENT)
}

/// What is asked of `POST …/stdin`.
#[derive(Debug, Deserialize)]
pub struct StdinQuery {
    #[serde(default)]
    end: bool,
}

/// Write the body to a process's standard input; answers when the guest has it all, which takes
/// as long as the program does not read. Of several at once, one is written after the other.
#[utoipa::path(
    post,
    path = paths::PROCESS_STDIN,
    operation_id = "write_process_stdin",
    params(("id" = String, Path, description = "`sb_` and 12 hexadecimal digits"),
           ("pid" = u32, Path, description = "The process's number"),
           ("end" = Option<bool>, Query, description = "Whether input ends with the body; \
            a terminal is sent Ctrl-D")),
    request_body(content = Vec<u8>, content_type = "application/octet-stream"),
    responses(
        (status = 204, description = "It is written"),
        (status = 404, description = "There is no such sandbox or process", body = ErrorBody),
        (status = 408, description = "The body paused for too long", body = ErrorBody),
        (status = 409, description = "The process, or its input, has ended", body = ErrorBody),
    )
)]
pub async fn stdin(
    State(sandboxes): State<Sandboxes>,
    ProcessId(id, pid): ProcessId,
    Query(query): Query<StdinQuery>,
    headers: HeaderMap,
    body: RawBody,
) -> Result<StatusCode, ApiError> {
    let process = sandboxes.get(id)?.processes()?.get(pid)?;
    let mut stdin = process.stdin().await?;
    let mut pieces = Pieces::new(&headers, body);
    loop {
        let piece = tokio::select! {
            // What was sent before the end is judged by itself.
            biased;
            piece = pieces.next() => piece?,
            _ = process.wait() => return Err(ProcessError::Ended(pid).into()),
        };
        match piece {
            Some(piece) => stdin.write(piece).await?,
            None => break,
        }
    }
    if query.end {
        stdin.end().await?;
    }
    Ok(StatusCode::NO_CONTENT)
}

/// Send a signal to a process and all it started.
#[utoipa::path(
    post,
    path = paths::PROCESS_SIGNAL,
    operation_id = "signal_process",
    params(("id" = String, Path, description = "`sb_` and 12 hexadecimal digits"),
           ("pid" = u32, Path, description = "The process's number")),
    request_body = SignalProcess,
    responses(
        (status = 204, description = "It is on its way"),
        (status = 400, description = "The body is wrong", body = ErrorBody),
        (status = 404, description = "There is no such sandbox or process", body = ErrorBody),
        (status = 409, description = "The process has ended", body = ErrorBody),
    )
)]
pub async fn signal(
    State(sandboxes): State<Sandboxes>,
    ProcessId(id, pid): ProcessId,
    body: Body,
) -> Result<StatusCode, ApiError> {
    let SignalProcess { signal } = body.json()?;
    sandboxes.get(id)?.processes()?.get(pid)?.signal(signal).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Change the size of a process's terminal.
#[utoipa::path(
    post,
    path = paths::PROCESS_RESIZE,
    operation_id = "resize_process",
    params(("id" = String, Path, description = "`sb_` and 12 hexadecimal digits"),
           ("pid" = u32, Path, description = "The process's number")),
    request_body = TtySize,
    responses(
        (status = 204, description = "It is on its way"),
        (status = 400, description = "The body is wrong, or there is no terminal",
         body = ErrorBody),
        (status = 404, description = "There is no such sandbox or process", body = ErrorBody),
        (status = 409, description = "The process has ended", body = ErrorBody),
    )
)]
pub async fn resize(
    State(sandboxes): State<Sandboxes>,
    ProcessId(id, pid): ProcessId,
    body: Body,
) -> Result<StatusCode, ApiError> {
    let size: TtySize = body.json()?;
    sandboxes.get(id)?.processes()?.get(pid)?.resize(size).await?;
    Ok(StatusCode::NO_CONTENT)
}

fn shown(view: ProcessView) -> Process {
    let ProcessView { pid, argv, user, tty, started_at, next_seq, exit } = view;
    let started_at_ms = epoch_ms(started_at);
    Process { pid, argv, user, tty, started_at_ms, next_event: next_seq, exit }
}
