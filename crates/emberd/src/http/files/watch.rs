//! Changes of files as server-sent events.

use std::convert::Infallible;
use std::time::Duration;

use axum::body::Body;
use axum::extract::State;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use emberd_api::{ErrorBody, FileChange, paths};
use emberd_sandbox::{FileWatch, OperationError, Sandboxes};
use emberd_vmm::SnapshotVmm;
use futures::stream;
use serde::Serialize;

use super::query::Query;
use crate::http::errors::ApiError;
use crate::http::id::Id;

/// How long nothing is sent before a sign of life is: whoever is in between may close a
/// connection that is silent for a minute.
const SILENCE_MAX: Duration = Duration::from_secs(15);

/// Tell of changes as they happen, as server-sent events: `watching` once, then a `change` for
/// each, with a [`FileChange`] as its data. Ends with an `error` when the sandbox does.
#[utoipa::path(
    get,
    path = paths::FILES_WATCH,
    operation_id = "watch_files",
    params(
        ("id" = String, Path, description = "`sb_` and 12 hexadecimal digits"),
        ("path" = String, Query, description = "A directory or a file, percent-encoded bytes"),
        ("recursive" = Option<bool>, Query, description = "Whether directories below are watched \
            too, new ones included"),
        ("user" = Option<String>, Query, description = "Whose home a relative path begins at"),
    ),
    responses(
        (status = 200, description = "Changes from now on", body = FileChange,
         content_type = "text/event-stream"),
        (status = 400, description = "The query is wrong, or there are too many directories",
         body = ErrorBody),
        (status = 404, description = "There is no such sandbox, file or user", body = ErrorBody),
    )
)]
pub async fn watch<V: SnapshotVmm>(
    State(sandboxes): State<Sandboxes<V>>,
    Id(id): Id,
    query: Query,
) -> Result<Response, ApiError> {
    let (user, path, recursive) = (query.user()?, query.path("path")?, query.flag("recursive")?);
    let watch = sandboxes.file_watch(id, user, path, recursive).await?;
    let events = stream::unfold(Telling::Begin(watch), async |telling| {
        let (events, telling) = telling.step().await?;
        Some((Ok::<_, Infallible>(events), telling))
    });
    let headers = [(CONTENT_TYPE, "text/event-stream"), (CACHE_CONTROL, "no-store")];
    Ok((headers, Body::from_stream(events)).into_response())
}

enum Telling<V: SnapshotVmm> {
    Begin(FileWatch<V>),
    More(FileWatch<V>),
    End,
}

impl<V: SnapshotVmm> Telling<V> {
    async fn step(self) -> Option<(Bytes, Self)> {
        let mut watch = match self {
            Self::Begin(watch) => {
                return Some(("event: watching\ndata: {}\n\n".into(), Self::More(watch)));
            }
            Self::More(watch) => watch,
            Self::End => return None,
        };
        Some(match tokio::time::timeout(SILENCE_MAX, watch.next()).await {
            // A comment: whoever reads events passes over it.
            Err(_) => (":\n\n".into(), Self::More(watch)),
            Ok(Ok(None)) => return None,
            Ok(Ok(Some(changes))) => {
                let events = changes.iter().map(|change| event("change", change));
                (events.collect::<String>().into(), Self::More(watch))
            }
            Ok(Err(error)) => (event("error", &told(error)).into(), Self::End),
        })
    }
}

fn told(error: OperationError) -> ErrorBody {
    ApiError::from(error).into_body()
}

/// One event. JSON has no line breaks, which end an event's data.
fn event(name: &str, data: &impl Serialize) -> String {
    let json = serde_json::to_string(data).expect("bodies have string keys only");
    format!("event: {name}\ndata: {json}\n\n")
}
