//! What happens around every request: an id, a span, a line in the log, where the time went,
//! and a decent answer when a route panics.

use std::fmt;
use std::panic::AssertUnwindSafe;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use axum::extract::Request;
use axum::http::{HeaderValue, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use emberd_api::{ErrorCode, REQUEST_ID_HEADER, SERVER_TIMING_HEADER, STAGE_TOTAL, ServerTiming};
use futures::FutureExt as _;
use tracing::Instrument as _;

use super::errors::{ApiError, Reported};
use super::origin::FromPage;
use super::proxy::Proxied;
use crate::log::excerpt;

/// What of a request's method reaches the log, in bytes.
const METHOD_BYTES_MAX: usize = 16;

/// What of a request's path reaches the log, in bytes.
const PATH_BYTES_MAX: usize = 256;

/// What of an error reaches the log, in bytes.
const ERROR_BYTES_MAX: usize = 512;

/// Where the time of an answer went, but for the total; travels with the response.
#[derive(Debug, Clone, Default)]
pub struct Timed(pub ServerTiming);

/// Runs the request in a span of its id, and says in the log how it ended.
pub async fn observe(request: Request, next: Next) -> Response {
    let started = Instant::now();
    let id = RequestId::next();
    let span = tracing::info_span!("request", %id);
    let method = excerpt(request.method().as_str(), METHOD_BYTES_MAX).into_owned();
    let path = excerpt(request.uri().path(), PATH_BYTES_MAX).into_owned();
    let answer = AssertUnwindSafe(next.run(request)).catch_unwind().instrument(span.clone());
    let response = answer.await.unwrap_or_else(|_| {
        // The panic hook has told the log what it was.
        ApiError::new(ErrorCode::Internal, "a defect in emberd").into_response()
    });
    let took = started.elapsed();
    let proxied = response.extensions().get::<Proxied>().is_some();
    let (status, error) = (response.status(), reported(&response));
    let from_page = response.extensions().get::<FromPage>().is_some();
    let line = Line { method, path, status, took, error, proxied, from_page };
    // Written behind the answer: who waits for that need not wait for a line in the log.
    tokio::spawn(async move { line.write() }.instrument(span));
    if proxied {
        return response;
    }
    let mut response = tell_time(response, took);
    let id = HeaderValue::try_from(id.to_string()).expect("hexadecimal digits");
    response.headers_mut().insert(REQUEST_ID_HEADER, id);
    response
}

/// The id the log knows a request by, and no other request of this daemon has.
#[derive(Debug, Clone, Copy)]
struct RequestId(u64);

impl RequestId {
    fn next() -> Self {
        // Where they begin is left to chance: two daemons' logs can lie side by side.
        static NEXT: LazyLock<AtomicU64> = LazyLock::new(|| {
            AtomicU64::new(getrandom::u64().expect("the kernel gives random bytes"))
        });
        Self(NEXT.fetch_add(1, Ordering::Relaxed))
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// Adds the `Server-Timing` header where the route kept the time.
fn tell_time(mut response: Response, took: Duration) -> Response {
    if let Some(Timed(timing)) = response.extensions_mut().remove() {
        let timing = timing.with(STAGE_TOTAL, took).to_string();
        let timing = HeaderValue::try_from(timing).expect("names and numbers");
        response.headers_mut().insert(SERVER_TIMING_HEADER, timing);
    }
    response
}

fn reported(response: &Response) -> Option<String> {
    let reported = response.extensions().get();
    reported.map(|Reported(error)| excerpt(error, ERROR_BYTES_MAX).into_owned())
}

/// What the log says of a request.
struct Line {
    method: String,
    path: String,
    status: StatusCode,
    took: Duration,
    error: Option<String>,
    /// What answered was inside a sandbox, and its errors are its own.
    proxied: bool,
    /// A web page sent it, and was refused.
    from_page: bool,
}

impl Line {
    /// Each kind of answer is a kind of line, so that many of one leave room for the others.
    fn write(&self) {
        let Self { method, path, proxied, .. } = self;
        let status = self.status.as_u16();
        let (latency_us, error) = (self.took.as_micros(), self.error.as_deref());
        if self.from_page {
            tracing::info!(%method, path, status, error, "refused a web page");
        } else if self.status.is_server_error() && !proxied {
            tracing::error!(%method, path, status, latency_us, error, "answered");
        } else if self.status.is_client_error() && !proxied {
            tracing::info!(%method, path, status, latency_us, error, "answered");
        } else {
            tracing::info!(%method, path, status, latency_us, error, proxied, "answered");
        }
    }
}

#[cfg(test)]
mod tests {
    use axum::Router;
    use axum::body::Body;
    use axum::middleware::from_fn;
    use axum::routing::get;
    use emberd_api::ErrorBody;
    use hyper::service::Service as _;
    use hyper_util::service::TowerToHyperService;

    use super::*;

    #[tokio::test]
    async fn panic_in_a_route_is_an_answer() {
        let router = Router::new()
            .route("/", get(async || -> &'static str { panic!("a route with a defect") }))
            .layer(from_fn(observe));
        let request = Request::builder().uri("/").body(Body::empty()).unwrap();
        let response = TowerToHyperService::new(router).call(request).await.unwrap();
        assert_eq!(response.status().as_u16(), 500);
        assert_eq!(response.headers()[REQUEST_ID_HEADER].len(), 16);
        let body = axum::body::to_bytes(response.into_body(), 1024).await.unwrap();
        let body: ErrorBody = serde_json::from_slice(&body).unwrap();
        assert_eq!(body.code, ErrorCode::Internal);
    }
}
