//! What files are, directories, and things moved and removed.

use std::io;

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use emberd_api::{ErrorBody, FileEntry, FileList, paths};
use emberd_sandbox::{FileListing, Sandboxes};
use futures::stream;

use super::query::Query;
use crate::http::errors::ApiError;
use crate::http::id::Id;

/// Show what a path leads to. A symbolic link is shown itself, with what it leads to.
#[utoipa::path(
    get,
    path = paths::FILES_STAT,
    operation_id = "stat_file",
    params(
        ("id" = String, Path, description = "`sb_` and 12 hexadecimal digits"),
        ("path" = String, Query, description = "A path, percent-encoded bytes"),
        ("user" = Option<String>, Query, description = "Whose home a relative path begins at"),
    ),
    responses(
        (status = 200, description = "What it is", body = FileEntry),
        (status = 400, description = "The query is wrong", body = ErrorBody),
        (status = 404, description = "There is no such sandbox, file or user", body = ErrorBody),
    )
)]
pub async fn stat(
    State(sandboxes): State<Sandboxes>,
    Id(id): Id,
    query: Query,
) -> Result<Json<FileEntry>, ApiError> {
    Ok(Json(sandboxes.get(id)?.files()?.stat(query.user()?, query.path("path")?).await?))
}

/// List what a directory holds. Links are not followed. Streamed: a listing that cannot be
/// finished breaks off.
#[utoipa::path(
    get,
    path = paths::FILES_LIST,
    operation_id = "list_files",
    params(
        ("id" = String, Path, description = "`sb_` and 12 hexadecimal digits"),
        ("path" = String, Query, description = "A directory, percent-encoded bytes"),
        ("depth" = Option<u32>, Query, description = "Levels below it, 1 (default) to 256"),
        ("user" = Option<String>, Query, description = "Whose home a relative path begins at"),
    ),
    responses(
        (status = 200, description = "What is in it", body = FileList),
        (status = 400, description = "The query is wrong, or it is no directory", body = ErrorBody),
        (status = 404, description = "There is no such sandbox, directory or user", body = ErrorBody),
    )
)]
pub async fn list(
    State(sandboxes): State<Sandboxes>,
    Id(id): Id,
    query: Query,
) -> Result<Response, ApiError> {
    let (user, path) = (query.user()?, query.path("path")?);
    let depth = query.number("depth")?.unwrap_or(1);
    let listing = sandboxes.get(id)?.files()?.list(user, path, depth).await?;
    let printing = Printing { listing: Some(listing), is_begun: false, has_entries: false };
    let json = stream::try_unfold(printing, async |printing| {
        printing.step().await.inspect_err(|error| tracing::warn!(%error, "a listing broke off"))
    });
    Ok(([(CONTENT_TYPE, "application/json")], Body::from_stream(json)).into_response())
}

/// A listing on its way out as the JSON of a [`FileList`], which is never held as a whole.
struct Printing {
    /// Gone once all is printed.
    listing: Option<FileListing>,
    is_begun: bool,
    has_entries: bool,
}

impl Printing {
    async fn step(mut self) -> io::Result<Option<(Bytes, Self)>> {
        let Some(listing) = &mut self.listing else { return Ok(None) };
        let mut json = Vec::new();
        if !self.is_begun {
            self.is_begun = true;
            json.extend_from_slice(br#"{"entries":["#);
        }
        match listing.next().await.map_err(io::Error::other)? {
            Some(entries) if entries.is_empty() => {}
            Some(entries) => {
                if self.has_entries {
                    json.push(b',');
                }
                self.has_entries = true;
                let entries = serde_json::to_vec(&entries).map_err(io::Error::other)?;
                json.extend_from_slice(&entries[1..entries.len() - 1]);
            }
            None => {
                let end = format!(r#"],"cut":{}}}"#, listing.is_cut());
                json.extend_from_slice(end.as_bytes());
                self.listing = None;
            }
        }
        Ok(Some((json.into(), self)))
    }
}

/// Make a directory and its parents.
#[utoipa::path(
    post,
    path = paths::FILES_DIR,
    operation_id = "make_directory",
    params(
        ("id" = String, Path, description = "`sb_` and 12 hexadecimal digits"),
        ("path" = String, Query, description = "The directory, percent-encoded bytes"),
        ("mode" = Option<String>, Query, description = "Its mode in octal, 0755 if absent"),
        ("user" = Option<String>, Query, description = "Whom it is to belong to"),
    ),
    responses(
        (status = 201, description = "It is made", body = FileEntry),
        (status = 400, description = "The query is wrong", body = ErrorBody),
        (status = 404, description = "There is no such sandbox or user", body = ErrorBody),
        (status = 409, description = "Something is there already", body = ErrorBody),
    )
)]
pub async fn make_dir(
    State(sandboxes): State<Sandboxes>,
    Id(id): Id,
    query: Query,
) -> Result<(StatusCode, Json<FileEntry>), ApiError> {
    let (user, path, mode) = (query.user()?, query.path("path")?, query.mode()?);
    Ok((StatusCode::CREATED, Json(sandboxes.get(id)?.files()?.make_dir(user, path, mode).await?)))
}

/// Move a file or a directory, replacing a file that is there; makes parents.
#[utoipa::path(
    post,
    path = paths::FILES_MOVE,
    operation_id = "move_file",
    params(
        ("id" = String, Path, description = "`sb_` and 12 hexadecimal digits"),
        ("from" = String, Query, description = "What, percent-encoded bytes"),
        ("to" = String, Query, description = "Its new path, percent-encoded bytes"),
        ("user" = Option<String>, Query, description = "Whose home relative paths begin at"),
    ),
    responses(
        (status = 200, description = "It is there now", body = FileEntry),
        (status = 400, description = "The query is wrong", body = ErrorBody),
        (status = 404, description = "There is no such sandbox, file or user", body = ErrorBody),
        (status = 409, description = "A directory is there already", body = ErrorBody),
    )
)]
pub async fn rename(
    State(sandboxes): State<Sandboxes>,
    Id(id): Id,
    query: Query,
) -> Result<Json<FileEntry>, ApiError> {
    let (user, from, to) = (query.user()?, query.path("from")?, query.path("to")?);
    Ok(Json(sandboxes.get(id)?.files()?.rename(user, from, to).await?))
}

/// Remove a file, or a directory with all that is in it. No error where nothing is.
#[utoipa::path(
    delete,
    path = paths::FILES,
    operation_id = "delete_file",
    params(
        ("id" = String, Path, description = "`sb_` and 12 hexadecimal digits"),
        ("path" = String, Query, description = "What, percent-encoded bytes"),
        ("user" = Option<String>, Query, description = "Whose home a relative path begins at"),
    ),
    responses(
        (status = 204, description = "Nothing is there"),
        (status = 400, description = "The query is wrong", body = ErrorBody),
        (status = 404, description = "There is no such sandbox or user", body = ErrorBody),
    )
)]
pub async fn remove(
    State(sandboxes): State<Sandboxes>,
    Id(id): Id,
    query: Query,
) -> Result<StatusCode, ApiError> {
    sandboxes.get(id)?.files()?.remove(query.user()?, query.path("path")?).await?;
    Ok(StatusCode::NO_CONTENT)
}
