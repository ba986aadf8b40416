//! What happens around every request: an id, a span, a line in the log, and a decent
//! answer when a route panics.

use std::panic::AssertUnwindSafe;
use std::time::Instant;

use axum::extract::Request;
use axum::http::HeaderValue;
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use emberd_api::{ErrorCode, REQUEST_ID_HEADER};
use futures::FutureExt as _;
use tracing::Instrument as _;

use super::errors::{ApiError, Reported};

/// Runs the request in a span of its id, and says in the log how it ended.
pub async fn observe(request: Request, next: Next) -> Response {
    let id = format!("{:016x}", getrandom::u64().expect("the kernel gives random bytes"));
    let span = tracing::info_span!(
        "request", %id, method = %request.method(), path = request.uri().path()
    );
    let mut response = async {
        let started = Instant::now();
        let outcome = AssertUnwindSafe(next.run(request)).catch_unwind().await;
        let response = outcome.unwrap_or_else(|_| {
            // The panic hook has told the log what it was.
            ApiError::new(ErrorCode::Internal, "a defect in emberd").into_response()
        });
        log(&response, started);
        response
    }
    .instrument(span)
    .await;
    let id = HeaderValue::try_from(id).expect("hexadecimal digits");
    response.headers_mut().insert(REQUEST_ID_HEADER, id);
    response
}

fn log(response: &Response, started: Instant) {
    let status = response.status();
    let latency_us = started.elapsed().as_micros();
    let error = response.extensions().get::<Reported>().map(|reported| reported.0.as_str());
    if status.is_server_error() {
        tracing::error!(status = status.as_u16(), latency_us, error, "answered");
    } else {
        tracing::info!(status = status.as_u16(), latency_us, error, "answered");
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
