//! `/sandboxes/{id}/egress/log`: read in parts, or followed.

use std::collections::VecDeque;
use std::convert::Infallible;

use axum::Json;
use axum::body::Body as ResponseBody;
use axum::extract::State;
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse as _, Response};
use emberd_api::{EGRESS_RECORDS_MAX, EgressDecision, EgressEvent, EgressLog, paths};
use emberd_egress::{Decision, Page, SandboxEgress};
use emberd_sandbox::{SandboxId, Sandboxes, Unknown};
use futures::stream::{self, Stream, StreamExt as _};
use tokio_util::sync::CancellationToken;

use super::EgressError;
use crate::egress_record;
use crate::http::errors::ApiError;
use crate::http::failures::Failures;
use crate::http::id::Id;
use crate::http::query::{Query, QueryError};
use crate::http::sse;

/// Media type of lines of JSON.
const NDJSON: &str = "application/x-ndjson";
/// Media type of server-sent events.
const EVENT_STREAM: &str = "text/event-stream";

/// Decisions that the log can be narrowed to.
const DECISIONS: [Decision; 3] = [Decision::Allowed, Decision::Denied, Decision::Failed];

/// Most records that are held for a follower at once.
const FOLLOWED_AT_ONCE: usize = 64;

/// Reads the log of a sandbox's connections, lookups and requests, or follows it.
///
/// The newest 4,096 records, or 1 MiB of them, are kept.
#[utoipa::path(
    get,
    path = paths::EGRESS_LOG,
    operation_id = "get_egress_log",
    tag = "egress",
    params(
        Id,
        ("after" = Option<u64>, Query,
         description = "Number of the record to continue after. 0 when absent: all that are kept."),
        ("decision" = Option<EgressDecision>, Query,
         description = "Only records of this decision."),
        ("limit" = Option<usize>, Query,
         description = "Largest number of records, 1 to 1,000. 1,000 when absent. Without effect \
            when following."),
        ("follow" = Option<bool>, Query,
         description = "Whether to follow the log until the sandbox or the daemon ends."),
        ("accept" = Option<String>, Header,
         description = "`text/event-stream` asks for server-sent events, and follows the log."),
    ),
    responses(
        (status = 200, description = "Records. Of a log that is followed, one line of JSON each, \
            or server-sent events `record` and `gap` where the client accepts those.",
         content((EgressLog = "application/json"), (EgressEvent = "application/x-ndjson"),
            (EgressEvent = "text/event-stream"))),
        Failures<(QueryError, Unknown, EgressError)>,
    )
)]
pub async fn log(
    State(sandboxes): State<Sandboxes>,
    Id(id): Id,
    query: Query,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let after = query.number("after")?.unwrap_or(0);
    let limit: Option<usize> = query.number("limit")?;
    let follow = query.flag("follow")?;
    let decision = query.choice("decision", &DECISIONS.map(|one| (one.name(), one)))?;
    let egress = sandboxes.get(id)?.egress().ok_or(EgressError::Off)?;
    let accepts_events = {
        let mut accepted = headers.get_all(header::ACCEPT).iter();
        accepted.any(|value| value.to_str().is_ok_and(|value| value.contains(EVENT_STREAM)))
    };
    if !follow && !accepts_events {
        let limit = limit.unwrap_or(EGRESS_RECORDS_MAX).clamp(1, EGRESS_RECORDS_MAX);
        let Page { records, next, gap } = egress.log(after, decision, limit);
        let records = records.into_iter().map(|record| egress_record::body(id, record)).collect();
        return Ok(Json(EgressLog { records, next, gap }).into_response());
    }
    let closing = sandboxes.closing();
    let events = Follower { id, egress, decision, after, closing, waiting: VecDeque::new() };
    let events = events.into_stream();
    if accepts_events {
        return Ok(sse::answer(events.map(|event| match &event {
            EgressEvent::Record(record) => sse::numbered(record.seq, "record", &event),
            EgressEvent::Gap { .. } => sse::event("gap", &event),
        })));
    }
    let lines = events.map(|event| {
        let mut line = serde_json::to_vec(&event).expect("bodies have string keys only");
        line.push(b'\n');
        Ok::<_, Infallible>(line)
    });
    let headers = [(header::CONTENT_TYPE, NDJSON), (header::CACHE_CONTROL, "no-cache")];
    Ok((headers, ResponseBody::from_stream(lines)).into_response())
}

/// Records of a sandbox as they are made.
struct Follower {
    id: SandboxId,
    egress: SandboxEgress,
    decision: Option<Decision>,
    after: u64,
    /// Cancelled when the daemon stops.
    closing: CancellationToken,
    waiting: VecDeque<EgressEvent>,
}

impl Follower {
    fn into_stream(self) -> impl Stream<Item = EgressEvent> + Send + 'static {
        stream::unfold(self, async |mut follower| {
            let event = follower.next().await?;
            Some((event, follower))
        })
    }

    /// Waits for the next record; none when the sandbox or the daemon ends.
    async fn next(&mut self) -> Option<EgressEvent> {
        loop {
            if let Some(event) = self.waiting.pop_front() {
                return Some(event);
            }
            // Asked first: what is recorded before the end is read after it.
            let is_over = self.egress.is_closed() || self.closing.is_cancelled();
            let before = self.after;
            let page = self.egress.log(before, self.decision, FOLLOWED_AT_ONCE);
            self.after = page.next;
            let gap = (page.gap > 0).then_some(EgressEvent::Gap { gap: page.gap });
            let records = page
                .records
                .into_iter()
                .map(|record| EgressEvent::Record(Box::new(egress_record::body(self.id, record))));
            self.waiting.extend(gap.into_iter().chain(records));
            if !self.waiting.is_empty() || self.after != before {
                continue;
            }
            if is_over {
                return None;
            }
            tokio::select! {
                () = self.egress.recorded(self.after) => {}
                () = self.closing.cancelled() => {}
            }
        }
    }
}
