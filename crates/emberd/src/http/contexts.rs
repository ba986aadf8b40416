//! `/sandboxes/{id}/contexts` and what is below it.

use std::convert::Infallible;

use axum::Json;
use axum::body::{Body as ResponseBody, Bytes};
use axum::extract::{FromRequestParts, Path, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use emberd_api::{
    Context, ContextList, ContextRun, ContextSpec, ContextState, ErrorBody, ErrorCode, Forms,
    RunEvent, paths,
};
use emberd_sandbox::{
    ContextId, ContextState as State_, ContextView, RunEvent as Event, SandboxId, Sandboxes,
};
use futures::stream::{self, StreamExt as _};

use super::body::Body;
use super::errors::ApiError;
use super::id::Id;
use super::sandboxes::epoch_ms;
use super::sse;

/// Lines of JSON.
const NDJSON: &str = "application/x-ndjson";
/// Server-sent events.
const EVENT_STREAM: &str = "text/event-stream";

/// Open a context: an interpreter that keeps its variables between runs.
#[utoipa::path(
    post,
    path = paths::CONTEXTS,
    params(("id" = String, Path, description = "`sb_` and 12 hexadecimal digits")),
    request_body = ContextSpec,
    responses(
        (status = 201, description = "It is ready", body = Context),
        (status = 400, description = "The body is wrong", body = ErrorBody),
        (status = 404, description = "There is no such sandbox, language or directory",
         body = ErrorBody),
        (status = 409, description = "The sandbox is still being created", body = ErrorBody),
        (status = 410, description = "The sandbox's microVM is gone", body = ErrorBody),
        (status = 413, description = "The body is too large", body = ErrorBody),
        (status = 429, description = "The sandbox has as many as it may", body = ErrorBody),
        (status = 502, description = "The interpreter did not start", body = ErrorBody),
    )
)]
pub async fn open(
    State(sandboxes): State<Sandboxes>,
    Id(id): Id,
    body: Body,
) -> Result<(StatusCode, Json<Context>), ApiError> {
    let spec: ContextSpec = body.json_or_default()?;
    let context = sandboxes.get(id)?.contexts()?.open(spec).await?;
    Ok((StatusCode::CREATED, Json(shown(context))))
}

/// List a sandbox's contexts, oldest first.
#[utoipa::path(
    get,
    path = paths::CONTEXTS,
    params(("id" = String, Path, description = "`sb_` and 12 hexadecimal digits")),
    responses(
        (status = 200, description = "All of them", body = ContextList),
        (status = 404, description = "There is no such sandbox", body = ErrorBody),
    )
)]
pub async fn list(
    State(sandboxes): State<Sandboxes>,
    Id(id): Id,
) -> Result<Json<ContextList>, ApiError> {
    let contexts = sandboxes.get(id)?.contexts()?.list().into_iter().map(shown).collect();
    Ok(Json(ContextList { contexts }))
}

/// Kill a context's interpreter and forget the context.
#[utoipa::path(
    delete,
    path = paths::CONTEXT,
    params(
        ("id" = String, Path, description = "`sb_` and 12 hexadecimal digits"),
        ("context" = String, Path, description = "`ctx_` and 12 hexadecimal digits"),
    ),
    responses(
        (status = 204, description = "It is gone"),
        (status = 404, description = "There is no such sandbox or context", body = ErrorBody),
    )
)]
pub async fn delete(
    State(sandboxes): State<Sandboxes>,
    Ids(id, context): Ids,
) -> Result<StatusCode, ApiError> {
    sandboxes.get(id)?.contexts()?.delete(context).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Run code in a context; answers with events as they come. Runs of one context take turns. A
/// caller that hangs up interrupts its run.
#[utoipa::path(
    post,
    path = paths::CONTEXT_RUN,
    params(
        ("id" = String, Path, description = "`sb_` and 12 hexadecimal digits"),
        ("context" = String, Path, description = "`ctx_` and 12 hexadecimal digits"),
    ),
    request_body = ContextRun,
    responses(
        (status = 200, description = "Events, the last of them `end`; one line of JSON each, or \
            server-sent events for who accepts those",
         content((RunEvent = "application/x-ndjson"), (RunEvent = "text/event-stream"))),
        (status = 400, description = "The body is wrong", body = ErrorBody),
        (status = 404, description = "There is no such sandbox or context", body = ErrorBody),
        (status = 409, description = "The context is dead", body = ErrorBody),
        (status = 410, description = "The sandbox's microVM is gone", body = ErrorBody),
        (status = 413, description = "The body is too large", body = ErrorBody),
        (status = 429, description = "As many runs wait as may", body = ErrorBody),
    )
)]
pub async fn run(
    State(sandboxes): State<Sandboxes>,
    Ids(id, context): Ids,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    let run: ContextRun = body.json()?;
    let _share = body.keep(run.code.len());
    let run = sandboxes.get(id)?.contexts()?.run(context, &run)?;
    let accepts = |kind: &str| {
        let accepted = headers.get_all(header::ACCEPT).iter();
        accepted.filter_map(|value| value.to_str().ok()).any(|value| value.contains(kind))
    };
    let events = stream::unfold(run, async |mut run| Some((told(run.next().await?), run)));
    if accepts(EVENT_STREAM) {
        return Ok(sse::answer(events.map(|event| sse::event(name(&event), &event))));
    }
    let lines = events.flat_map(|event| stream::iter(line(event).map(Ok::<_, Infallible>)));
    let headers = [(header::CONTENT_TYPE, NDJSON), (header::CACHE_CONTROL, "no-cache")];
    Ok((headers, ResponseBody::from_stream(lines)).into_response())
}

/// Interrupt what a context runs; does nothing when that is nothing.
#[utoipa::path(
    post,
    path = paths::CONTEXT_INTERRUPT,
    params(
        ("id" = String, Path, description = "`sb_` and 12 hexadecimal digits"),
        ("context" = String, Path, description = "`ctx_` and 12 hexadecimal digits"),
    ),
    responses(
        (status = 204, description = "It is told; the run's events say whether it heeds"),
        (status = 404, description = "There is no such sandbox or context", body = ErrorBody),
    )
)]
pub async fn interrupt(
    State(sandboxes): State<Sandboxes>,
    Ids(id, context): Ids,
) -> Result<StatusCode, ApiError> {
    sandboxes.get(id)?.contexts()?.interrupt(context)?;
    Ok(StatusCode::NO_CONTENT)
}

/// Kill a context's interpreter, whatever it is doing, and start another in its place.
#[utoipa::path(
    post,
    path = paths::CONTEXT_RESTART,
    params(
        ("id" = String, Path, description = "`sb_` and 12 hexadecimal digits"),
        ("context" = String, Path, description = "`ctx_` and 12 hexadecimal digits"),
    ),
    responses(
        (status = 200, description = "It is ready", body = Context),
        (status = 404, description = "There is no such sandbox or context", body = ErrorBody),
        (status = 410, description = "The sandbox's microVM is gone", body = ErrorBody),
        (status = 502, description = "The interpreter did not start", body = ErrorBody),
    )
)]
pub async fn restart(
    State(sandboxes): State<Sandboxes>,
    Ids(id, context): Ids,
) -> Result<Json<Context>, ApiError> {
    Ok(Json(shown(sandboxes.get(id)?.contexts()?.restart(context).await?)))
}

/// The ids of a path that names a sandbox and a context. What is none names none: 404.
#[derive(Debug)]
pub struct Ids(SandboxId, ContextId);

impl<S: Send + Sync> FromRequestParts<S> for Ids {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let texts = Path::<(String, String)>::from_request_parts(parts, state).await;
        let no_sandbox = |error: String| ApiError::new(ErrorCode::UnknownSandbox, error);
        let Path((id, context)) = texts.map_err(|rejection| no_sandbox(rejection.body_text()))?;
        let id = id.parse().map_err(|error| no_sandbox(format!("unknown sandbox: {error}")))?;
        let context = context.parse().map_err(|error| {
            ApiError::new(ErrorCode::NotFound, format!("unknown context: {error}"))
        })?;
        Ok(Self(id, context))
    }
}

fn shown(view: ContextView) -> Context {
    let (state, reason) = match view.state {
        State_::Idle => (ContextState::Idle, None),
        State_::Busy => (ContextState::Busy, None),
        State_::Dead(reason) => (ContextState::Dead, Some(reason)),
    };
    Context {
        id: view.id.to_string(),
        language: view.spec.language,
        cwd: view.spec.cwd,
        state,
        reason,
        execution_count: view.execution_count,
        created_at_ms: epoch_ms(view.created_at),
    }
}

/// An event as clients are told.
fn told(event: Event) -> RunEvent {
    let text = |bytes: Bytes| String::from_utf8_lossy(&bytes).into_owned();
    match event {
        Event::Started { execution_count } => RunEvent::Started { execution_count },
        Event::Stdout(bytes) => RunEvent::Stdout { text: text(bytes) },
        Event::Stderr(bytes) => RunEvent::Stderr { text: text(bytes) },
        Event::Display(data) => RunEvent::Display { data },
        Event::Result(data) => RunEvent::Result { data },
        Event::Error { name, value, traceback } => RunEvent::Error { name, value, traceback },
        Event::End(end) => RunEvent::End {
            execution_count: end.execution_count,
            timed_out: end.timed_out,
            truncated: end.truncated,
            duration_us: u64::try_from(end.duration.as_micros()).unwrap_or(u64::MAX),
        },
    }
}

/// An event as a line, in pieces: what an interpreter said is passed on as it is.
fn line(event: RunEvent) -> [Bytes; 3] {
    let around = |data: Forms, begin| {
        [Bytes::from_static(begin), data.into_json(), Bytes::from_static(b"}\n")]
    };
    match event {
        RunEvent::Display { data } => around(data, br#"{"event":"display","data":"#),
        RunEvent::Result { data } => around(data, br#"{"event":"result","data":"#),
        event => {
            let mut json = serde_json::to_vec(&event).expect("string keys only");
            json.push(b'\n');
            [json.into(), Bytes::new(), Bytes::new()]
        }
    }
}

/// What a server-sent event is called: as in its JSON.
fn name(event: &RunEvent) -> &'static str {
    match event {
        RunEvent::Started { .. } => "started",
        RunEvent::Stdout { .. } => "stdout",
        RunEvent::Stderr { .. } => "stderr",
        RunEvent::Display { .. } => "display",
        RunEvent::Result { .. } => "result",
        RunEvent::Error { .. } => "error",
        RunEvent::End { .. } => "end",
        RunEvent::Other => "other",
    }
}
