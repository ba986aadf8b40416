//! `…/processes/{pid}/events`: as server-sent events, or as a WebSocket.

use axum::Extension;
use axum::extract::State;
use axum::extract::ws::WebSocketUpgrade;
use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::http::HeaderMap;
use axum::http::header::UPGRADE;
use axum::response::Response;
use axum::response::sse::Event;
use emberd_api::{ProcessEvent, paths};
use emberd_sandbox::{OperationError, Process, ProcessError, ProcessEvents, Sandboxes, Unknown};
use futures::stream::{self, StreamExt as _};

use super::super::ending;
use super::super::errors::ApiError;
use super::super::failures::Failures;
use super::super::id::{PathError, Within};
use super::super::limits::{TooManyWebSockets, WebSocketPermits};
use super::super::query::{Query, QueryError};
use super::super::sse;
use super::super::views::IntoBody as _;
use super::websocket::{self, Attached};
use crate::server::caller::Caller;

/// Follows the events of a process, from any event on, until it has ended.
///
/// A WebSocket on the same path also takes messages to the process: `ProcessMessage` as text,
/// standard input as binary.
#[utoipa::path(
    get,
    path = paths::PROCESS_EVENTS,
    operation_id = "follow_process",
    tag = "processes",
    params(
        Within<u32>,
        ("from" = Option<u64>, Query,
         description = "Number of the first event to send. 0 when absent."),
        ("last-event-id" = Option<u64>, Header,
         description = "Number of the last event received. Overrides `from`."),
    ),
    responses(
        (status = 200, description = "Events, each with its number as `id`.",
         content_type = "text/event-stream", body = ProcessEvent),
        (status = 101, description = "Events as the messages of a WebSocket."),
        Failures<(PathError, QueryError, Unknown, OperationError, ProcessError, TooManyWebSockets)>,
    )
)]
pub async fn events(
    State(sandboxes): State<Sandboxes>,
    Within(id, pid): Within<u32>,
    query: Query,
    headers: HeaderMap,
    caller: Option<Extension<Caller>>,
    permits: WebSocketPermits,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Result<Response, ApiError> {
    let from = query.number("from")?.unwrap_or_default();
    let last = sse::last_event_id(&headers)?;
    let from = last.map_or(from, |last| last.saturating_add(1));
    let sandbox = sandboxes.get(id)?;
    let process = sandbox.processes()?.get(pid)?;
    let (closing, deleted) = (sandboxes.closing(), process.deleted());
    let answer = match upgrade {
        Ok(upgrade) => {
            let attached = Attached { sandbox, process };
            websocket::serve(upgrade, attached, from, closing, permits.acquire()?)
        }
        Err(rejection) if headers.contains_key(UPGRADE) => {
            return Err(QueryError::Invalid(rejection.body_text()).into());
        }
        Err(_) => {
            let events = following(&process, from)
                .inspect(move |_| sandbox.stir())
                .take_until(closing.cancelled_owned());
            sse::answer(events)
        }
    };
    let caller = caller.as_ref().map(|Extension(caller)| caller);
    Ok(ending::until(deleted, caller, answer))
}

fn following(process: &Process, from: u64) -> impl futures::Stream<Item = Event> + use<> {
    let pid = process.pid();
    stream::unfold(process.events(from), move |mut events: ProcessEvents| async move {
        let event = (pid, events.next().await?).into_body();
        Some((sse::numbered(event.id, event.kind.name(), &event), events))
    })
}
