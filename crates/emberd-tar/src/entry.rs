//! An entry of an archive, in any format.

/// The type of an entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// A file, with data.
    File,
    /// A directory.
    Directory,
    /// A symbolic link to this target.
    Symlink(Vec<u8>),
    /// A hard link to an earlier entry.
    HardLink(Vec<u8>),
    /// A FIFO.
    Fifo,
    /// A device, a volume label or another type that is not unpacked.
    Other,
}

/// A time: seconds since 1970, and nanoseconds after them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Time {
    /// Seconds since the Unix epoch; negative before it.
    pub seconds: i64,
    /// Nanoseconds after that second, below 1,000,000,000.
    pub nanos: u32,
}

/// A segment of a sparse file that the archive has; the gaps are zeros.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    /// Offset in the file, in bytes.
    pub offset: u64,
    /// Length, in bytes.
    pub length: u64,
}

/// An entry of an archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Name in the archive, as bytes.
    pub name: Vec<u8>,
    /// Type.
    pub kind: Kind,
    /// Permission bits, 0 to 0o7777.
    pub mode: u32,
    /// User id.
    pub uid: u64,
    /// Group id.
    pub gid: u64,
    /// Time of the last change of the content.
    pub modified: Time,
    /// Size of the file, including holes, in bytes.
    pub size: u64,
    /// Segments of a sparse file, in order.
    pub segments: Option<Vec<Segment>>,
}
