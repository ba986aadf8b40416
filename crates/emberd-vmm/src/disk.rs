//! The disk of a microVM: a copy of an image, in a file without a name.
//!
//! ```text
//! empty image, or the disk of a template ─ reflink, or the data are copied ─▶ file ─▶ its VMM
//! ```
//! The VMM holds the file open, and nothing else refers to it. When the VMM ends, in whichever way,
//! the host has the space back.

use std::fs::{File, Permissions};
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::fs::{PermissionsExt as _, fchown};
use std::path::{Path, PathBuf};

use rustix::fs::ioctl_ficlone;
use rustix::mount::mount_bind;
use tempfile::{NamedTempFile, PersistError};

use crate::sparse;

/// Origin of the disk of a microVM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskSpec {
    /// An image with an ext4 file system.
    pub image: PathBuf,
    /// Directory of a file system with room for what guests write.
    pub dir: PathBuf,
    /// Size of the disk, in MiB. Where the image is smaller, so is the file system.
    pub size_mib: u32,
}

/// Why a disk did not grow.
#[derive(Debug, thiserror::Error)]
#[error("{step} failed")]
pub struct GrowError {
    step: &'static str,
    source: Box<dyn std::error::Error + Send + Sync>,
}

impl GrowError {
    /// The error of `step`.
    pub(crate) fn at<E: Into<Box<dyn std::error::Error + Send + Sync>>>(
        step: &'static str,
    ) -> impl FnOnce(E) -> Self {
        move |source| Self { step, source: source.into() }
    }
}

impl DiskSpec {
    pub(crate) fn source(&self) -> Source {
        let bytes = u64::from(self.size_mib) << 20;
        Source { image: self.image.clone(), dir: self.dir.clone(), bytes }
    }
}

/// The image a disk is a copy of, and the directory in whose file system it will be.
#[derive(Debug, Clone)]
pub(crate) struct Source {
    pub(crate) image: PathBuf,
    pub(crate) dir: PathBuf,
    /// Least length of the disk, in bytes.
    pub(crate) bytes: u64,
}

/// The disk of one microVM, for its VMM.
#[derive(Debug)]
pub(crate) struct Disk {
    /// The file, for the daemon.
    pub(crate) file: File,
    /// The same file, for the VMM to inherit.
    pub(crate) descriptor: OwnedFd,
}

impl Disk {
    /// Makes a copy without the holes, for a VMM of the user `uid` or of the daemon's.
    pub(crate) async fn make(source: Source, uid: Option<u32>) -> io::Result<Self> {
        let made = tokio::task::spawn_blocking(move || Self::copy(&source, uid)).await;
        made.unwrap_or_else(|error| Err(error.into()))
    }

    fn copy(source: &Source, uid: Option<u32>) -> io::Result<Self> {
        let mut file = tempfile::tempfile_in(&source.dir)?;
        fill(&mut file, source, uid)?;
        let descriptor = file.try_clone()?.into();
        Ok(Self { file, descriptor })
    }

    /// Returns the name under which the VMM opens what it inherits.
    pub(crate) fn name(&self) -> PathBuf {
        format!("/proc/self/fd/{}", self.descriptor.as_raw_fd()).into()
    }
}

/// Makes such a copy and puts it into a jail as `place`, for a VMM that inherits no descriptors.
/// The copy ends with the jail.
pub(crate) fn place(spec: &Source, place: &Path, uid: u32) -> io::Result<File> {
    let mut named = NamedTempFile::new_in(&spec.dir)?;
    fill(named.as_file_mut(), spec, Some(uid))?;
    match named.persist(place) {
        Ok(file) => Ok(file),
        // Another file system. A mount keeps a file whose name is gone.
        Err(PersistError { file: named, .. }) => {
            File::create_new(place)?;
            mount_bind(named.path(), place)?;
            named.as_file().try_clone()
        }
    }
}

/// Copies the image of `source` into the empty `file`, for `uid` or this user alone.
fn fill(file: &mut File, source: &Source, uid: Option<u32>) -> io::Result<()> {
    file.set_permissions(Permissions::from_mode(0o600))?;
    let mut from = File::open(&source.image)?;
    if ioctl_ficlone(&*file, &from).is_err() {
        sparse::copy(&mut from, file)?;
    }
    if file.metadata()?.len() < source.bytes {
        file.set_len(source.bytes)?;
    }
    if uid.is_some() { fchown(&*file, uid, uid) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{FileExt as _, MetadataExt as _};

    use super::*;

    #[test]
    fn a_disk_is_a_sparse_copy_without_a_name() {
        let dir = tempfile::tempdir().unwrap();
        let image = dir.path().join("image");
        let mut options = File::options();
        let made = options.read(true).write(true).create_new(true).open(&image).unwrap();
        made.set_len(1 << 30).unwrap();
        made.write_all_at(b"data", 700 << 20).unwrap();
        let source = Source { image: image.clone(), dir: dir.path().into(), bytes: 0 };
        let disk = Disk::copy(&source, None).unwrap();
        let opened = File::options().read(true).write(true).open(disk.name()).unwrap();
        let mut read = [0; 4];
        opened.read_exact_at(&mut read, 700 << 20).unwrap();
        assert_eq!(&read, b"data");
        let metadata = opened.metadata().unwrap();
        assert_eq!(
            (metadata.len(), metadata.nlink(), metadata.mode() & 0o777),
            (1 << 30, 0, 0o600)
        );
        assert!(metadata.blocks() * 512 < 1 << 20, "the holes are left");
        opened.write_all_at(b"mine", 0).unwrap();
        made.read_exact_at(&mut read, 0).unwrap();
        assert_eq!(read, [0; 4], "the image stays as it is");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
        let placed = dir.path().join("placed");
        let uid = rustix::process::geteuid().as_raw();
        let file = place(&source, &placed, uid).unwrap();
        assert_eq!(file.metadata().unwrap().ino(), placed.metadata().unwrap().ino());
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2);
    }
}
