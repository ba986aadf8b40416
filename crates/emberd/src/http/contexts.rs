//! `/sandboxes/{id}/contexts` and the paths below it.

use std::convert::Infallible;

use axum::body::{Body as ResponseBody, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::sse::Event;
use axum::response::{IntoResponse as _, Response};
use axum::{Extension, Json};
use emberd_api::{
    Context, ContextEvent, ContextList, ContextRun, ContextSpec, Forms, RunEvent, paths,
};
use emberd_sandbox::{ContextError, ContextId, OperationError, Sandboxes, Unknown};
use futures::stream::{self, StreamExt as _};

use super::body::{Body, BodyError};
use super::errors::ApiError;
use super::failures::Failures;
use super::id::{Id, PathError, Within};
use super::query::{Query, QueryError};
use super::spans::ParentSpan;
use super::sse;
use super::views::IntoBody;
use crate::traces::Traceparent;

/// Media type of lines of JSON.
const NDJSON: &str = "application/x-ndjson";
/// Media type of server-sent events.
const EVENT_STREAM: &str = "text/event-stream";

/// Creates a context: an interpreter that keeps its variables between runs.
#[utoipa::path(
    post,
    path = paths::CONTEXTS,
    operation_id = "create_context",
    tag = "contexts",
    params(Id),
    request_body(content = Option<ContextSpec>, description = "An empty body means `{}`."),
    responses(
        (status = 201, description = "The context is ready.", body = Context),
        Failures<(BodyError, Unknown, OperationError, ContextError)>,
    )
)]
pub async fn open(
    State(sandboxes): State<Sandboxes>,
    Id(id): Id,
    body: Body,
) -> Result<(StatusCode, Json<Context>), ApiError> {
    let spec: ContextSpec = body.json_or_default()?;
    let context = sandboxes.get(id)?.contexts()?.open(spec).await?;
    Ok((StatusCode::CREATED, Json(context.into_body())))
}

/// Lists the contexts of a sandbox, oldest first.
#[utoipa::path(
    get,
    path = paths::CONTEXTS,
    operation_id = "list_contexts",
    tag = "contexts",
    params(Id),
    responses(
        (status = 200, description = "All contexts of the sandbox.", body = ContextList),
        Failures<(Unknown, OperationError, ContextError)>,
    )
)]
pub async fn list(
    State(sandboxes): State<Sandboxes>,
    Id(id): Id,
) -> Result<Json<ContextList>, ApiError> {
    let contexts =
        sandboxes.get(id)?.contexts()?.list().into_iter().map(IntoBody::into_body).collect();
    Ok(Json(ContextList { contexts }))
}

/// Kills the interpreter of a context and forgets the context.
#[utoipa::path(
    delete,
    path = paths::CONTEXT,
    operation_id = "delete_context",
    tag = "contexts",
    params(Within<ContextId>),
    responses(
        (status = 204, description = "The context is deleted."),
        Failures<(PathError, Unknown, OperationError, ContextError)>,
    )
)]
pub async fn delete(
    State(sandboxes): State<Sandboxes>,
    Within(id, context): Within<ContextId>,
) -> Result<StatusCode, ApiError> {
    sandboxes.get(id)?.contexts()?.delete(context).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Runs code in a context and answers with events while it runs.
///
/// Runs of one context take turns. A caller that hangs up interrupts its run.
#[utoipa::path(
    post,
    path = paths::CONTEXT_RUN,
    operation_id = "run_context",
    tag = "contexts",
    params(
        Within<ContextId>,
        ("accept" = Option<String>, Header,
         description = "`text/event-stream` asks for server-sent events."),
        ParentSpan,
    ),
    request_body = ContextRun,
    responses(
        (status = 200, description = "Events, the last of them `end`: one line of JSON each, or \
            server-sent events where the client accepts those.",
         content((ContextEvent = "application/x-ndjson"), (ContextEvent = "text/event-stream"))),
        Failures<(PathError, BodyError, Unknown, OperationError, ContextError)>,
    )
)]
pub async fn run(
    State(sandboxes): State<Sandboxes>,
    Within(id, context): Within<ContextId>,
    parent: Option<Extension<Traceparent>>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    let run: ContextRun = body.json()?;
    let _share = body.keep(run.code.len());
    let parent = parent.map(|Extension(parent)| parent.to_string());
    let run = sandboxes.get(id)?.contexts()?.run_below(context, &run, parent)?;
    let accepts = |kind: &str| {
        let accepted = headers.get_all(header::ACCEPT).iter();
        accepted.filter_map(|value| value.to_str().ok()).any(|value| value.contains(kind))
    };
    let events = stream::unfold(run, async |mut run| Some((run.next().await?.into_body(), run)));
    if accepts(EVENT_STREAM) {
        return Ok(sse::answer(events.map(|event| numbered(&event))));
    }
    let lines = events.flat_map(|event| stream::iter(line(event).map(Ok::<_, Infallible>)));
    let headers = [(header::CONTENT_TYPE, NDJSON), (header::CACHE_CONTROL, "no-cache")];
    Ok((headers, ResponseBody::from_stream(lines)).into_response())
}

/// Follows the events of a context's runs, from any event on, until the context is deleted.
///
/// This is how to read the rest of a run after its answer has ended early, such as with the daemon.
#[utoipa::path(
    get,
    path = paths::CONTEXT_EVENTS,
    operation_id = "follow_context",
    tag = "contexts",
    params(
        Within<ContextId>,
        ("from" = Option<u64>, Query,
         description = "Number of the first event to send. 0 when absent."),
        ("last-event-id" = Option<u64>, Header,
         description = "Number of the last event received. Overrides `from`."),
    ),
    responses(
        (status = 200, description = "Events, each with its number as `id`.",
         content_type = "text/event-stream", body = ContextEvent),
        Failures<(PathError, QueryError, Unknown, OperationError, ContextError)>,
    )
)]
pub async fn events(
    State(sandboxes): State<Sandboxes>,
    Within(id, context): Within<ContextId>,
    query: Query,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let from = query.number("from")?.unwrap_or_default();
    let last = sse::last_event_id(&headers)?;
    let from = last.map_or(from, |last| last.saturating_add(1));
    let sandbox = sandboxes.get(id)?;
    let events = sandbox.contexts()?.events(context, from)?;
    let events = stream::unfold(events, async |mut events| {
        Some((numbered(&events.next().await?.into_body()), events))
    });
    let events = events.inspect(move |_| sandbox.stir());
    Ok(sse::answer(events.take_until(sandboxes.closing().cancelled_owned())))
}

/// Interrupts the run of a context.
///
/// A context that runs nothing is a success.
#[utoipa::path(
    post,
    path = paths::CONTEXT_INTERRUPT,
    operation_id = "interrupt_context",
    tag = "contexts",
    params(Within<ContextId>),
    responses(
        (status = 204, description = "The interrupt is sent. The events of the run show its effect."),
        Failures<(PathError, Unknown, OperationError, ContextError)>,
    )
)]
pub async fn interrupt(
    State(sandboxes): State<Sandboxes>,
    Within(id, context): Within<ContextId>,
) -> Result<StatusCode, ApiError> {
    sandboxes.get(id)?.contexts()?.interrupt(context)?;
    Ok(StatusCode::NO_CONTENT)
}

/// Kills the interpreter of a context, whatever it is doing, and starts another in its place.
#[utoipa::path(
    post,
    path = paths::CONTEXT_RESTART,
    operation_id = "restart_context",
    tag = "contexts",
    params(Within<ContextId>),
    responses(
        (status = 200, description = "The context is ready.", body = Context),
        Failures<(PathError, Unknown, OperationError, ContextError)>,
    )
)]
pub async fn restart(
    State(sandboxes): State<Sandboxes>,
    Within(id, context): Within<ContextId>,
) -> Result<Json<Context>, ApiError> {
    Ok(Json(sandboxes.get(id)?.contexts()?.restart(context).await?.into_body()))
}

/// Writes an event as a line, in pieces: the JSON of an interpreter is passed on unchanged.
fn line(event: ContextEvent) -> [Bytes; 3] {
    let ContextEvent { id, event } = event;
    let name = event.name();
    let around = |data: Forms| {
        let begin = format!(r#"{{"id":{id},"event":"{name}","data":"#);
        [begin.into(), data.into_json(), Bytes::from_static(b"}\n")]
    };
    match event {
        RunEvent::Display { data } | RunEvent::Result { data } => around(data),
        event => {
            let mut json =
                serde_json::to_vec(&ContextEvent { id, event }).expect("string keys only");
            json.push(b'\n');
            [json.into(), Bytes::new(), Bytes::new()]
        }
    }
}

fn numbered(event: &ContextEvent) -> Event {
    sse::numbered(event.id, event.event.name(), event)
}
