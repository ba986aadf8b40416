//! Reads an archive, one entry after the other.

use std::io::{ErrorKind, Read};

use crate::error::TarError;
use crate::header::{Block, Header, text};
use crate::pax::{self, PAX_BYTES_MAX, Pax};
use crate::sparse::{self, DataMap, Told};
use crate::{BLOCK_BYTES, Entry, Kind, NAME_BYTES_MAX, Segment};

/// Size of a block, in bytes.
const BLOCK: u64 = BLOCK_BYTES as u64;

/// A reader of archives. After [`Self::next`], [`Self::data`] reads the entry's data; the next
/// call skips unread data.
pub struct Reader<R> {
    from: R,
    global: Pax,
    /// Remaining bytes of the entry's data.
    left: u64,
    /// Padding of its last block, in bytes.
    filling: u64,
    ended: bool,
}

/// Extended headers before an entry.
#[derive(Default)]
struct Ahead {
    pax: Option<Pax>,
    name: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
}

impl<R: Read> Reader<R> {
    /// Reads an archive that begins at the position of `from`.
    pub fn new(from: R) -> Self {
        Self { from, global: Pax::default(), left: 0, filling: 0, ended: false }
    }

    /// Returns the next entry; `None` at the end, which may be marked by a block of zeros.
    ///
    /// # Errors
    /// If the archive is malformed, or `from` fails. Nothing more can be read then.
    #[expect(clippy::should_implement_trait, reason = "an entry's data is read in between")]
    pub fn next(&mut self) -> Result<Option<Entry>, TarError> {
        self.pass_over()?;
        let mut ahead = Ahead::default();
        while let Some(block) = self.header()? {
            let header = Header::read(&block)?;
            let size = header.size()?;
            match header.type_flag() {
                // Solaris uses the letter `X`.
                b'x' | b'X' => {
                    let extended = self.small(size, PAX_BYTES_MAX)?;
                    ahead.pax.get_or_insert_with(|| self.global.clone()).read(&extended)?;
                }
                b'g' => {
                    let extended = self.small(size, PAX_BYTES_MAX)?;
                    self.global.read(&extended)?;
                    // A map applies to one file.
                    self.global.sparse = sparse::PaxSparse::default();
                }
                b'L' => ahead.name = self.long_name(size)?,
                b'K' => ahead.link = self.long_name(size)?,
                _ => return self.entry(&block, &header, ahead).map(Some),
            }
        }
        let nothing = ahead.pax.is_none() && ahead.name.is_none() && ahead.link.is_none();
        if nothing { Ok(None) } else { Err(TarError::Truncated) }
    }

    /// Reads some of the entry's data; 0 bytes at its end.
    ///
    /// # Errors
    /// If the archive ends too early, or `from` fails.
    pub fn data(&mut self, buffer: &mut [u8]) -> Result<usize, TarError> {
        let most = usize::try_from(self.left).unwrap_or(usize::MAX).min(buffer.len());
        if most == 0 {
            return Ok(0);
        }
        let count = self.some(&mut buffer[..most])?;
        if count == 0 {
            return Err(TarError::Truncated);
        }
        self.left -= count as u64;
        Ok(count)
    }

    /// Returns the source of the archive.
    pub fn into_inner(self) -> R {
        self.from
    }

    fn entry(
        &mut self,
        block: &Block,
        header: &Header<'_>,
        ahead: Ahead,
    ) -> Result<Entry, TarError> {
        let mut entry = header.entry()?;
        let pax = ahead.pax.unwrap_or_else(|| self.global.clone());
        if let Some(name) = ahead.name {
            entry.name = name;
        }
        if let (Kind::Symlink(link) | Kind::HardLink(link), Some(to)) =
            (&mut entry.kind, ahead.link)
        {
            *link = to;
        }
        pax.overrule(&mut entry);
        // A link, a directory and a FIFO have no data, whatever size they declare.
        let has_data = matches!(entry.kind, Kind::File)
            || matches!(header.type_flag(), b'D' | b'M' | b'N' | b'V');
        let size = if has_data { pax.size(header.size()?) } else { 0 };
        if entry.kind == Kind::File {
            let map = match header.type_flag() {
                b'S' => Some(self.old_sparse(block)?),
                _ => None,
            };
            self.expect(size);
            self.settle(&mut entry, map, &pax, size)?;
        } else {
            self.expect(size);
        }
        // In the v7 format, a directory is a file whose name ends with a slash.
        if entry.kind == Kind::File && entry.name.ends_with(b"/") {
            entry.kind = Kind::Directory;
        }
        Ok(entry)
    }

    /// Sets the size of a file and, if it is sparse, its map.
    fn settle(
        &mut self,
        entry: &mut Entry,
        old: Option<(Vec<Segment>, u64)>,
        pax: &Pax,
        data: u64,
    ) -> Result<(), TarError> {
        let told = match old {
            Some((map, size)) => Told::Map(map, size),
            None => pax.sparse.told()?,
        };
        let (map, size) = match told {
            Told::Not => {
                entry.size = data;
                return Ok(());
            }
            Told::Map(map, size) => (map, size),
            Told::InData(size) => (self.map_in_data()?, size),
        };
        sparse::check(&map, size, self.left)?;
        entry.size = size;
        entry.segments = Some(map);
        Ok(())
    }

    fn old_sparse(&mut self, block: &Block) -> Result<(Vec<Segment>, u64), TarError> {
        let (mut map, size, mut more) = sparse::old_header(block)?;
        while more {
            let block = self.block()?.ok_or(TarError::Truncated)?;
            let before = map.len();
            more = sparse::old_block(&block, &mut map)?;
            // Empty blocks would continue endlessly.
            if more && map.len() == before {
                return Err(TarError::Invalid("the map of a sparse file is malformed"));
            }
        }
        Ok((map, size))
    }

    fn map_in_data(&mut self) -> Result<Vec<Segment>, TarError> {
        let mut map = DataMap::default();
        loop {
            if self.left < BLOCK {
                return Err(TarError::Invalid("the map of a sparse file is malformed"));
            }
            let block = self.block()?.ok_or(TarError::Truncated)?;
            self.left -= BLOCK;
            if let Some(map) = map.block(&block)? {
                return Ok(map);
            }
        }
    }

    fn long_name(&mut self, size: u64) -> Result<Option<Vec<u8>>, TarError> {
        let bytes = self.small(size, NAME_BYTES_MAX as u64 + 1)?;
        pax::name(text(&bytes))
    }

    /// Reads all data of an entry that describes another.
    fn small(&mut self, size: u64, most: u64) -> Result<Vec<u8>, TarError> {
        if size > most {
            return Err(TarError::Invalid("an extended header or a long name is too long"));
        }
        self.expect(size);
        let mut bytes = Vec::new();
        let mut piece = [0; 4096];
        loop {
            match self.data(&mut piece)? {
                0 => break,
                count => bytes.extend_from_slice(&piece[..count]),
            }
        }
        self.pass_over()?;
        Ok(bytes)
    }

    fn expect(&mut self, size: u64) {
        self.left = size;
        self.filling = (BLOCK - size % BLOCK) % BLOCK;
    }

    fn pass_over(&mut self) -> Result<(), TarError> {
        self.left = self.left.checked_add(self.filling).ok_or(TarError::Truncated)?;
        self.filling = 0;
        let mut piece = [0; 4096];
        while self.data(&mut piece)? > 0 {}
        Ok(())
    }

    /// Returns the next block, unless it marks the end.
    fn header(&mut self) -> Result<Option<Block>, TarError> {
        if self.ended {
            return Ok(None);
        }
        let block = self.block()?.filter(|block| block.iter().any(|byte| *byte != 0));
        self.ended = block.is_none();
        Ok(block)
    }

    fn block(&mut self) -> Result<Option<Block>, TarError> {
        let mut block = [0; BLOCK_BYTES];
        let mut filled = 0;
        while filled < BLOCK_BYTES {
            match self.some(&mut block[filled..])? {
                0 if filled == 0 => return Ok(None),
                0 => return Err(TarError::Truncated),
                count => filled += count,
            }
        }
        Ok(Some(block))
    }

    fn some(&mut self, buffer: &mut [u8]) -> Result<usize, TarError> {
        loop {
            match self.from.read(buffer) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                read => return read.map_err(TarError::Stream),
            }
        }
    }
}
