//! Keeps web pages out. The API is for programs; a browser would send requests to it on
//! behalf of any page that is open, and says so with `Origin` on all but plain reads.

use axum::extract::Request;
use axum::http::header::ORIGIN;
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use emberd_api::ErrorCode;

use super::errors::ApiError;

/// Refuses what a web page sent.
pub async fn refuse_pages(request: Request, next: Next) -> Response {
    if request.headers().contains_key(ORIGIN) {
        return ApiError::new(ErrorCode::ForeignOrigin, "web pages may not use this API")
            .hint("call it from a program; a request with an `Origin` header is refused")
            .into_response();
    }
    next.run(request).await
}
