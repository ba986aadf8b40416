//! Server-sent events.

use std::convert::Infallible;
use std::time::Duration;

use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse as _, Response};
use futures::{Stream, StreamExt as _};
use serde::Serialize;

/// How long a stream says nothing before a comment says that it is alive: less than the minute
/// after which proxies take one for dead.
const SILENCE_MAX: Duration = Duration::from_secs(15);

/// One event: its name, and its data as JSON, which has no line breaks of its own.
pub fn event(name: &str, data: &impl Serialize) -> Event {
    filled(Event::default(), name, data)
}

/// Likewise, with a number that a client can go on after.
pub fn numbered(id: u64, name: &str, data: &impl Serialize) -> Event {
    filled(Event::default().id(id.to_string()), name, data)
}

fn filled(event: Event, name: &str, data: &impl Serialize) -> Event {
    let json = serde_json::to_string(data).expect("bodies have string keys only");
    event.event(name).data(json)
}

/// The answer whose body is these events.
pub fn answer(events: impl Stream<Item = Event> + Send + 'static) -> Response {
    let events = events.map(Ok::<_, Infallible>);
    Sse::new(events).keep_alive(KeepAlive::new().interval(SILENCE_MAX)).into_response()
}
