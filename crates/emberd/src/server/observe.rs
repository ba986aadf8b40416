//! What happens around every request: an id, a span, a line in the log, the `Server-Timing`
//! header, and an answer when a route panics.
//!
//! Routes and layers leave marks on responses ([`Reported`], [`Timed`], [`Proxied`],
//! [`Afterwards`], [`FromPage`]); nothing here knows the routes.

use std::any::Any;
use std::fmt;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use axum::extract::{Request, State};
use axum::http::{HeaderValue, StatusCode};
use axum::middleware::Next;
use axum::response::Response;
use emberd_api::{REQUEST_ID_HEADER, SERVER_TIMING_HEADER, STAGE_TOTAL, ServerTiming};
use futures::FutureExt as _;
use tracing::Instrument as _;

use crate::log::excerpt;
use crate::traces::{Answer, Trace};

/// Longest part of a request's method that the log shows, in bytes.
const METHOD_BYTES_MAX: usize = 16;

/// Longest part of a request's path that the log shows, in bytes.
const PATH_BYTES_MAX: usize = 256;

/// Longest part of an error that the log shows, in bytes.
const ERROR_BYTES_MAX: usize = 512;

/// Marks a response with where its time went, all stages but the total.
#[derive(Debug, Clone, Default)]
pub struct Timed(pub ServerTiming);

/// Marks an error response with its message, for the log.
#[derive(Debug, Clone)]
pub struct Reported(pub String);

/// Marks a response that came from inside a sandbox. It is passed on unchanged, and its status
/// says nothing about the daemon.
#[derive(Debug, Clone, Copy)]
pub struct Proxied;

/// Marks a response with what is dropped once it is on its way. What is dropped may wake a thread,
/// which takes tens of microseconds that the caller does not wait for.
#[derive(Clone)]
pub struct Afterwards {
    _values: Arc<dyn Any + Send + Sync>,
}

impl Afterwards {
    /// Has `value` dropped after `response`, and what was marked before.
    pub fn drop(value: impl Any + Send + Sync, response: &mut Response) {
        let marks = response.extensions_mut();
        let earlier = marks.remove::<Self>();
        marks.insert(Self { _values: Arc::new((value, earlier)) });
    }
}

/// Marks the refusal of a request that a web page sent.
#[derive(Debug, Clone, Copy)]
pub struct FromPage;

/// Makes the response to a request whose route panicked.
pub type OnPanic = fn() -> Response;

/// Runs the request in a span with its id, and logs how it ended.
pub async fn observe(
    State(on_panic): State<OnPanic>,
    mut request: Request,
    next: Next,
) -> Response {
    let started = Instant::now();
    let id = RequestId::next();
    request.extensions_mut().insert(id);
    let trace = Trace::begin(&request, &id);
    if let Some(parent) = trace.for_programs() {
        request.extensions_mut().insert(parent);
    }
    let span = tracing::info_span!("request", %id);
    let method = excerpt(request.method().as_str(), METHOD_BYTES_MAX).into_owned();
    let path = excerpt(request.uri().path(), PATH_BYTES_MAX).into_owned();
    let answer = AssertUnwindSafe(next.run(request)).catch_unwind().instrument(span.clone());
    // The panic hook has logged the panic itself.
    let mut response = answer.await.unwrap_or_else(|_| on_panic());
    let took = started.elapsed();
    let proxied = response.extensions().get::<Proxied>().is_some();
    let (status, error) = (response.status(), reported(&response));
    let from_page = response.extensions().get::<FromPage>().is_some();
    let line = Line { method, path, status, took, error, proxied, from_page };
    let answer = trace.is_exported().then(|| {
        let Timed(stages) = response.extensions().get().cloned().unwrap_or_default();
        Answer { status, took, stages }
    });
    let afterwards = response.extensions_mut().remove::<Afterwards>();
    // Both are written beside the response, so that the caller does not wait for them.
    let written = async move {
        drop(afterwards);
        if let Some(answer) = &answer {
            trace.end(answer);
        }
        line.write();
    };
    tokio::spawn(written.instrument(span));
    if proxied {
        return response;
    }
    response = with_timing(response, took);
    let id = HeaderValue::try_from(id.to_string()).expect("hexadecimal digits");
    response.headers_mut().insert(REQUEST_ID_HEADER, id);
    response
}

/// Identifies a request in the log, uniquely within this daemon's life.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RequestId(u64);

impl RequestId {
    fn next() -> Self {
        // The first id is random, so that the logs of two daemons can be merged.
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

/// Adds the `Server-Timing` header if the route marked its response with [`Timed`].
fn with_timing(mut response: Response, took: Duration) -> Response {
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

/// The log line of a request.
struct Line {
    method: String,
    path: String,
    status: StatusCode,
    took: Duration,
    error: Option<String>,
    /// The response came from inside a sandbox: its errors are not the daemon's.
    proxied: bool,
    /// A web page sent the request, which was refused.
    from_page: bool,
}

impl Line {
    /// Writes each kind of response at its own call site, since the log limits lines by call
    /// site: a flood of one kind leaves room for the others.
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
    use axum::middleware::from_fn_with_state;
    use axum::response::IntoResponse as _;
    use axum::routing::get;
    use hyper::service::Service as _;
    use hyper_util::service::TowerToHyperService;
    use parking_lot::Mutex;
    use tokio::sync::oneshot::{self, error::TryRecvError};

    use super::*;

    #[tokio::test]
    async fn a_panic_in_a_route_is_answered() {
        let on_panic: OnPanic = || (StatusCode::INTERNAL_SERVER_ERROR, "a defect").into_response();
        let router = Router::new()
            .route("/", get(async || -> &'static str { panic!("a route with a defect") }))
            .layer(from_fn_with_state(on_panic, observe));
        let request = Request::builder().uri("/").body(Body::empty()).unwrap();
        let response = TowerToHyperService::new(router).call(request).await.unwrap();
        assert_eq!(response.status().as_u16(), 500);
        assert_eq!(response.headers()[REQUEST_ID_HEADER].len(), 16);
        let body = axum::body::to_bytes(response.into_body(), 1024).await.unwrap();
        assert_eq!(&body[..], b"a defect");
    }

    #[tokio::test]
    async fn what_a_response_carries_is_dropped_after_it_and_with_one_that_is_lost() {
        let carrying = |count: usize| {
            let mut response = ().into_response();
            let (carried, dropped): (Vec<_>, Vec<_>) =
                (0..count).map(|_| oneshot::channel::<()>()).unzip();
            for value in carried {
                Afterwards::drop(value, &mut response);
            }
            (response, dropped)
        };
        let (response, dropped) = carrying(2);
        let response = Arc::new(Mutex::new(Some(response)));
        let on_panic: OnPanic = || StatusCode::INTERNAL_SERVER_ERROR.into_response();
        let router = Router::new()
            .route("/", get(async move || response.lock().take().unwrap()))
            .layer(from_fn_with_state(on_panic, observe));
        let request = Request::builder().uri("/").body(Body::empty()).unwrap();
        let answer = TowerToHyperService::new(router).call(request).await.unwrap();
        assert!(answer.extensions().get::<Afterwards>().is_none());
        for dropped in dropped {
            dropped.await.unwrap_err();
        }
        let (response, mut dropped) = carrying(1);
        assert!(dropped[0].try_recv().is_err_and(|error| error == TryRecvError::Empty));
        drop(response);
        assert!(dropped[0].try_recv().is_err_and(|error| error == TryRecvError::Closed));
    }
}
