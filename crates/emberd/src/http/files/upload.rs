//! The body of an upload, piece by piece: as large as it may be, as slow as it may be,
//! decompressed if it needs to be.

use std::io;

use axum::body::Body;
use axum::http::HeaderMap;
use bytes::{Buf as _, Bytes};
use emberd_api::{ErrorCode, FILE_BYTES_MAX};

use super::encoding::{Decompressor, SLICE_BYTES, is_gzip};
use crate::http::body::{Pieces, content_length};
use crate::http::errors::ApiError;

/// See the module.
pub struct UploadBody {
    pieces: Pieces,
    decompressor: Option<Decompressor>,
    /// What has come and is not decompressed yet.
    compressed: Bytes,
    received: u64,
}

impl UploadBody {
    pub fn new(headers: &HeaderMap, body: Body) -> Result<Self, ApiError> {
        if content_length(headers) > Some(FILE_BYTES_MAX) {
            return Err(too_large());
        }
        let decompressor = is_gzip(headers)?.then(Decompressor::new);
        let pieces = Pieces::new(headers, body);
        Ok(Self { pieces, decompressor, compressed: Bytes::new(), received: 0 })
    }

    /// The next piece of what is uploaded; none at its end.
    pub async fn next(&mut self) -> Result<Option<Bytes>, ApiError> {
        loop {
            let (piece, last) = match &mut self.decompressor {
                None => (self.pieces.next().await?, false),
                Some(decompressor) if !self.compressed.is_empty() => {
                    let count = self.compressed.len().min(SLICE_BYTES);
                    let piece = decompressor.push(&self.compressed[..count]);
                    self.compressed.advance(count);
                    (Some(piece.map_err(|error| not_gzip(&error))?), false)
                }
                Some(_) => match self.pieces.next().await? {
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

    /// As [`Pieces::drain`].
    pub async fn drain(mut self) {
        self.pieces.drain().await;
    }
}

fn too_large() -> ApiError {
    let error = format!("what is uploaded is over the limit of {FILE_BYTES_MAX} bytes");
    ApiError::new(ErrorCode::BodyTooLarge, error)
}

fn not_gzip(error: &io::Error) -> ApiError {
    ApiError::new(ErrorCode::InvalidRequest, format!("the body is not gzip: {error}"))
}
