//! The body of an upload, piece by piece: as large as it may be, as slow as it may be,
//! decompressed if it needs to be.

use std::io;
use std::time::Duration;

use axum::body::Body;
use axum::http::HeaderMap;
use axum::http::header::{CONTENT_LENGTH, EXPECT};
use bytes::{Buf as _, Bytes};
use emberd_api::{ErrorCode, FILE_BYTES_MAX};

use super::encoding::{Decompressor, SLICE_BYTES, is_gzip};
use crate::http::body::Pieces;
use crate::http::errors::ApiError;

/// How much of a body that nobody wants is still read (64 MiB), and for how long: a client that
/// is sending when its connection closes may never see why.
const UNWANTED_BYTES_MAX: usize = 64 << 20;
const UNWANTED_TIME_MAX: Duration = Duration::from_secs(2);

/// See the module.
pub struct UploadBody {
    pieces: Pieces,
    decompressor: Option<Decompressor>,
    /// What has come and is not decompressed yet.
    compressed: Bytes,
    received: u64,
    /// Whether the client sends nothing before it is asked to, which it is by the first look at
    /// the stream.
    is_held_back: bool,
}

impl UploadBody {
    pub fn new(headers: &HeaderMap, body: Body) -> Result<Self, ApiError> {
        let length = headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok());
        if length.and_then(|length| length.parse().ok()) > Some(FILE_BYTES_MAX) {
            return Err(too_large());
        }
        let decompressor = is_gzip(headers)?.then(Decompressor::new);
        let pieces = Pieces::new(body);
        let is_held_back = headers.contains_key(EXPECT);
        Ok(Self { pieces, decompressor, compressed: Bytes::new(), received: 0, is_held_back })
    }

    /// The next piece of what is uploaded; none at its end.
    pub async fn next(&mut self) -> Result<Option<Bytes>, ApiError> {
        loop {
            let (piece, last) = match &mut self.decompressor {
                None => (self.raw().await?, false),
                Some(decompressor) if !self.compressed.is_empty() => {
                    let count = self.compressed.len().min(SLICE_BYTES);
                    let piece = decompressor.push(&self.compressed[..count]);
                    self.compressed.advance(count);
                    (Some(piece.map_err(|error| not_gzip(&error))?), false)
                }
                Some(_) => match self.raw().await? {
                    Some(compressed) => {
                        self.compressed = compressed;
                        continue;
                    }
                    None => (self.finish()?, true),
                },
            };
            let Some(piece) = piece else { return Ok(None) };
            self.received += piece.len() as u64;
            if self.received > FILE_BYTES_MAX {
                return Err(too_large());
            }
            if last || !piece.is_empty() {
                return Ok(Some(piece));
            }
        }
    }

    /// What the decompressor still held. The stream has ended, and stays so.
    fn finish(&mut self) -> Result<Option<Bytes>, ApiError> {
        let rest = self.decompressor.take().map(Decompressor::finish).transpose();
        rest.map_err(|error| not_gzip(&error))
    }

    async fn raw(&mut self) -> Result<Option<Bytes>, ApiError> {
        self.is_held_back = false;
        self.pieces.next().await
    }

    /// Reads on for a while, so that the client gets to hear why nobody wants the rest.
    pub async fn drain(mut self) {
        if self.is_held_back {
            return;
        }
        let drained = async {
            let mut left = UNWANTED_BYTES_MAX;
            while let Ok(Some(piece)) = self.pieces.next().await
                && piece.len() <= left
            {
                left -= piece.len();
            }
        };
        // Whether it was all of it makes no difference to the answer.
        tokio::time::timeout(UNWANTED_TIME_MAX, drained).await.ok();
    }
}

fn too_large() -> ApiError {
    let error = format!("what is uploaded is over the limit of {FILE_BYTES_MAX} bytes");
    ApiError::new(ErrorCode::BodyTooLarge, error)
}

fn not_gzip(error: &io::Error) -> ApiError {
    ApiError::new(ErrorCode::InvalidRequest, format!("the body is not gzip: {error}"))
}
