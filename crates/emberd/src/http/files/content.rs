//! Content of files, and directories as archives, streamed in both directions.

use std::io;

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::header::{
    ACCEPT_RANGES, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, RANGE, VARY,
};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode};
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use emberd_api::{FileEntry, GuestPath, paths};
use emberd_sandbox::{
    Answer, FileContent, Files, GuestError, OperationError, Sandboxes, Unknown, Upload,
};
use futures::stream;

use super::encoding::{Compressor, accepts_gzip};
use super::range::{Range, RangeError};
use super::upload::{UploadBody, UploadError};
use crate::http::errors::ApiError;
use crate::http::failures::Failures;
use crate::http::id::Id;
use crate::http::query::{Query, QueryError};

/// Reads a file, or a part of it with `Range: bytes=FIRST-LAST`.
///
/// The response is compressed with gzip where the client accepts that and asks for no part. `HEAD`
/// answers with the size alone.
#[utoipa::path(
    get,
    path = paths::FILES,
    operation_id = "read_file",
    tag = "files",
    params(
        Id,
        ("path" = String, Query, description = "Path of the file: percent-encoded bytes."),
        ("user" = Option<String>, Query,
         description = "User whose home a relative path begins at. Root when absent."),
        ("range" = Option<String>, Header,
         description = "`bytes=FIRST-LAST`, `bytes=FIRST-` or `bytes=-COUNT`."),
    ),
    responses(
        (status = 200, description = "The file.", body = Vec<u8>,
         content_type = "application/octet-stream"),
        (status = 206, description = "The part of the file.", body = Vec<u8>,
         content_type = "application/octet-stream"),
        Failures<(QueryError, RangeError, Unknown, OperationError)>,
    )
)]
pub async fn read(
    State(sandboxes): State<Sandboxes>,
    Id(id): Id,
    query: Query,
    method: Method,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let (user, path) = (query.user()?, query.path("path")?);
    let range = headers.get(RANGE).and_then(|value| value.to_str().ok()).and_then(Range::parse);
    let size_alone = method == Method::HEAD;
    let Some(range) = range.filter(|_| !size_alone) else {
        let length = size_alone.then_some(0);
        let content = sandboxes.get(id)?.files()?.read(user, path, 0, length).await?;
        let size = content.entry().size;
        let mut response = if accepts_gzip(&headers) && !size_alone {
            compressed(content)
        } else {
            plain(content, size)
        };
        response.headers_mut().insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
        response.headers_mut().insert(VARY, HeaderValue::from_static("accept-encoding"));
        return Ok(response);
    };
    let files = sandboxes.get(id)?.files()?;
    let (first, content) = part(&files, user, path, range).await?;
    let (size, length) = (content.entry().size, content.length().unwrap_or_default());
    if length == 0 {
        return Ok(unsatisfiable(size));
    }
    let mut response = plain(content, length);
    *response.status_mut() = StatusCode::PARTIAL_CONTENT;
    let last = first + (length - 1);
    response.headers_mut().insert(CONTENT_RANGE, value(&format!("bytes {first}-{last}/{size}")));
    Ok(response)
}

/// Reads the part of a file that `range` names; with its offset.
async fn part(
    files: &Files,
    user: Option<String>,
    path: GuestPath,
    range: Range,
) -> Result<(u64, FileContent), GuestError> {
    let (first, length) = match range {
        Range::From(first, length) => (first, length),
        Range::Last(count) => {
            // The offset depends on the size, which is read first.
            let whole = files.read(user.clone(), path.clone(), 0, Some(0)).await?;
            (whole.entry().size.saturating_sub(count), Some(count))
        }
    };
    Ok((first, files.read(user, path, first, length).await?))
}

fn unsatisfiable(size: u64) -> Response {
    let mut response = ApiError::from(RangeError(size)).into_response();
    response.headers_mut().insert(CONTENT_RANGE, value(&format!("bytes */{size}")));
    response
}

/// Writes a file, whole or not at all: an upload that breaks off, or finds no space, leaves the old
/// file.
///
/// Parent directories are made. The body is the content, with `Content-Encoding: gzip` if it is
/// compressed.
#[utoipa::path(
    put,
    path = paths::FILES,
    operation_id = "write_file",
    tag = "files",
    params(
        Id,
        ("path" = String, Query, description = "Path of the file: percent-encoded bytes."),
        ("mode" = Option<String>, Query,
         description = "Mode of the file, in octal. That of the old file when absent, or 0644."),
        ("user" = Option<String>, Query, description = "Owner of the file. Root when absent."),
    ),
    request_body(content = Vec<u8>, content_type = "application/octet-stream"),
    responses(
        (status = 200, description = "The file is written.", body = FileEntry),
        Failures<(QueryError, UploadError, Unknown, OperationError)>,
    )
)]
pub async fn write(
    State(sandboxes): State<Sandboxes>,
    Id(id): Id,
    query: Query,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<FileEntry>, ApiError> {
    let (user, path, mode) = (query.user()?, query.path("path")?, query.mode()?);
    let mut pieces = UploadBody::new(&headers, body)?;
    let written = async {
        let mut upload = sandboxes.get(id)?.files()?.write(user, path, mode).await?;
        pour(&mut pieces, &mut upload).await?;
        Ok(Json(upload.finish().await?))
    };
    let written = written.await;
    if written.is_err() {
        pieces.drain().await;
    }
    written
}

/// Reads a directory, or one file, as a tar archive.
///
/// The response is compressed with gzip where the client accepts that. An archive that cannot be
/// finished breaks off.
#[utoipa::path(
    get,
    path = paths::FILES_ARCHIVE,
    operation_id = "read_archive",
    tag = "files",
    params(
        Id,
        ("path" = String, Query, description = "Path of the directory or file: percent-encoded bytes."),
        ("user" = Option<String>, Query,
         description = "User whose home a relative path begins at. Root when absent."),
    ),
    responses(
        (status = 200, description = "The archive.", body = Vec<u8>,
         content_type = "application/x-tar"),
        Failures<(QueryError, Unknown, OperationError)>,
    )
)]
pub async fn pack(
    State(sandboxes): State<Sandboxes>,
    Id(id): Id,
    query: Query,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let content = sandboxes.get(id)?.files()?.pack(query.user()?, query.path("path")?).await?;
    let mut response = if accepts_gzip(&headers) {
        compressed(content)
    } else {
        Body::from_stream(stream::try_unfold(content, uncompressed)).into_response()
    };
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/x-tar"));
    response.headers_mut().insert(VARY, HeaderValue::from_static("accept-encoding"));
    Ok(response)
}

/// Unpacks a tar archive into a directory, which is made if it does not exist.
///
/// The files belong to the user, and none is written outside of the directory. An archive that
/// breaks off leaves the files unpacked so far.
#[utoipa::path(
    put,
    path = paths::FILES_ARCHIVE,
    operation_id = "write_archive",
    tag = "files",
    params(
        Id,
        ("path" = String, Query, description = "Path of the directory: percent-encoded bytes."),
        ("user" = Option<String>, Query, description = "Owner of the files. Root when absent."),
    ),
    request_body(content = Vec<u8>, content_type = "application/x-tar"),
    responses(
        (status = 204, description = "The archive is unpacked."),
        Failures<(QueryError, UploadError, Unknown, OperationError)>,
    )
)]
pub async fn unpack(
    State(sandboxes): State<Sandboxes>,
    Id(id): Id,
    query: Query,
    headers: HeaderMap,
    body: Body,
) -> Result<StatusCode, ApiError> {
    let (user, path) = (query.user()?, query.path("path")?);
    let mut pieces = UploadBody::new(&headers, body)?;
    let unpacked = async {
        let mut upload = sandboxes.get(id)?.files()?.unpack(user, path).await?;
        pour(&mut pieces, &mut upload).await?;
        upload.finish().await?;
        Ok(StatusCode::NO_CONTENT)
    };
    let unpacked = unpacked.await;
    if unpacked.is_err() {
        pieces.drain().await;
    }
    unpacked
}

async fn pour(pieces: &mut UploadBody, upload: &mut Upload<impl Answer>) -> Result<(), ApiError> {
    loop {
        let piece = tokio::select! {
            piece = pieces.next() => piece?,
            error = upload.failure() => return Err(error.into()),
        };
        match piece {
            Some(piece) => upload.send(&piece).await?,
            None => return Ok(()),
        }
    }
}

/// The uncompressed response of `length` bytes. A `HEAD` has the length without the content.
fn plain(content: FileContent, length: u64) -> Response {
    let body = Body::from_stream(stream::try_unfold(content, uncompressed));
    let headers = [
        (CONTENT_TYPE, HeaderValue::from_static("application/octet-stream")),
        (CONTENT_LENGTH, length.into()),
    ];
    (headers, body).into_response()
}

fn compressed(content: FileContent) -> Response {
    let state = Some((content, Compressor::new()));
    let pieces = stream::try_unfold(state, async |state| {
        let Some((content, mut compressor)) = state else { return Ok::<_, io::Error>(None) };
        Ok(Some(match uncompressed(content).await? {
            Some((piece, content)) => (compressor.push(&piece)?, Some((content, compressor))),
            None => (compressor.finish()?, None),
        }))
    });
    let headers = [
        (CONTENT_TYPE, HeaderValue::from_static("application/octet-stream")),
        (CONTENT_ENCODING, HeaderValue::from_static("gzip")),
    ];
    (headers, Body::from_stream(pieces)).into_response()
}

/// The next piece. An error ends the connection: the head of the response is sent already.
async fn uncompressed(mut content: FileContent) -> io::Result<Option<(Bytes, FileContent)>> {
    match content.next().await {
        Ok(piece) => Ok(piece.map(|piece| (piece, content))),
        Err(error) => {
            tracing::warn!(%error, "the transfer of a file failed");
            Err(io::Error::other(error))
        }
    }
}

fn value(text: &str) -> HeaderValue {
    HeaderValue::from_str(text).expect("words and numbers")
}
