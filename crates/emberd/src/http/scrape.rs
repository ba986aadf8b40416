//! `/metrics`, and the count of every request for it.

use std::time::Instant;

use axum::Extension;
use axum::extract::{MatchedPath, Request, State};
use axum::http::Method;
use axum::http::header::CONTENT_TYPE;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use emberd_api::paths;
use emberd_sandbox::Sandboxes;
use tokio::task::spawn_blocking;

use super::errors::Coded;
use super::failures::Failures;
use super::limited::Limited;
use super::limits::Limits;
use crate::meters::{self, Meters, Timing};
use crate::server::observe::Proxied;

/// Marks a response whose time counts.
#[derive(Debug, Clone)]
pub struct Measured(pub Timing);

/// Counts the request.
pub async fn count(State(meters): State<Meters>, request: Request, next: Next) -> Response {
    let started = Instant::now();
    let method = known(request.method());
    let route = request.extensions().get::<MatchedPath>().map(MatchedPath::as_str);
    let mut route = route.unwrap_or("none").to_owned();
    let mut response = next.run(request).await;
    let took = started.elapsed();
    let mut code = response.status().as_u16();
    // A server in a sandbox may answer with any status.
    if response.extensions().get::<Proxied>().is_some() {
        (route, code) = ("port".to_owned(), 0);
    }
    let refusal = response.extensions().get().map(|Coded(code)| code.name());
    let timing = response.extensions_mut().remove().map(|Measured(timing)| timing);
    if let Some(limited) = response.extensions().get::<Limited>() {
        meters.count_limit(limited.name);
    }
    meters.count(&meters::Request { method, route, code }, refusal, timing, took);
    response
}

/// The method, if the API has it.
fn known(method: &Method) -> &'static str {
    let known = ["GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS", "CONNECT"];
    known.into_iter().find(|name| *name == method.as_str()).unwrap_or("other")
}

/// Shows what the daemon counts and times, in the text format of Prometheus (0.0.4).
///
/// Every name begins with `emberd_`. No label has an id.
#[utoipa::path(
    get,
    path = paths::DAEMON_METRICS,
    operation_id = "get_daemon_metrics",
    tag = "daemon",
    responses(
        (status = 200, description = "The metrics.", body = String, content_type = "text/plain"),
        Failures<()>,
    )
)]
pub async fn metrics(
    State(sandboxes): State<Sandboxes>,
    Extension(limits): Extension<Limits>,
) -> Response {
    // It goes through all sandboxes, and may read files of VMMs.
    let scraped = spawn_blocking(move || limits.meters().scrape(&sandboxes, limits.audit())).await;
    let text = scraped.expect("a scrape does not panic");
    ([(CONTENT_TYPE, meters::CONTENT_TYPE)], text).into_response()
}
