//! The trace that a request belongs to: it is passed on to programs, and, with the feature `otel`,
//! spans of the request are exported.
//!
//! ```text
//! traceparent ─▶ Trace::begin ─▶ request ─▶ Trace::end ─▶ queue ─▶ exporter ─▶ collector
//!                    └─▶ TRACEPARENT of programs             └─ full: spans are lost
//! ```

use axum::extract::Request;

mod answer;
#[cfg(feature = "otel")]
mod export;
#[cfg(feature = "otel")]
mod post;
#[cfg(feature = "otel")]
mod span;
#[cfg(not(feature = "otel"))]
mod without;
#[cfg(not(feature = "otel"))]
use without as export;
#[cfg(not(feature = "otel"))]
use without as span;

mod traceparent;

pub use answer::Answer;
pub use export::{Traces, TracesError};
pub use traceparent::{TRACEPARENT_HEADER, TRACEPARENT_VARIABLE, Traceparent};

/// One request in its trace, until it is answered. Dropping it ends the span of a request whose
/// caller has hung up.
#[derive(Debug)]
pub struct Trace {
    parent: Option<Traceparent>,
    span: Option<span::RequestSpan>,
}

impl Trace {
    /// Begins the span of a request of this id, if spans are exported.
    pub fn begin(request: &Request, id: &impl ToString) -> Self {
        let parent = Traceparent::of(request.headers());
        let span = span::RequestSpan::begin(request, id, parent);
        Self { parent, span }
    }

    /// The parent of spans of the request's programs: its own span, or that of the caller.
    pub fn for_programs(&self) -> Option<Traceparent> {
        self.span.as_ref().and_then(span::RequestSpan::traceparent).or(self.parent)
    }

    /// Whether the request has a span, which its answer ends.
    pub fn is_exported(&self) -> bool {
        self.span.is_some()
    }

    /// Ends the span.
    pub fn end(self, answer: &Answer) {
        if let Some(span) = self.span {
            span.end(answer);
        }
    }
}
