//! Size of a microVM, and what a template and a pool are of.

use std::fmt;

use emberd_image::PackName;

/// Size of a microVM that no snapshot can change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Size {
    /// Virtual processors.
    pub vcpus: u8,
    /// Memory, in MiB.
    pub memory_mib: u32,
}

/// Language pack and size: what a template and a pool are of.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Shape {
    /// The language pack.
    pub pack: PackName,
    /// Size of its microVMs.
    pub size: Size,
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { pack, size: Size { vcpus, memory_mib } } = self;
        write!(f, "{pack} with {vcpus} vCPU and {memory_mib} MiB")
    }
}
