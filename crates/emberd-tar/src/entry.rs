//! One entry of an archive, whatever format it came in.

/// What an entry is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// A file, with data.
    File,
    /// A directory.
    Directory,
    /// A symbolic link to this.
    Symlink(Vec<u8>),
    /// Another name of what an earlier entry made.
    HardLink(Vec<u8>),
    /// A FIFO.
    Fifo,
    /// A device, a volume label or whatever else is not unpacked.
    Other,
}

/// A moment: seconds since 1970, and nanoseconds after them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Time {
    /// Seconds since the Unix epoch; fewer than none before it.
    pub seconds: i64,
    /// Nanoseconds after that second, below 1,000,000,000.
    pub nanos: u32,
}

/// A part of a sparse file that the archive has; zeros are between them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    /// Where in the file, in bytes.
    pub offset: u64,
    /// How many bytes.
    pub length: u64,
}

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its name as it is in the archive, in bytes.
    pub name: Vec<u8>,
    /// What it is.
    pub kind: Kind,
    /// Permission bits, 0 to 0o7777.
    pub mode: u32,
    /// Number of its owner.
    pub uid: u64,
    /// Number of its group.
    pub gid: u64,
    /// When its content last changed.
    pub modified: Time,
    /// Size of the file, holes included, in bytes.
    pub size: u64,
    /// The parts that the archive has of a sparse file, in their order.
    pub segments: Option<Vec<Segment>>,
}
