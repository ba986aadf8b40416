//! The body of an upload, piece by piece, within its limits of size and pauses, decompressed if it
//! is gzip.

use std::io;

use axum::body::Body;
use axum::http::HeaderMap;
use bytes::{Buf as _, Bytes};
use emberd_api::FILE_BYTES_MAX;

use super::encoding::{Decompressor, SLICE_BYTES, UnknownEncoding, is_gzip};
use crate::http::body::{Pieces, PiecesError, content_length};

/// Why an upload ended early.
#[derive(Debug, thiserror::Error)]
pub enum UploadError {
    /// The body stopped arriving.
    #[error(transparent)]
    Pieces(#[from] PiecesError),
    /// The content is too large.
    #[error("the upload is over the limit of {FILE_BYTES_MAX} bytes")]
    TooLarge,
    /// The body is compressed in an unknown way.
    #[error(transparent)]
    Encoding(#[from] UnknownEncoding),
    /// The body cannot be decompressed.
    #[error("the body is not gzip")]
    NotGzip(#[source] io::Error),
}

/// The body of an upload.
pub struct UploadBody {
    pieces: Pieces,
    decompressor: Option<Decompressor>,
    /// Bytes that have arrived and are not decompressed yet.
    compressed: Bytes,
    received: u64,
}

impl UploadBody {
    pub fn new(headers: &HeaderMap, body: Body) -> Result<Self, UploadError> {
        if content_length(headers) > Some(FILE_BYTES_MAX) {
            return Err(UploadError::TooLarge);
        }
        let decompressor = is_gzip(headers)?.then(Decompressor::new);
        let pieces = Pieces::new(headers, body);
        Ok(Self { pieces, decompressor, compressed: Bytes::new(), received: 0 })
    }

    /// The next piece of the upload; none at its end.
    pub async fn next(&mut self) -> Result<Option<Bytes>, UploadError> {
        loop {
            let (piece, last) = match &mut self.decompressor {
                None => (self.pieces.next().await?, false),
                Some(decompressor) if !self.compressed.is_empty() => {
                    let count = self.compressed.len().min(SLICE_BYTES);
                    let piece = decompressor.push(&self.compressed[..count]);
                    self.compressed.advance(count);
                    (Some(piece.map_err(UploadError::NotGzip)?), false)
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
                return Err(UploadError::TooLarge);
            }
            if last || !piece.is_empty() {
                return Ok(Some(piece));
            }
        }
    }

    /// The last bytes of the decompressor. The stream has ended.
    fn finish(&mut self) -> Result<Option<Bytes>, UploadError> {
        let rest = self.decompressor.take().map(Decompressor::finish).transpose();
        rest.map_err(UploadError::NotGzip)
    }

    /// As [`Pieces::drain`].
    pub async fn drain(mut self) {
        self.pieces.drain().await;
    }
}
