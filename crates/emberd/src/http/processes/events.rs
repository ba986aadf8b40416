//! `…/processes/{pid}/events`: as server-sent events, or as a WebSocket.

use axum::Extension;
use axum::extract::State;
use axum::extract::ws::WebSocketUpgrade;
use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::http::HeaderMap;
use axum::http::header::UPGRADE;
use axum::response::Response;
use axum::response::sse::Event;
use emberd_api::{ErrorBody, ErrorCode, ProcessEvent, ProcessEventKind, Text, paths};
use emberd_sandbox::{
    Process, ProcessEvent as Happened, ProcessEventKind as What, ProcessEvents, Sandboxes,
};
use futures::stream::{self, StreamExt as _};
use serde::Deserialize;

use super::super::ending;
use super::super::errors::ApiError;
use super::super::id::ProcessId;
use super::super::query::Query;
use super::super::sse;
use super::websocket;
use crate::caller::Caller;

/// Where a client that was cut off says what it saw last.
const LAST_EVENT_ID: &str = "last-event-id";

/// What is asked of `GET …/events`.
#[derive(Debug, Deserialize)]
pub struct EventsQuery {
    /// Number of the first event wanted.
    #[serde(default)]
    from: u64,
}

/// Follow what happens to a process, from any event on, until it has ended. A WebSocket on the
/// same path also takes what is said to it, as `ProcessWord` or as bytes of standard input.
#[utoipa::path(
    get,
    path = paths::PROCESS_EVENTS,
    operation_id = "process_events",
    params(("id" = String, Path, description = "`sb_` and 12 hexadecimal digits"),
           ("pid" = u32, Path, description = "The process's number"),
           ("from" = Option<u64>, Query, description = "Number of the first event wanted, \
            0 when absent"),
           ("last-event-id" = Option<u64>, Header, description = "Number of the last event seen; \
            counts more than `from`")),
    responses(
        (status = 200, description = "Events, each with its number as `id`",
         content_type = "text/event-stream", body = ProcessEvent),
        (status = 101, description = "Events as the messages of a WebSocket"),
        (status = 400, description = "A number is none", body = ErrorBody),
        (status = 404, description = "There is no such sandbox or process", body = ErrorBody),
        (status = 429, description = "There are as many WebSockets as allowed", body = ErrorBody),
    )
)]
pub async fn events(
    State(sandboxes): State<Sandboxes>,
    ProcessId(id, pid): ProcessId,
    Query(EventsQuery { from }): Query<EventsQuery>,
    headers: HeaderMap,
    caller: Option<Extension<Caller>>,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Result<Response, ApiError> {
    let from = after_last(&headers)?.unwrap_or(from);
    let process = sandboxes.get(id)?.processes()?.get(pid)?;
    let (closing, deleted) = (sandboxes.closing(), process.deleted());
    let answer = match upgrade {
        Ok(upgrade) => websocket::serve(upgrade, process, from, closing)?,
        Err(rejection) if headers.contains_key(UPGRADE) => {
            return Err(ApiError::new(ErrorCode::InvalidRequest, rejection.body_text()));
        }
        Err(_) => {
            let events = following(&process, from).take_until(closing.cancelled_owned());
            sse::answer(events)
        }
    };
    let caller = caller.as_ref().map(|Extension(caller)| caller);
    Ok(ending::until(deleted, caller, answer))
}

/// The number after the one the client saw last.
fn after_last(headers: &HeaderMap) -> Result<Option<u64>, ApiError> {
    let Some(last) = headers.get(LAST_EVENT_ID) else { return Ok(None) };
    let number = last.to_str().ok().and_then(|text| text.parse::<u64>().ok());
    let none = || ApiError::new(ErrorCode::InvalidRequest, "`Last-Event-ID` is not a number");
    number.map(|last| Some(last.saturating_add(1))).ok_or_else(none)
}

fn following(process: &Process, from: u64) -> impl futures::Stream<Item = Event> + use<> {
    let pid = process.pid();
    stream::unfold(process.events(from), move |mut events: ProcessEvents| async move {
        let event = told(pid, events.next().await?);
        Some((sse::numbered(event.id, event.kind.name(), &event), events))
    })
}

/// An event as clients are told.
pub fn told(pid: u32, event: Happened) -> ProcessEvent {
    let kind = match event.kind {
        What::Started => ProcessEventKind::Started { pid },
        What::Stdout(bytes) => ProcessEventKind::Stdout(Text::new(&bytes)),
        What::Stderr(bytes) => ProcessEventKind::Stderr(Text::new(&bytes)),
        What::Exited(exit) => ProcessEventKind::Exit(exit),
        What::Gap { first_missing } => ProcessEventKind::Gap { first_missing },
    };
    ProcessEvent { id: event.seq, kind }
}
