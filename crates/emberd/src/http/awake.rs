//! Keeps a sandbox awake while a request uses it, and thaws it for that if it is frozen.
//!
//! ```text
//! looks at it, changes its terms ── neither wakes it nor keeps it awake
//! opens a stream that may be idle ─ wakes it; what comes through is a use, the open stream is none
//! every other request ───────────── wakes it, and keeps it awake to the end of the response
//! ```

use axum::extract::{MatchedPath, Request, State};
use axum::http::{Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use emberd_api::{ServerTiming, paths};
use emberd_sandbox::{InUse, Sandboxes};
use hyper::body::Body as _;

use super::errors::ApiError;
use super::id;
use crate::server::guarded::guarded;
use crate::server::observe::Timed;

/// Requests that do not use the sandbox: they look at it, or change how long it lives. A touch
/// thaws by itself.
const LOOKS: [(Method, &str); 8] = [
    (Method::GET, paths::SANDBOX),
    (Method::PATCH, paths::SANDBOX),
    (Method::DELETE, paths::SANDBOX),
    (Method::POST, paths::SANDBOX_TOUCH),
    (Method::GET, paths::METRICS),
    (Method::GET, paths::LOGS),
    (Method::GET, paths::EGRESS),
    (Method::GET, paths::EGRESS_LOG),
];

/// Requests whose response goes on while nothing happens.
const STREAMS: [(Method, &str); 3] = [
    (Method::GET, paths::PROCESS_EVENTS),
    (Method::GET, paths::FILES_WATCH),
    (Method::GET, paths::PORT),
];

/// Thaws the sandbox of a request, and keeps it awake as the module says.
pub async fn keep(State(sandboxes): State<Sandboxes>, request: Request, next: Next) -> Response {
    let (mut parts, body) = request.into_parts();
    let path = parts.extensions.get::<MatchedPath>().cloned();
    let is_one_of = |routes: &[(Method, &str)]| {
        let same = |(method, route): &(Method, &str)| {
            parts.method == *method && path.as_ref().is_some_and(|path| path.as_str() == *route)
        };
        routes.iter().any(same)
    };
    let (looks, streams) = (is_one_of(&LOOKS), is_one_of(&STREAMS));
    let id = id::in_path(&mut parts).await;
    // An unknown sandbox is the route's to report.
    let sandbox = id.filter(|_| !looks).and_then(|id| sandboxes.get(id).ok());
    let request = Request::from_parts(parts, body);
    let Some(sandbox) = sandbox else { return next.run(request).await };
    let in_use = match sandbox.enter().await {
        Ok(in_use) => in_use,
        Err(error) => return ApiError::from(error).into_response(),
    };
    let mut response = next.run(request).await;
    if in_use.thaw().is_some() {
        let Timed(timing) = response.extensions_mut().remove().unwrap_or_default();
        response.extensions_mut().insert(Timed(timed(timing, &in_use)));
    }
    let is_whole = response.body().size_hint().exact().is_some();
    if streams || is_whole || response.status() == StatusCode::SWITCHING_PROTOCOLS {
        return response;
    }
    response.map(|body| guarded(body, in_use))
}

/// The stage `thaw`, if there was one.
pub fn timing(in_use: &InUse) -> ServerTiming {
    timed(ServerTiming::default(), in_use)
}

fn timed(timing: ServerTiming, in_use: &InUse) -> ServerTiming {
    match in_use.thaw() {
        Some(took) => timing.with("thaw", took),
        None => timing,
    }
}
