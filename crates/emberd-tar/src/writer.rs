//! Writes an archive, one entry after the other: ustar, with a pax header where a field does not
//! fit.

use std::io::{self, Read, Write};

use crate::error::TarError;
use crate::{BLOCK_BYTES, Entry, Kind, header, pax};

/// Maximum length of a name in a header, and of its prefix, in bytes.
const NAME_BYTES: usize = 100;
const PREFIX_BYTES: usize = 155;

/// Maximum size and owner in octal digits; larger ones are in pax headers.
const SIZE_MAX: u64 = 0o777_7777_7777;
const OWNER_MAX: u64 = 0o777_7777;

/// A writer of archives.
pub struct Writer<W> {
    to: W,
}

impl<W: Write> Writer<W> {
    /// Writes an archive to `to`.
    pub fn new(to: W) -> Self {
        Self { to }
    }

    /// Writes an entry, of a file with `entry.size` bytes of `content`. Further content is
    /// ignored, and missing content is replaced by zeros.
    ///
    /// # Errors
    /// If `content` cannot be read, or the archive cannot be written.
    pub fn append(&mut self, entry: &Entry, content: impl Read) -> Result<(), TarError> {
        let (flag, link) = match &entry.kind {
            Kind::File => (b'0', &b""[..]),
            Kind::HardLink(to) => (b'1', &to[..]),
            Kind::Symlink(to) => (b'2', &to[..]),
            Kind::Directory => (b'5', &b""[..]),
            Kind::Fifo => (b'6', &b""[..]),
            Kind::Other => return Ok(()),
        };
        let (split, short_link) = (split(&entry.name), fitting(link));
        let mut extended = Vec::new();
        if split.is_none() {
            pax::write("path", &entry.name, &mut extended);
        }
        if short_link.is_none() {
            pax::write("linkpath", link, &mut extended);
        }
        let modified = entry.modified;
        if modified.nanos > 0 || !(0..=SIZE_MAX.cast_signed()).contains(&modified.seconds) {
            pax::write("mtime", pax::time_text(modified).as_bytes(), &mut extended);
        }
        for (key, value, most) in [
            ("size", entry.size, SIZE_MAX),
            ("uid", entry.uid, OWNER_MAX),
            ("gid", entry.gid, OWNER_MAX),
        ] {
            if value > most {
                pax::write(key, value.to_string().as_bytes(), &mut extended);
            }
        }
        if !extended.is_empty() {
            self.extended(entry, &extended)?;
        }
        let (prefix, name) =
            split.unwrap_or((b"", &entry.name[..entry.name.len().min(NAME_BYTES)]));
        let link = short_link.unwrap_or(&link[..link.len().min(NAME_BYTES)]);
        self.put(&header::write(entry, flag, prefix, name, link))?;
        self.content(content.chain(io::repeat(0)).take(entry.size), entry.size)
    }

    /// Writes the end of the archive.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn finish(mut self) -> Result<W, TarError> {
        self.put(&[0; 2 * BLOCK_BYTES])?;
        self.to.flush().map_err(TarError::Stream)?;
        Ok(self.to)
    }

    fn extended(&mut self, entry: &Entry, lines: &[u8]) -> Result<(), TarError> {
        let last = entry.name.rsplit(|byte| *byte == b'/').find(|part| !part.is_empty());
        let mut name = b"PaxHeaders/".to_vec();
        name.extend(last.unwrap_or_default().iter().take(NAME_BYTES - name.len()));
        let size = lines.len() as u64;
        let plain = Entry {
            kind: Kind::File,
            mode: 0o644,
            uid: 0,
            gid: 0,
            size,
            segments: None,
            ..entry.clone()
        };
        self.put(&header::write(&plain, b'x', b"", &name, b""))?;
        self.content(lines, size)
    }

    fn content(&mut self, mut content: impl Read, size: u64) -> Result<(), TarError> {
        io::copy(&mut content, &mut self.to).map_err(TarError::Stream)?;
        let over = usize::try_from(size % BLOCK_BYTES as u64).unwrap_or(0);
        if over > 0 {
            self.put(&[0; BLOCK_BYTES][over..])?;
        }
        Ok(())
    }

    fn put(&mut self, bytes: &[u8]) -> Result<(), TarError> {
        self.to.write_all(bytes).map_err(TarError::Stream)
    }
}

fn fitting(name: &[u8]) -> Option<&[u8]> {
    (name.len() <= NAME_BYTES).then_some(name)
}

/// Splits a name into prefix and rest, if a header has room for them.
fn split(name: &[u8]) -> Option<(&[u8], &[u8])> {
    if let Some(name) = fitting(name) {
        return Some((b"", name));
    }
    let fits = |at: &usize| {
        let rest = name.len() - at - 1;
        *at > 0 && *at <= PREFIX_BYTES && rest > 0 && rest <= NAME_BYTES
    };
    let slash = (0..name.len()).filter(|at| name[*at] == b'/').find(fits)?;
    Some((&name[..slash], &name[slash + 1..]))
}
