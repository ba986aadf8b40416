//! An immutable copy of a template's file in a sealed memory file.
//!
//! A VMM that opens the template's file for writing, as QEMU does even to map it privately,
//! could change every microVM started from it. A sealed file allows only private
//! mappings, whose writes stay private, whoever owns it (`memfd_create(2)`).

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::Path;

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};
use rustix::io::Errno;

use crate::sparse;

/// Name of the memory file, which `/proc/PID/maps` shows.
const NAME: &std::ffi::CStr = c"emberd-template";

/// A sealed copy of one of a template's files. Its pages are gone with its last descriptor and
/// mapping.
#[derive(Debug)]
pub(super) struct Sealed {
    fd: OwnedFd,
}

impl Sealed {
    /// Copies the data of the file at `path`, whose holes stay holes. Blocks.
    pub(super) fn of(path: &Path) -> io::Result<Self> {
        let mut memory = File::from(create()?);
        sparse::copy(&mut File::open(path)?, &mut memory)?;
        let seals = SealFlags::WRITE | SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL;
        fcntl_add_seals(&memory, seals)?;
        Ok(Self { fd: memory.into() })
    }

    /// One more opening of it, with a position of its own at its start, for reading.
    pub(super) fn open(&self) -> io::Result<OwnedFd> {
        Ok(File::open(format!("/proc/self/fd/{}", self.fd.as_raw_fd()))?.into())
    }

    /// One more descriptor of it.
    pub(super) fn descriptor(&self) -> io::Result<OwnedFd> {
        self.fd.try_clone()
    }
}

/// An empty memory file that can be sealed, and not be executed where the kernel knows how
/// to say so (6.3).
fn create() -> io::Result<OwnedFd> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    match memfd_create(NAME, flags | MemfdFlags::NOEXEC_SEAL) {
        Err(Errno::INVAL) => Ok(memfd_create(NAME, flags)?),
        outcome => Ok(outcome?),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;
    use std::os::unix::fs::{FileExt as _, MetadataExt as _};

    use super::*;

    fn read(fd: OwnedFd) -> Vec<u8> {
        let mut content = Vec::new();
        File::from(fd).read_to_end(&mut content).unwrap();
        content
    }

    #[test]
    fn a_sealed_copy_is_the_same_and_nobody_can_change_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("memory");
        let made = File::create(&path).unwrap();
        made.set_len(4 << 20).unwrap();
        made.write_all_at(b"guest", 3 << 20).unwrap();

        let sealed = Sealed::of(&path).unwrap();
        let ours = File::from(sealed.descriptor().unwrap());
        assert_eq!(ours.metadata().unwrap().len(), 4 << 20);
        assert!(ours.metadata().unwrap().blocks() < 1024, "holes stay holes");
        assert_eq!(std::fs::read(&path).unwrap(), read(sealed.open().unwrap()));
        assert_eq!(read(sealed.open().unwrap()).len(), 4 << 20, "from its start again");
        let mut found = [0; 5];
        ours.read_exact_at(&mut found, 3 << 20).unwrap();
        assert_eq!(&found, b"guest");

        // As QEMU opens it: for writing, by name.
        let name = format!("/proc/self/fd/{}", ours.as_raw_fd());
        let again = File::options().read(true).write(true).open(name).unwrap();
        for file in [&ours, &again] {
            file.write_all_at(b"x", 3 << 20).unwrap_err();
            file.set_len(0).unwrap_err();
            file.set_len(8 << 20).unwrap_err();
            let hole =
                rustix::fs::FallocateFlags::PUNCH_HOLE | rustix::fs::FallocateFlags::KEEP_SIZE;
            rustix::fs::fallocate(file, hole, 0, 4 << 20).unwrap_err();
        }
        ours.read_exact_at(&mut found, 3 << 20).unwrap();
        assert_eq!(&found, b"guest");
    }
}
