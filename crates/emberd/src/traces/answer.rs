//! How a request was answered, for its span.

use std::time::Duration;

use axum::http::StatusCode;
use emberd_api::ServerTiming;

/// See the module.
#[derive(Debug)]
#[cfg_attr(not(feature = "otel"), expect(dead_code, reason = "spans tell of it"))]
pub struct Answer {
    /// The status.
    pub status: StatusCode,
    /// How long the request took.
    pub took: Duration,
    /// Where the time went.
    pub stages: ServerTiming,
}
