//! Ends streamed responses with the sandbox they come from, even where the client reads nothing:
//! an orderly end has a moment to get through, then the connection is aborted.

use std::time::Duration;

use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::middleware::Next;
use axum::response::Response;
use emberd_sandbox::Sandboxes;
use hyper::body::Body as _;

use super::id;
use crate::server::caller::Caller;
use crate::server::connection::ConnectionHandle;
use crate::server::guarded::guarded;
use crate::server::observe::Proxied;

/// How long a response may take to end after its sandbox.
const GRACE: Duration = Duration::from_secs(1);

/// Largest response that is left alone, in bytes (64 KiB): the kernel's buffers take it whole.
const SMALL_BYTES_MAX: u64 = 64 << 10;

/// Ends the response of every route below a sandbox with that sandbox.
pub async fn with_sandbox(
    State(sandboxes): State<Sandboxes>,
    request: Request,
    next: Next,
) -> Response {
    let (mut parts, body) = request.into_parts();
    let caller = parts.extensions.get::<Caller>().cloned();
    let id = id::in_path(&mut parts).await;
    let answer = next.run(Request::from_parts(parts, body)).await;
    match id {
        Some(id) => until(sandboxes.ended(id), caller.as_ref(), answer),
        None => answer,
    }
}

/// Returns `answer`, and aborts the connection of `caller` soon after `ended` if the answer is
/// not through by then.
pub fn until(
    ended: impl Future<Output = ()> + Send + 'static,
    caller: Option<&Caller>,
    answer: Response,
) -> Response {
    let ended = async {
        ended.await;
        tokio::time::sleep(GRACE).await;
    };
    at_once(ended, caller, answer)
}

/// As [`until`], without a moment for what is on its way.
pub fn at_once(
    ended: impl Future<Output = ()> + Send + 'static,
    caller: Option<&Caller>,
    answer: Response,
) -> Response {
    let Some(caller) = caller else { return answer };
    let is_upgrade = answer.status() == StatusCode::SWITCHING_PROTOCOLS;
    let is_small = answer.body().size_hint().upper().is_some_and(|bytes| bytes <= SMALL_BYTES_MAX);
    // A server in a sandbox may take any time for it.
    let is_proxied = answer.extensions().get::<Proxied>().is_some();
    if is_small && !is_upgrade && !is_proxied {
        return answer;
    }
    let connection = caller.connection.clone();
    if is_upgrade {
        tokio::spawn(async move { abort_after(ended, &connection, connection.closed()).await });
        return answer;
    }
    let (sent, sending) = tokio::sync::oneshot::channel::<()>();
    tokio::spawn(
        async move { abort_after(ended, &connection, async { drop(sending.await) }).await },
    );
    answer.map(|body| guarded(body, sent))
}

/// Aborts the connection when it has `ended`, unless `done` by then.
async fn abort_after(
    ended: impl Future<Output = ()>,
    connection: &ConnectionHandle,
    done: impl Future<Output = ()>,
) {
    let abort = async {
        ended.await;
        connection.abort();
    };
    tokio::select! {
        biased;
        () = done => {}
        () = abort => {}
    }
}
