//! `/audit`: the audit journal, read in parts or followed.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::io;
use std::time::SystemTime;

use axum::body::Body as ResponseBody;
use axum::extract::State;
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse as _, Response};
use axum::{Extension, Json};
use emberd_api::{AUDIT_RECORDS_MAX, AuditEvent, AuditPage, ReadAudit, paths};
use emberd_audit::page;
use emberd_sandbox::Sandboxes;
use futures::stream::{self, Stream, StreamExt as _};
use tokio::task::spawn_blocking;
use tokio_util::sync::CancellationToken;

use super::ending;
use super::errors::ApiError;
use super::failures::Failures;
use super::limits::Limits;
use super::query::{Query, QueryError};
use super::sse;
use crate::audit::{self, Audit};
use crate::server::caller::Caller;

/// Media type of lines of JSON.
const NDJSON: &str = "application/x-ndjson";
/// Media type of server-sent events.
const EVENT_STREAM: &str = "text/event-stream";

/// Most records that are held for a follower at once.
const FOLLOWED_AT_ONCE: usize = 64;

/// Longest text to choose records by, in bytes.
const CHOICE_BYTES_MAX: usize = 64;

/// Why the audit journal cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    /// There is none.
    #[error("this daemon keeps no audit journal")]
    Off,
    /// A file of it cannot be read.
    #[error("the audit journal cannot be read")]
    Read(#[source] io::Error),
}

/// Reads the audit journal, or follows it.
#[utoipa::path(
    get,
    path = paths::AUDIT,
    operation_id = "read_audit",
    tag = "daemon",
    params(
        ("after" = Option<u64>, Query,
         description = "Number of the record to continue after. 0 when absent: all that are kept."),
        ("since" = Option<String>, Query,
         description = "Only records of this time and later: `2026-11-29T12:00:00Z`, or a day."),
        ("action" = Option<String>, Query, description = "Only records of this action."),
        ("sandbox" = Option<String>, Query, description = "Only records of this sandbox."),
        ("limit" = Option<usize>, Query,
         description = "Largest number of records, 1 to 1,000. 1,000 when absent. Without effect \
            when following."),
        ("follow" = Option<bool>, Query,
         description = "Whether to follow the journal until the daemon stops."),
        ("accept" = Option<String>, Header,
         description = "`text/event-stream` asks for server-sent events, and follows the journal."),
        ("last-event-id" = Option<u64>, Header,
         description = "Number of the last event received. Overrides `after`."),
    ),
    responses(
        (status = 200, description = "Records. Of a journal that is followed, one line of JSON \
            each, or server-sent events `record` and `gap` where the client accepts those.",
         content((AuditPage = "application/json"), (AuditEvent = "application/x-ndjson"),
            (AuditEvent = "text/event-stream"))),
        Failures<(QueryError, AuditError)>,
    )
)]
pub async fn read(
    State(sandboxes): State<Sandboxes>,
    Extension(limits): Extension<Limits>,
    query: Query,
    headers: HeaderMap,
    caller: Option<Extension<Caller>>,
) -> Result<Response, ApiError> {
    let audit = limits.audit().clone();
    if audit.journal().is_none() {
        return Err(AuditError::Off.into());
    }
    let mut wanted = ReadAudit {
        after: query.number("after")?.unwrap_or(0),
        since: since(&query)?,
        action: choice(&query, "action")?,
        sandbox: query.sandboxes("sandbox")?.first().map(ToString::to_string),
        limit: query.number_in("limit", 1..=AUDIT_RECORDS_MAX)?,
    };
    wanted.after = sse::last_event_id(&headers)?.unwrap_or(wanted.after);
    let accepts_events = {
        let mut accepted = headers.get_all(header::ACCEPT).iter();
        accepted.any(|value| value.to_str().is_ok_and(|value| value.contains(EVENT_STREAM)))
    };
    if !query.flag("follow")? && !accepts_events {
        let page = part(&audit, wanted).await.map_err(AuditError::Read)?;
        return Ok(Json(page).into_response());
    }
    wanted.limit = Some(FOLLOWED_AT_ONCE);
    let closing = sandboxes.closing();
    let stopping = closing.clone().cancelled_owned();
    let events = Follower { audit, wanted, closing, waiting: VecDeque::new() }.into_stream();
    let answer = if accepts_events { as_events(events) } else { as_lines(events) };
    let caller = caller.as_ref().map(|Extension(caller)| caller);
    Ok(ending::until(stopping, caller, answer))
}

fn as_events(events: impl Stream<Item = AuditEvent> + Send + 'static) -> Response {
    sse::answer(events.map(|event| match &event {
        AuditEvent::Record(record) => sse::numbered(record.seq, "record", &event),
        AuditEvent::Gap { .. } => sse::event("gap", &event),
    }))
}

fn as_lines(events: impl Stream<Item = AuditEvent> + Send + 'static) -> Response {
    let lines = events.map(|event| {
        let mut line = serde_json::to_vec(&event).expect("bodies have string keys only");
        line.push(b'\n');
        Ok::<_, Infallible>(line)
    });
    let headers = [(header::CONTENT_TYPE, NDJSON), (header::CACHE_CONTROL, "no-cache")];
    (headers, ResponseBody::from_stream(lines)).into_response()
}

/// The time from which on records are wanted, as they have it.
fn since(query: &Query) -> Result<Option<String>, QueryError> {
    let Some(text) = choice(query, "since")? else { return Ok(None) };
    let whole = if text.len() == 10 { format!("{text}T00:00:00Z") } else { text.clone() };
    let parsed = humantime::parse_rfc3339(&whole).ok();
    // What is before the epoch cannot be told apart from it.
    let parsed = parsed.map(|at| at.max(SystemTime::UNIX_EPOCH));
    let wrong = || {
        QueryError::Invalid(format!("`since={text}` is not a time such as 2026-11-29T12:00:00Z"))
    };
    parsed.map(|at| Some(audit::time(at))).ok_or_else(wrong)
}

fn choice(query: &Query, name: &str) -> Result<Option<String>, QueryError> {
    let text = query.text(name)?;
    match &text {
        Some(long) if long.len() > CHOICE_BYTES_MAX => {
            let error = format!("`{name}` has more than {CHOICE_BYTES_MAX} bytes");
            Err(QueryError::Invalid(error))
        }
        _ => Ok(text),
    }
}

/// Reads a part of the journal, among few at once.
async fn part(audit: &Audit, wanted: ReadAudit) -> io::Result<AuditPage> {
    let Some((journal, readers)) = audit.journal().zip(audit.readers()) else {
        return Ok(AuditPage::default());
    };
    let _permit = readers.acquire_owned().await.expect("the semaphore is never closed");
    let dir = journal.dir().to_owned();
    let read = spawn_blocking(move || page(&dir, &wanted)).await;
    read.unwrap_or_else(|panicked| std::panic::resume_unwind(panicked.into_panic()))
}

/// Records as they are written.
struct Follower {
    audit: Audit,
    wanted: ReadAudit,
    /// Cancelled when the daemon stops.
    closing: CancellationToken,
    waiting: VecDeque<AuditEvent>,
}

impl Follower {
    fn into_stream(self) -> impl Stream<Item = AuditEvent> + Send + 'static {
        stream::unfold(self, async |mut follower| {
            let event = follower.next().await?;
            Some((event, follower))
        })
    }

    /// Waits for the next record; none when the daemon stops, or the journal cannot be read.
    async fn next(&mut self) -> Option<AuditEvent> {
        loop {
            if let Some(event) = self.waiting.pop_front() {
                return Some(event);
            }
            if self.closing.is_cancelled() {
                return None;
            }
            let page = match part(&self.audit, self.wanted.clone()).await {
                Ok(page) => page,
                Err(error) => {
                    tracing::warn!(%error, "cannot read the audit journal");
                    return None;
                }
            };
            self.wanted.after = page.next;
            let gap = (page.gap > 0).then_some(AuditEvent::Gap { gap: page.gap });
            let records =
                page.records.into_iter().map(|record| AuditEvent::Record(Box::new(record)));
            self.waiting.extend(gap.into_iter().chain(records));
            if !self.waiting.is_empty() || !page.is_end {
                continue;
            }
            let written = self.audit.journal()?.written(page.next);
            tokio::select! {
                () = written => {}
                () = self.closing.cancelled() => {}
            }
        }
    }
}
