//! What stands in for exported spans in a daemon without the feature `otel`.

use std::convert::Infallible;

use axum::extract::Request;

use super::answer::Answer;
use super::traceparent::Traceparent;

/// Names an endpoint for spans.
const ENDPOINT_VARIABLE: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";

/// Spans cannot be exported. Without the feature, none are.
pub type TracesError = Infallible;

/// Exports nothing.
#[derive(Debug)]
pub struct Traces;

impl Traces {
    /// Warns if the environment asks for spans.
    ///
    /// # Errors
    /// None.
    #[expect(clippy::unnecessary_wraps, reason = "as with the feature")]
    pub fn start() -> Result<Self, TracesError> {
        if std::env::var_os(ENDPOINT_VARIABLE).is_some_and(|endpoint| !endpoint.is_empty()) {
            tracing::warn!("{ENDPOINT_VARIABLE} is set, but this emberd is built without `otel`");
        }
        Ok(Self)
    }

    /// Does nothing.
    #[expect(clippy::unused_async, reason = "as with the feature")]
    pub async fn close(self) {}
}

/// Never made.
#[derive(Debug)]
pub enum RequestSpan {}

impl RequestSpan {
    pub fn begin(_: &Request, _: &impl ToString, _: Option<Traceparent>) -> Option<Self> {
        None
    }

    pub fn traceparent(&self) -> Option<Traceparent> {
        match *self {}
    }

    pub fn end(self, _: &Answer) {
        match self {}
    }
}
