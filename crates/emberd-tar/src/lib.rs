//! Reads tar archives from untrusted input, unpacks them below one directory, and writes them.
//!
//! ```text
//! bytes ─▶ Reader ─▶ Entry, its data ─▶ unpack ─▶ files
//! files ─▶ pack ─▶ Entry, its data ─▶ Writer ─▶ bytes
//! ```
//! The guest's agent and `emberctl` share it. It reads v7, ustar, old GNU and pax archives, and
//! writes ustar with pax headers where those are needed.

mod entry;
mod error;
mod header;
mod pack;
mod pax;
mod reader;
mod sparse;
mod unpack;
mod within;
mod writer;

pub use entry::{Entry, Kind, Segment, Time};
pub use error::TarError;
pub use pack::{PackOptions, pack_directory, pack_file};
pub use pax::PAX_BYTES_MAX;
pub use reader::Reader;
pub use sparse::SEGMENTS_MAX;
pub use unpack::{DIRECTORIES_MAX, NAMES_BYTES_MAX, Owner, UnpackOptions, unpack};
pub use writer::Writer;

/// Size of a block, in bytes; archives consist of blocks.
pub const BLOCK_BYTES: usize = 512;

/// Maximum length of a name, in bytes: the kernel's `PATH_MAX`, without its NUL.
pub const NAME_BYTES_MAX: usize = 4095;
