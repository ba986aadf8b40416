//! `/events`: what becomes of the sandboxes, as server-sent events.

use std::collections::VecDeque;

use axum::Extension;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::Response;
use axum::response::sse::Event;
use emberd_api::{DaemonEvent, SandboxEventGap, paths};
use emberd_sandbox::{SandboxId, Sandboxes};
use futures::stream::{self, Stream};
use tokio_util::sync::CancellationToken;

use super::ending;
use super::errors::ApiError;
use super::failures::Failures;
use super::query::{Query, QueryError};
use super::sse;
use super::views::IntoBody as _;
use crate::access::Grant;
use crate::server::caller::Caller;

/// Most events that are held for a follower at once. One that reads more slowly than they come
/// gets a gap once the log has dropped what it has not read.
const FOLLOWED_AT_ONCE: usize = 64;

/// Follows what becomes of the caller's sandboxes, until the daemon stops.
///
/// The newest 4,096 events are kept, or fewer where sandboxes have large metadata.
#[utoipa::path(
    get,
    path = paths::EVENTS,
    operation_id = "follow_events",
    tag = "daemon",
    params(
        ("sandbox" = Option<Vec<String>>, Query,
         description = "Id of a sandbox. Repeated, the events of each; when absent, of all."),
        ("after" = Option<u64>, Query,
         description = "Number of the event to continue after. All that are kept when absent \
            or 0."),
        ("follow" = Option<bool>, Query,
         description = "Whether to wait for more once all are sent. `true` when absent."),
        ("last-event-id" = Option<u64>, Header,
         description = "Number of the last event received. Overrides `after`."),
    ),
    responses(
        (status = 200, description = "Events, each with its number as `id` and its kind as name. \
            An event `gap` where the daemon has dropped some: its data has the numbers before and \
            after them.", content_type = "text/event-stream", body = DaemonEvent),
        Failures<(QueryError,)>,
    )
)]
pub async fn events(
    State(sandboxes): State<Sandboxes>,
    query: Query,
    headers: HeaderMap,
    caller: Option<Extension<Caller>>,
    grant: Option<Extension<Grant>>,
) -> Result<Response, ApiError> {
    let only = query.sandboxes("sandbox")?;
    let follow = query.choice_of_flag("follow")?.unwrap_or(true);
    let after = query.number("after")?.filter(|after| *after > 0);
    let after = sse::last_event_id(&headers)?.or(after);
    let closing = sandboxes.closing();
    let stopping = closing.clone().cancelled_owned();
    let (waiting, grant) = (VecDeque::new(), grant.map(|Extension(grant)| grant));
    let follower = Follower { sandboxes, only, grant, after, follow, closing, waiting };
    let caller = caller.as_ref().map(|Extension(caller)| caller);
    Ok(ending::until(stopping, caller, sse::answer(follower.into_stream())))
}

/// Events as they happen.
struct Follower {
    sandboxes: Sandboxes,
    /// Sandboxes whose events are wanted; all where it is empty.
    only: Vec<SandboxId>,
    /// Rights of the follower.
    grant: Option<Grant>,
    after: Option<u64>,
    follow: bool,
    /// Cancelled when the daemon stops.
    closing: CancellationToken,
    waiting: VecDeque<Event>,
}

impl Follower {
    fn into_stream(self) -> impl Stream<Item = Event> + Send + 'static {
        stream::unfold(self, async |mut follower| {
            let event = follower.next().await?;
            Some((event, follower))
        })
    }

    /// Waits for the next event; none when the daemon stops, or all are read.
    async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some(event) = self.waiting.pop_front() {
                return Some(event);
            }
            if self.closing.is_cancelled() {
                return None;
            }
            let (only, grant) = (&self.only, self.grant.as_ref());
            let page = self.sandboxes.events(self.after, FOLLOWED_AT_ONCE, |event| {
                grant.is_none_or(|grant| grant.sees(event.owner.as_ref()))
                    && (only.is_empty() || only.contains(&event.id))
            });
            let is_last = self.after == Some(page.next);
            self.after = Some(page.next);
            let gap = page.gap.map(|gap| {
                let gap = SandboxEventGap { after: gap.after, before: gap.before };
                // A client that goes on after the gap is not told of it again.
                sse::numbered(gap.before - 1, "gap", &gap)
            });
            let events = page.events.iter().map(|event| {
                let event = event.into_body();
                sse::numbered(event.seq, event.event.name(), &event)
            });
            self.waiting.extend(gap.into_iter().chain(events));
            if !self.waiting.is_empty() || !is_last {
                continue;
            }
            if !self.follow {
                return None;
            }
            tokio::select! {
                () = self.sandboxes.event_after(page.next) => {}
                () = self.closing.cancelled() => {}
            }
        }
    }
}
