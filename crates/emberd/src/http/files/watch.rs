//! Changes of files, as server-sent events.

use axum::extract::State;
use axum::response::Response;
use axum::response::sse::Event;
use emberd_api::{FileChange, paths};
use emberd_sandbox::{FileWatch, OperationError, Sandboxes, Unknown};
use futures::stream::{self, StreamExt as _};
use serde_json::json;

use crate::http::errors::ApiError;
use crate::http::failures::Failures;
use crate::http::id::Id;
use crate::http::query::{Query, QueryError};
use crate::http::sse;

/// Follows changes of files as server-sent events: `watching` once, then `change` for each change,
/// with a `FileChange` as data.
///
/// The stream ends with `error` when the sandbox does.
#[utoipa::path(
    get,
    path = paths::FILES_WATCH,
    operation_id = "watch_files",
    tag = "files",
    params(
        Id,
        ("path" = String, Query, description = "Path of the directory or file: percent-encoded bytes."),
        ("recursive" = Option<bool>, Query,
         description = "Whether to watch the directories below too, new ones included."),
        ("user" = Option<String>, Query,
         description = "User whose home a relative path begins at. Root when absent."),
    ),
    responses(
        (status = 200, description = "Changes from the time of the request.", body = FileChange,
         content_type = "text/event-stream"),
        Failures<(QueryError, Unknown, OperationError)>,
    )
)]
pub async fn watch(
    State(sandboxes): State<Sandboxes>,
    Id(id): Id,
    query: Query,
) -> Result<Response, ApiError> {
    let (user, path, recursive) = (query.user()?, query.path("path")?, query.flag("recursive")?);
    let watch = sandboxes.get(id)?.files()?.watch(user, path, recursive).await?;
    let events = stream::unfold(Telling::Begin(watch), Telling::step);
    Ok(sse::answer(events.map(stream::iter).flatten()))
}

enum Telling {
    Begin(FileWatch),
    More(FileWatch),
    End,
}

impl Telling {
    async fn step(self) -> Option<(Vec<Event>, Self)> {
        let mut watch = match self {
            Self::Begin(watch) => {
                return Some((vec![sse::event("watching", &json!({}))], Self::More(watch)));
            }
            Self::More(watch) => watch,
            Self::End => return None,
        };
        Some(match watch.next().await {
            Ok(None) => return None,
            Ok(Some(changes)) => {
                let events = changes.iter().map(|change| sse::event("change", change));
                (events.collect(), Self::More(watch))
            }
            Err(error) => {
                let told = ApiError::from(error).into_body();
                (vec![sse::event("error", &told)], Self::End)
            }
        })
    }
}
