//! Types of files, directories, and files moved and deleted.

use std::io;

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use emberd_api::{FileEntry, FileList, paths};
use emberd_sandbox::{FileListing, OperationError, Sandboxes, Unknown};
use futures::stream;

use crate::http::errors::ApiError;
use crate::http::failures::Failures;
use crate::http::id::Id;
use crate::http::query::{Query, QueryError};

/// Shows the type, size, owner and mode of a file.
///
/// A symbolic link is shown itself, with its target.
#[utoipa::path(
    get,
    path = paths::FILES_STAT,
    operation_id = "stat_file",
    tag = "files",
    params(
        Id,
        ("path" = String, Query, description = "Path of the file: percent-encoded bytes."),
        ("user" = Option<String>, Query,
         description = "User whose home a relative path begins at. Root when absent."),
    ),
    responses(
        (status = 200, description = "The file.", body = FileEntry),
        Failures<(QueryError, Unknown, OperationError)>,
    )
)]
pub async fn stat(
    State(sandboxes): State<Sandboxes>,
    Id(id): Id,
    query: Query,
) -> Result<Json<FileEntry>, ApiError> {
    Ok(Json(sandboxes.get(id)?.files()?.stat(query.user()?, query.path("path")?).await?))
}

/// Lists a directory, without following symbolic links.
///
/// The response is a stream: a listing that cannot be finished breaks off.
#[utoipa::path(
    get,
    path = paths::FILES_LIST,
    operation_id = "list_files",
    tag = "files",
    params(
        Id,
        ("path" = String, Query, description = "Path of the directory: percent-encoded bytes."),
        ("depth" = Option<u32>, Query,
         description = "Number of levels to list, 1 to 256. 1 when absent."),
        ("user" = Option<String>, Query,
         description = "User whose home a relative path begins at. Root when absent."),
    ),
    responses(
        (status = 200, description = "The files and directories in the directory.", body = FileList),
        Failures<(QueryError, Unknown, OperationError)>,
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
        printing
            .step()
            .await
            .inspect_err(|error| tracing::warn!(%error, "the transfer of a listing failed"))
    });
    Ok(([(CONTENT_TYPE, "application/json")], Body::from_stream(json)).into_response())
}

/// A listing that is written as the JSON of a [`FileList`], piece by piece.
struct Printing {
    /// None once all is written.
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

/// Makes a directory and its parents.
#[utoipa::path(
    post,
    path = paths::FILES_DIR,
    operation_id = "make_directory",
    tag = "files",
    params(
        Id,
        ("path" = String, Query, description = "Path of the directory: percent-encoded bytes."),
        ("mode" = Option<String>, Query,
         description = "Mode of the directory, in octal. 0755 when absent."),
        ("user" = Option<String>, Query, description = "Owner of the directory. Root when absent."),
    ),
    responses(
        (status = 201, description = "The directory exists.", body = FileEntry),
        Failures<(QueryError, Unknown, OperationError)>,
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

/// Moves a file or a directory.
///
/// A file at the new path is replaced; parent directories are made.
#[utoipa::path(
    post,
    path = paths::FILES_MOVE,
    operation_id = "move_file",
    tag = "files",
    params(
        Id,
        ("from" = String, Query, description = "Path of the file: percent-encoded bytes."),
        ("to" = String, Query, description = "New path of the file: percent-encoded bytes."),
        ("user" = Option<String>, Query,
         description = "User whose home relative paths begin at. Root when absent."),
    ),
    responses(
        (status = 200, description = "The file at its new path.", body = FileEntry),
        Failures<(QueryError, Unknown, OperationError)>,
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

/// Deletes a file, or a directory with its content.
///
/// A path that does not exist is a success.
#[utoipa::path(
    delete,
    path = paths::FILES,
    operation_id = "delete_file",
    tag = "files",
    params(
        Id,
        ("path" = String, Query, description = "Path of the file or directory: percent-encoded bytes."),
        ("user" = Option<String>, Query,
         description = "User whose home a relative path begins at. Root when absent."),
    ),
    responses(
        (status = 204, description = "Nothing exists at the path."),
        Failures<(QueryError, Unknown, OperationError)>,
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
