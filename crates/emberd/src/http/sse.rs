//! Server-sent events.

use std::convert::Infallible;
use std::time::Duration;

use axum::http::HeaderMap;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse as _, Response};
use futures::{Stream, StreamExt as _};
use serde::Serialize;

use super::query::QueryError;

/// Longest silence of a stream before a comment shows that it is alive: less than the minute after
/// which proxies close a connection.
const SILENCE_MAX: Duration = Duration::from_secs(15);

/// Request header in which a client that was cut off names the last event it received.
const LAST_EVENT_ID: &str = "last-event-id";

/// Number of the last event that the client received, if it names one.
pub fn last_event_id(headers: &HeaderMap) -> Result<Option<u64>, QueryError> {
    let Some(last) = headers.get(LAST_EVENT_ID) else { return Ok(None) };
    let number = last.to_str().ok().and_then(|text| text.parse().ok());
    let none = || QueryError::Invalid("`Last-Event-ID` is not a number".to_owned());
    number.map(Some).ok_or_else(none)
}

/// One event: its name, and its data as JSON, which has no line breaks.
pub fn event(name: &str, data: &impl Serialize) -> Event {
    filled(Event::default(), name, data)
}

/// One event with a number, after which a client can go on.
pub fn numbered(id: u64, name: &str, data: &impl Serialize) -> Event {
    filled(Event::default().id(id.to_string()), name, data)
}

fn filled(event: Event, name: &str, data: &impl Serialize) -> Event {
    let json = serde_json::to_string(data).expect("bodies have string keys only");
    event.event(name).data(json)
}

/// The response whose body is `events`.
pub fn answer(events: impl Stream<Item = Event> + Send + 'static) -> Response {
    let events = events.map(Ok::<_, Infallible>);
    Sse::new(events).keep_alive(KeepAlive::new().interval(SILENCE_MAX)).into_response()
}
