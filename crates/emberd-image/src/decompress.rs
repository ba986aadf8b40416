//! Streams that may be compressed with gzip, xz or zstd, detected by their first bytes.

use std::io::{self, BufRead, BufReader, Read};

use flate2::bufread::MultiGzDecoder;
use lzma_rust2::XzReader;
use ruzstd::decoding::StreamingDecoder;

/// Memory limit for an xz stream, in KiB (256 MiB; a kernel's needs 65 MiB).
const XZ_KIB_MAX: u32 = 256 << 10;
/// Maximum zstd window, in bytes (128 MiB: that of `zstd --ultra -22`, which is used for
/// kernels).
const ZSTD_WINDOW_BYTES_MAX: u64 = 128 << 20;

/// A compressed format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    Gzip,
    Xz,
    Zstd,
}

impl Format {
    /// Returns the format that starts with these bytes.
    pub fn of(start: &[u8]) -> Option<Self> {
        let magics: [(&[u8], Self); 3] = [
            (b"\x1f\x8b\x08", Self::Gzip),
            (b"\xfd7zXZ\0", Self::Xz),
            (b"\x28\xb5\x2f\xfd", Self::Zstd),
        ];
        magics.into_iter().find_map(|(magic, format)| start.starts_with(magic).then_some(format))
    }

    /// Decompresses one stream of this format; anything after it is ignored.
    pub fn decode_one<'a>(self, compressed: impl BufRead + Send + 'a) -> io::Result<Stream<'a>> {
        Ok(match self {
            Self::Gzip => Box::new(flate2::bufread::GzDecoder::new(compressed)),
            Self::Xz => Box::new(XzReader::new_mem_limit(compressed, false, XZ_KIB_MAX)),
            Self::Zstd => Box::new(zstd_frame(compressed)?),
        })
    }

    /// Decompresses all streams of this format in `compressed`, one after the other.
    fn decode_all<'a>(self, compressed: impl BufRead + Send + 'a) -> Stream<'a> {
        match self {
            Self::Gzip => Box::new(MultiGzDecoder::new(compressed)),
            Self::Xz => Box::new(XzReader::new_mem_limit(compressed, true, XZ_KIB_MAX)),
            Self::Zstd => Box::new(ZstdFrames::Between(compressed)),
        }
    }
}

/// A decompressing reader.
pub(crate) type Stream<'a> = Box<dyn Read + Send + 'a>;

/// Returns the content of `reader`, decompressed if necessary.
pub(crate) fn plain<'a>(reader: impl Read + Send + 'a) -> io::Result<Stream<'a>> {
    let mut reader = BufReader::with_capacity(1 << 16, reader);
    Ok(match Format::of(reader.fill_buf()?) {
        Some(format) => format.decode_all(reader),
        None => Box::new(reader),
    })
}

/// Reads at most `bytes_max` bytes; `None` if there are more.
pub(crate) fn read_at_most(reader: impl Read, bytes_max: u64) -> io::Result<Option<Vec<u8>>> {
    let mut content = Vec::new();
    let count = reader.take(bytes_max + 1).read_to_end(&mut content)?;
    Ok((count as u64 <= bytes_max).then_some(content))
}

type ZstdFrame<R> = StreamingDecoder<R, ruzstd::decoding::FrameDecoder>;

fn zstd_frame<R: Read>(reader: R) -> io::Result<ZstdFrame<R>> {
    StreamingDecoder::new_with_max_window_size(reader, ZSTD_WINDOW_BYTES_MAX)
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

/// A sequence of zstd frames, as written by parallel compressors.
enum ZstdFrames<R: BufRead> {
    Between(R),
    Inside(Box<ZstdFrame<R>>),
    /// Only during the change from one frame to the next, and after an error.
    Ended,
}

impl<R: BufRead> Read for ZstdFrames<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match std::mem::replace(self, Self::Ended) {
                Self::Between(mut reader) => {
                    if reader.fill_buf()?.is_empty() {
                        return Ok(0);
                    }
                    *self = Self::Inside(Box::new(zstd_frame(reader)?));
                }
                Self::Inside(mut frame) => match frame.read(buffer)? {
                    0 if !buffer.is_empty() => *self = Self::Between(frame.into_inner()),
                    count => {
                        *self = Self::Inside(frame);
                        return Ok(count);
                    }
                },
                Self::Ended => return Ok(0),
            }
        }
    }
}

/// Compressors for tests.
#[cfg(test)]
pub(crate) mod synthetic {
    use std::io::Write;

    pub(crate) fn gzip(content: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(content).unwrap();
        encoder.finish().unwrap()
    }

    /// Uses the x86 branch filter, as kernels do.
    pub(crate) fn xz(content: &[u8]) -> Vec<u8> {
        let mut options = lzma_rust2::XzOptions::with_preset(1);
        options.prepend_pre_filter(lzma_rust2::FilterType::BcjX86, 0);
        let mut encoder = lzma_rust2::XzWriter::new(Vec::new(), options).unwrap();
        encoder.write_all(content).unwrap();
        encoder.finish().unwrap()
    }

    pub(crate) fn zstd(content: &[u8]) -> Vec<u8> {
        ruzstd::encoding::compress_to_vec(content, ruzstd::encoding::CompressionLevel::Fastest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_plain(bytes: &[u8]) -> io::Result<Vec<u8>> {
        let mut content = Vec::new();
        plain(bytes)?.read_to_end(&mut content)?;
        Ok(content)
    }

    #[test]
    fn every_format_and_none_gives_the_content() {
        let content = b"call \xe8\x01\x02\x03\x04 ".repeat(9000);
        let compressors = [synthetic::gzip, synthetic::xz, synthetic::zstd, <[u8]>::to_vec];
        for compress in compressors {
            let compressed = compress(&content);
            assert_eq!(read_plain(&compressed).unwrap(), content);
        }
        assert_eq!(read_plain(b"").unwrap(), b"");
    }

    #[test]
    fn streams_may_follow_each_other() {
        for compress in [synthetic::gzip, synthetic::xz, synthetic::zstd] {
            let two = [compress(b"one "), compress(b"two")].concat();
            assert_eq!(read_plain(&two).unwrap(), b"one two");
        }
    }

    #[test]
    fn a_cut_stream_is_an_error() {
        let content = (0..20_000_u32).flat_map(u32::to_le_bytes).collect::<Vec<_>>();
        for compress in [synthetic::gzip, synthetic::xz, synthetic::zstd] {
            let compressed = compress(&content);
            assert!(read_plain(&compressed[..compressed.len() / 2]).is_err());
        }
    }

    #[test]
    fn more_than_allowed_is_nothing() {
        assert_eq!(read_at_most(&b"abc"[..], 3).unwrap().unwrap(), b"abc");
        assert_eq!(read_at_most(&b"abcd"[..], 3).unwrap(), None);
    }
}
