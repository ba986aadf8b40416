//! The span of a request, and its stages as children.

use std::time::{Duration, SystemTime};

use axum::extract::{MatchedPath, Request};
use opentelemetry::trace::{
    Span as _, SpanContext, SpanId, SpanKind, Status, TraceContextExt as _, TraceFlags, TraceId,
    TraceState, Tracer as _,
};
use opentelemetry::{Context, KeyValue};
use opentelemetry_sdk::trace::Span;

use super::answer::Answer;
use super::export;
use super::traceparent::Traceparent;
use crate::log::excerpt;

/// Header beside `traceparent`, with what tracing systems add to it.
const TRACESTATE_HEADER: &str = "tracestate";

/// Longest method in a span, in bytes.
const METHOD_BYTES_MAX: usize = 16;

/// The span of a request that is under way.
#[derive(Debug)]
pub struct RequestSpan {
    span: Span,
    began: SystemTime,
}

impl RequestSpan {
    /// Begins the span of a request of this id; nothing if spans are not exported.
    pub fn begin(
        request: &Request,
        id: &impl ToString,
        parent: Option<Traceparent>,
    ) -> Option<Self> {
        let tracer = export::tracer()?;
        let began = SystemTime::now();
        let method = excerpt(request.method().as_str(), METHOD_BYTES_MAX).into_owned();
        let route = request.extensions().get::<MatchedPath>().map(MatchedPath::as_str);
        let name = format!("{method} {}", route.unwrap_or_default());
        let mut attributes = vec![
            KeyValue::new("http.request.method", method),
            KeyValue::new("emberd.request.id", id.to_string()),
        ];
        attributes.extend(route.map(|route| KeyValue::new("http.route", route.to_owned())));
        let span = tracer
            .span_builder(name.trim_end().to_owned())
            .with_kind(SpanKind::Server)
            .with_start_time(began)
            .with_attributes(attributes)
            .start_with_context(tracer, &parent_context(request, parent));
        Some(Self { span, began })
    }

    /// The span, as the parent of others; nothing after the exporter has ended.
    pub fn traceparent(&self) -> Option<Traceparent> {
        let context = self.span.span_context();
        context.is_valid().then(|| Traceparent {
            trace: u128::from_be_bytes(context.trace_id().to_bytes()),
            span: u64::from_be_bytes(context.span_id().to_bytes()),
            flags: context.trace_flags().to_u8(),
        })
    }

    /// Ends the span, and makes one of each stage.
    pub fn end(mut self, answer: &Answer) {
        let ended = self.began + answer.took;
        let status = answer.status;
        self.span
            .set_attribute(KeyValue::new("http.response.status_code", i64::from(status.as_u16())));
        if status.is_server_error() {
            self.span.set_status(Status::error(""));
        }
        if let Some(tracer) = export::tracer().filter(|_| self.span.is_recording()) {
            let parent = Context::new().with_remote_span_context(self.span.span_context().clone());
            for (name, began, ended) in stages(answer, ended) {
                let span = tracer.span_builder(name).with_start_time(began);
                span.start_with_context(tracer, &parent).end_with_timestamp(ended);
            }
        }
        self.span.end_with_timestamp(ended);
    }
}

/// The caller's span.
fn parent_context(request: &Request, parent: Option<Traceparent>) -> Context {
    let Some(Traceparent { trace, span, flags }) = parent else { return Context::new() };
    let state = request.headers().get(TRACESTATE_HEADER).and_then(|state| state.to_str().ok());
    let state = state.and_then(|state| state.parse::<TraceState>().ok());
    Context::new().with_remote_span_context(SpanContext::new(
        TraceId::from_bytes(trace.to_be_bytes()),
        SpanId::from_bytes(span.to_be_bytes()),
        TraceFlags::new(flags),
        true,
        state.unwrap_or_default(),
    ))
}

/// Name, beginning and end of each stage. Stages follow each other, and the answer follows the
/// last: what no stage explains is mostly the time before them, in which the body arrives.
fn stages(answer: &Answer, ended: SystemTime) -> Vec<(String, SystemTime, SystemTime)> {
    let stages = answer.stages.stages.iter();
    let stages = stages.filter_map(|stage| {
        Some((stage.name.to_string(), Duration::from_micros(stage.duration_us?)))
    });
    let stages: Vec<_> = stages.collect();
    let whole: Duration = stages.iter().map(|(_, took)| *took).sum();
    let mut begin = ended - whole.min(answer.took);
    let mut spans = Vec::with_capacity(stages.len());
    for (name, took) in stages {
        let end = (begin + took).min(ended);
        spans.push((name, begin, end));
        begin = end;
    }
    spans
}

#[cfg(test)]
mod tests {
    use axum::http::StatusCode;
    use emberd_api::ServerTiming;

    use super::*;

    #[test]
    fn stages_follow_each_other_until_the_answer() {
        let ms = Duration::from_millis;
        let stages_of = |took| {
            let timing = ServerTiming::default().with("load", ms(3)).saying("path", "pool");
            let answer =
                Answer { status: StatusCode::OK, took, stages: timing.with("guest", ms(4)) };
            let ended = SystemTime::UNIX_EPOCH + took;
            let since = |at: SystemTime| at.duration_since(SystemTime::UNIX_EPOCH).unwrap();
            let spans = stages(&answer, ended).into_iter();
            spans.map(|(name, begin, end)| (name, since(begin), since(end))).collect::<Vec<_>>()
        };
        let expect = |spans: [(&str, u64, u64); 2]| {
            spans.map(|(name, begin, end)| (name.to_owned(), ms(begin), ms(end))).to_vec()
        };
        assert_eq!(stages_of(ms(10)), expect([("load", 3, 6), ("guest", 6, 10)]));
        // Stages that overlap are no longer than the whole.
        assert_eq!(stages_of(ms(5)), expect([("load", 0, 3), ("guest", 3, 5)]));
    }
}
