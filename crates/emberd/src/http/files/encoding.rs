//! Compression and decompression with gzip, piece by piece.

use std::io::{self, Write as _};

use axum::http::HeaderMap;
use axum::http::header::{ACCEPT_ENCODING, CONTENT_ENCODING};
use bytes::Bytes;
use flate2::Compression;
use flate2::write::{GzDecoder, GzEncoder};

/// Most compressed bytes that are decompressed at once (1 KiB): they expand to 1 MiB at most.
pub const SLICE_BYTES: usize = 1 << 10;

/// Whether the client accepts gzip.
pub fn accepts_gzip(headers: &HeaderMap) -> bool {
    let headers = headers.get_all(ACCEPT_ENCODING).iter();
    let mut codings = headers.filter_map(|value| value.to_str().ok()).flat_map(|v| v.split(','));
    codings.any(|coding| {
        let mut parts = coding.split(';').map(str::trim);
        let name = parts.next().unwrap_or_default();
        let refused = parts.any(|part| {
            let quality = part.strip_prefix("q=").map(str::parse::<f32>);
            quality.is_some_and(|quality| quality.unwrap_or(0.0) <= 0.0)
        });
        (name.eq_ignore_ascii_case("gzip") || name.eq_ignore_ascii_case("x-gzip")) && !refused
    })
}

/// The body is compressed in an unknown way.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("the `Content-Encoding` of the body is not supported")]
pub struct UnknownEncoding;

/// Whether the body of a request is gzip.
///
/// # Errors
/// [`UnknownEncoding`].
pub fn is_gzip(headers: &HeaderMap) -> Result<bool, UnknownEncoding> {
    match headers.get(CONTENT_ENCODING).map(|value| value.as_bytes().to_ascii_lowercase()) {
        None => Ok(false),
        Some(coding) => match coding.as_slice() {
            b"identity" | b"" => Ok(false),
            b"gzip" | b"x-gzip" => Ok(true),
            _ => Err(UnknownEncoding),
        },
    }
}

/// A gzip compressor.
pub struct Compressor(GzEncoder<Vec<u8>>);

impl Compressor {
    pub fn new() -> Self {
        // Streams are compressed while a client waits: speed before size.
        Self(GzEncoder::new(Vec::new(), Compression::fast()))
    }

    /// Compresses `piece`. The result may be empty: the compressor buffers.
    pub fn push(&mut self, piece: &[u8]) -> io::Result<Bytes> {
        self.0.write_all(piece)?;
        Ok(std::mem::take(self.0.get_mut()).into())
    }

    /// Ends the stream and returns the rest of it.
    pub fn finish(mut self) -> io::Result<Bytes> {
        self.0.try_finish()?;
        Ok(std::mem::take(self.0.get_mut()).into())
    }
}

/// A gzip decompressor.
pub struct Decompressor(GzDecoder<Vec<u8>>);

impl Decompressor {
    pub fn new() -> Self {
        Self(GzDecoder::new(Vec::new()))
    }

    /// Decompresses at most [`SLICE_BYTES`]. The result may be empty.
    pub fn push(&mut self, slice: &[u8]) -> io::Result<Bytes> {
        self.0.write_all(slice)?;
        Ok(std::mem::take(self.0.get_mut()).into())
    }

    /// Returns the rest of the content, once the stream is complete.
    pub fn finish(mut self) -> io::Result<Bytes> {
        self.0.try_finish()?;
        Ok(std::mem::take(self.0.get_mut()).into())
    }
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    #[test]
    fn gzip_is_used_where_it_is_wanted() {
        for (header, expect) in [
            ("gzip", true),
            ("deflate, GZIP;q=0.5", true),
            ("gzip;q=0", false),
            ("gzip; q=x", false),
            ("identity", false),
            ("", false),
        ] {
            let headers = [(ACCEPT_ENCODING, HeaderValue::from_static(header))];
            assert_eq!(accepts_gzip(&headers.into_iter().collect()), expect, "{header}");
        }
    }

    fn decompress(compressed: &[u8]) -> io::Result<Vec<u8>> {
        let mut decompressor = Decompressor::new();
        let mut content = Vec::new();
        for slice in compressed.chunks(SLICE_BYTES) {
            let piece = decompressor.push(slice)?;
            assert!(piece.len() <= 2 << 20, "{}", piece.len());
            content.extend_from_slice(&piece);
        }
        content.extend_from_slice(&decompressor.finish()?);
        Ok(content)
    }

    #[test]
    fn what_is_compressed_comes_back_and_half_of_it_does_not() {
        let content = vec![0; 20 << 20];
        let mut compressor = Compressor::new();
        let mut compressed = compressor.push(&content).unwrap().to_vec();
        compressed.extend_from_slice(&compressor.finish().unwrap());
        assert!(decompress(&compressed).unwrap() == content);
        for end in [0, 5, compressed.len() / 2, compressed.len() - 1] {
            assert!(decompress(&compressed[..end]).is_err(), "{end}");
        }
        assert!(decompress(b"not gzip at all").is_err());
    }
}
