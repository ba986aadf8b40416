//! The directory of a VMM's sockets, which its user may own.

use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use tokio::net::{UnixListener, UnixStream};

use crate::BootError;

/// The directory a VMM runs in.
#[derive(Debug)]
pub(crate) struct Root {
    path: PathBuf,
    fd: OwnedFd,
}

impl Root {
    /// Opens `path`.
    pub(crate) fn open(path: PathBuf) -> Result<Self, BootError> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        match rustix::fs::open(&path, flags, Mode::empty()) {
            Ok(fd) => Ok(Self { path, fd }),
            Err(error) => Err(BootError::Prepare { path, source: error.into() }),
        }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Listens on the socket `name`.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub(crate) fn bind(&self, name: &str) -> io::Result<UnixListener> {
        UnixListener::bind(format!("{}/{name}", through(&self.fd)))
    }

    /// Connects to the socket `name`. Does not follow a link: in a jail the VMM can put one there
    /// that leads to a socket of the host.
    pub(crate) async fn connect(&self, name: &str) -> io::Result<UnixStream> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let socket = rustix::fs::openat(&self.fd, name, flags, Mode::empty())?;
        UnixStream::connect(through(&socket)).await
    }
}

/// A path to what `fd` is open on, which fits the 108 bytes of a socket's address however
/// long the file's own path is.
fn through(fd: &OwnedFd) -> String {
    format!("/proc/self/fd/{}", fd.as_raw_fd())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[tokio::test]
    async fn sockets_are_reached_in_directories_of_any_depth() {
        let dir = tempfile::tempdir().unwrap();
        let deep = dir.path().join("d".repeat(120));
        std::fs::create_dir(&deep).unwrap();
        let root = Root::open(deep.clone()).unwrap();
        let listener = root.bind("v.sock").unwrap();
        assert!(deep.join("v.sock").exists());
        root.connect("v.sock").await.unwrap();
        listener.accept().await.unwrap();
        let error = root.connect("api.sock").await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }

    #[tokio::test]
    async fn a_link_to_a_socket_is_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let _elsewhere = UnixListener::bind(dir.path().join("elsewhere")).unwrap();
        symlink(dir.path().join("elsewhere"), dir.path().join("v.sock")).unwrap();
        let root = Root::open(dir.path().into()).unwrap();
        root.connect("elsewhere").await.unwrap();
        root.connect("v.sock").await.unwrap_err();
    }
}
