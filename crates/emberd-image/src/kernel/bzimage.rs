//! Extracts the ELF file from a bootable kernel image.
//!
//! Layout: Documentation/arch/x86/boot.rst of Linux, "The Real-Mode Kernel Header".
//! The payload ends with the size of its content as a little-endian `u32`. gzip has it anyway,
//! and the kernel's build appends it for every other compressor.

use std::borrow::Cow;
use std::io;

use crate::decompress::{Format, read_at_most};
use crate::elf::Elf;

/// Maximum size of a kernel, as a file and decompressed, in bytes (512 MiB).
pub const KERNEL_BYTES_MAX: u64 = 512 << 20;

const SECTOR_BYTES: usize = 512;
const SETUP_SECTORS_AT: usize = 0x1f1;
const MAGIC_AT: usize = 0x202;
const VERSION_AT: usize = 0x206;
const PAYLOAD_OFFSET_AT: usize = 0x248;
const PAYLOAD_LENGTH_AT: usize = 0x24c;
/// The boot protocol version with the payload fields (2.08).
const VERSION_MIN: u16 = 0x208;

const LZ4_LEGACY_MAGIC: &[u8] = b"\x02\x21\x4c\x18";
/// Content of each block of an lz4 legacy stream except the last, in bytes.
const LZ4_BLOCK_BYTES: usize = 8 << 20;

/// Why a file is not a kernel that a guest can boot.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// The file cannot be read.
    #[error("cannot read the kernel")]
    Read(#[source] io::Error),
    /// The file is neither a 64-bit x86 ELF file nor a bzImage.
    #[error("the file is neither a 64-bit x86 ELF file nor a bzImage")]
    Unrecognised,
    /// The file is over [`KERNEL_BYTES_MAX`].
    #[error("the kernel is larger than {KERNEL_BYTES_MAX} bytes")]
    TooLarge,
    /// The image is shorter than its header says.
    #[error("the file is truncated: the header announces more data than the file has")]
    Truncated,
    /// The compressor is not lz4, zstd, xz or gzip.
    #[error("the compression is unknown (the payload starts with {0:02x?})")]
    UnknownCompression([u8; 4]),
    /// The compressed payload is damaged.
    #[error("cannot decompress the payload")]
    Decompress(#[source] io::Error),
    /// The content does not have the size that the payload says.
    #[error("the payload holds {found} bytes instead of {expected}")]
    SizeMismatch {
        /// Bytes decompressed.
        found: usize,
        /// Bytes announced.
        expected: usize,
    },
    /// The file does not contain `Linux version`.
    #[error("the file is not a Linux kernel: it names no release")]
    NoRelease,
}

/// Returns the ELF file in `image`: `image` itself, or the payload of a bzImage.
///
/// # Errors
/// [`KernelError`] for anything else; uses at most [`KERNEL_BYTES_MAX`] of memory.
pub(crate) fn vmlinux(image: &[u8]) -> Result<Cow<'_, [u8]>, KernelError> {
    if Elf::parse(image).is_some() {
        return Ok(Cow::Borrowed(image));
    }
    let payload = payload(image)?;
    let content = decompress(payload)?;
    let expected = payload.last_chunk().map_or(0, |size| u32::from_le_bytes(*size)) as usize;
    if content.len() != expected {
        return Err(KernelError::SizeMismatch { found: content.len(), expected });
    }
    Elf::parse(&content).ok_or(KernelError::Unrecognised)?;
    Ok(Cow::Owned(content))
}

/// Returns the compressed kernel, with the size at its end.
fn payload(image: &[u8]) -> Result<&[u8], KernelError> {
    if image.get(MAGIC_AT..MAGIC_AT + 4) != Some(b"HdrS") {
        return Err(KernelError::Unrecognised);
    }
    let version = image.get(VERSION_AT..).and_then(<[u8]>::first_chunk);
    if version.is_none_or(|version| u16::from_le_bytes(*version) < VERSION_MIN) {
        return Err(KernelError::Unrecognised);
    }
    let word = |at: usize| {
        let bytes = image.get(at..).and_then(<[u8]>::first_chunk).ok_or(KernelError::Truncated)?;
        Ok(u32::from_le_bytes(*bytes) as usize)
    };
    // Zero means four, for very old boot loaders.
    let setup_sectors = match image[SETUP_SECTORS_AT] {
        0 => 4,
        count => usize::from(count),
    };
    let start = (setup_sectors + 1) * SECTOR_BYTES + word(PAYLOAD_OFFSET_AT)?;
    image.get(start..start + word(PAYLOAD_LENGTH_AT)?).ok_or(KernelError::Truncated)
}

fn decompress(payload: &[u8]) -> Result<Vec<u8>, KernelError> {
    if let Some(blocks) = payload.strip_prefix(LZ4_LEGACY_MAGIC) {
        return decompress_lz4(blocks);
    }
    let Some(format) = Format::of(payload) else {
        let start = payload.first_chunk().ok_or(KernelError::Truncated)?;
        return Err(KernelError::UnknownCompression(*start));
    };
    let stream = format.decode_one(payload).map_err(KernelError::Decompress)?;
    let content = read_at_most(stream, KERNEL_BYTES_MAX).map_err(KernelError::Decompress)?;
    content.ok_or(KernelError::TooLarge)
}

/// Reads blocks, each after its compressed length. The stream ends with less than a length, or
/// with the four bytes of the content's size.
fn decompress_lz4(mut blocks: &[u8]) -> Result<Vec<u8>, KernelError> {
    let mut content = Vec::new();
    let mut block = vec![0; LZ4_BLOCK_BYTES];
    while let Some((length, rest)) = blocks.split_first_chunk() {
        if rest.is_empty() {
            break;
        }
        let length = u32::from_le_bytes(*length) as usize;
        let (compressed, rest) = rest.split_at_checked(length).ok_or(KernelError::Truncated)?;
        let count = lz4_flex::block::decompress_into(compressed, &mut block)
            .map_err(|error| KernelError::Decompress(io::Error::other(error)))?;
        content.extend_from_slice(&block[..count]);
        if content.len() as u64 > KERNEL_BYTES_MAX {
            return Err(KernelError::TooLarge);
        }
        blocks = rest;
    }
    Ok(content)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decompress::synthetic as compressors;
    use crate::elf::synthetic::kernel;

    /// Returns a bzImage with `payload`, which starts 16 bytes into the protected-mode code.
    fn bzimage(payload: &[u8]) -> Vec<u8> {
        let mut image = vec![0; 2 * SECTOR_BYTES];
        image[SETUP_SECTORS_AT] = 1;
        image[MAGIC_AT..MAGIC_AT + 4].copy_from_slice(b"HdrS");
        image[VERSION_AT..VERSION_AT + 2].copy_from_slice(&0x20f_u16.to_le_bytes());
        image[PAYLOAD_OFFSET_AT..PAYLOAD_OFFSET_AT + 4].copy_from_slice(&16_u32.to_le_bytes());
        image[PAYLOAD_LENGTH_AT..PAYLOAD_LENGTH_AT + 4].copy_from_slice(&length(payload));
        image.extend([0x90; 16]);
        image.extend(payload);
        image.extend(b"what follows the payload");
        image
    }

    fn length(content: &[u8]) -> [u8; 4] {
        u32::try_from(content.len()).unwrap().to_le_bytes()
    }

    fn with_size(mut compressed: Vec<u8>, content: &[u8]) -> Vec<u8> {
        compressed.extend(length(content));
        compressed
    }

    fn lz4(content: &[u8]) -> Vec<u8> {
        let mut stream = LZ4_LEGACY_MAGIC.to_vec();
        for block in content.chunks(LZ4_BLOCK_BYTES) {
            let compressed = lz4_flex::block::compress(block);
            stream.extend(length(&compressed));
            stream.extend(compressed);
        }
        with_size(stream, content)
    }

    type Compress = fn(&[u8]) -> Vec<u8>;
    const COMPRESSORS: [(&str, Compress); 4] = [
        ("lz4", lz4),
        ("zstd", |content| with_size(compressors::zstd(content), content)),
        ("xz", |content| with_size(compressors::xz(content), content)),
        ("gzip", compressors::gzip),
    ];

    #[test]
    fn every_compressor_gives_the_elf_back() {
        let elf = kernel(&"Linux version 6.1.0 \u{e8}call ".repeat(3000));
        for (name, compress) in COMPRESSORS {
            let image = bzimage(&compress(&elf));
            assert!(vmlinux(&image).unwrap() == elf, "{name}");
        }
    }

    #[test]
    fn lz4_spans_blocks() {
        let mut elf = kernel("Linux version 6.1.0 ");
        elf.resize(2 * LZ4_BLOCK_BYTES + 5, 7);
        assert!(vmlinux(&bzimage(&lz4(&elf))).unwrap() == elf);
        elf.truncate(LZ4_BLOCK_BYTES);
        assert!(vmlinux(&bzimage(&lz4(&elf))).unwrap() == elf);
    }

    #[test]
    fn elf_is_taken_as_it_is() {
        let elf = kernel("");
        assert!(matches!(vmlinux(&elf).unwrap(), Cow::Borrowed(_)));
    }

    #[test]
    fn every_cut_is_an_error_not_a_panic() {
        let elf = kernel("Linux version 6.1.0 ");
        for (name, compress) in COMPRESSORS {
            let payload = compress(&elf);
            let image = bzimage(&payload);
            let payload_end = 2 * SECTOR_BYTES + 16 + payload.len();
            for cut in 0..payload_end {
                assert!(vmlinux(&image[..cut]).is_err(), "{name} cut at {cut}");
            }
        }
    }

    #[test]
    fn payload_cut_inside_is_an_error() {
        let elf = kernel(&"Linux version 6.1.0 ".repeat(100));
        for (name, compress) in COMPRESSORS {
            let payload = compress(&elf);
            for cut in 0..payload.len() {
                assert!(vmlinux(&bzimage(&payload[..cut])).is_err(), "{name} cut at {cut}");
            }
        }
    }

    #[test]
    fn hostile_headers_are_errors() {
        let good = bzimage(&lz4(&kernel("")));
        for at in [PAYLOAD_OFFSET_AT, PAYLOAD_LENGTH_AT] {
            let mut image = good.clone();
            image[at..at + 4].copy_from_slice(&u32::MAX.to_le_bytes());
            assert!(matches!(vmlinux(&image), Err(KernelError::Truncated)));
        }
        let mut old = good.clone();
        old[VERSION_AT..VERSION_AT + 2].copy_from_slice(&0x207_u16.to_le_bytes());
        assert!(matches!(vmlinux(&old), Err(KernelError::Unrecognised)));
        let unknown = bzimage(b"BZh9 and so on");
        assert!(matches!(vmlinux(&unknown), Err(KernelError::UnknownCompression(_))));
    }

    #[test]
    fn size_at_the_end_is_held_against_the_content() {
        let elf = kernel("");
        let wrong = with_size(compressors::zstd(&elf), &elf[1..]);
        assert!(matches!(vmlinux(&bzimage(&wrong)), Err(KernelError::SizeMismatch { .. })));
    }

    #[test]
    fn content_that_is_no_kernel_is_refused() {
        let text = b"not an ELF file";
        assert!(matches!(vmlinux(&bzimage(&lz4(text))), Err(KernelError::Unrecognised)));
        assert!(matches!(vmlinux(text), Err(KernelError::Unrecognised)));
    }
}
