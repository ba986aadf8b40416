//! Changes of files as server-sent events.

use axum::extract::State;
use axum::response::Response;
use axum::response::sse::Event;
use emberd_api::{ErrorBody, FileChange, paths};
use emberd_sandbox::{FileWatch, Sandboxes};
use futures::stream::{self, StreamExt as _};
use serde_json::json;

use super::query::Query;
use crate::http::errors::ApiError;
use crate::http::id::Id;
use crate::http::sse;

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
