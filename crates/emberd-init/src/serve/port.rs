//! A virtio-serial port as a byte stream that stays usable across host connections.
//!
//! While no host is connected, the port reads as ended and polls as hung up. The runtime treats a
//! hang-up as final, so it watches an epoll instance that contains the port. That instance is
//! emptied before each attempt to read or write.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use futures::io::{AsyncRead, AsyncWrite};
use nix::libc::O_NONBLOCK;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::sys;

/// Directory in which the kernel lists virtio ports: one directory for each, named like the
/// device, with the VMM's name for it in the file `name`.
pub const CLASS_DIR: &str = "/sys/class/virtio-ports";

/// Returns the device name, such as `vport1p1`, of the port that the VMM calls `name`.
pub fn find(class_dir: &Path, name: &str) -> Option<OsString> {
    let ports = fs::read_dir(class_dir).ok()?;
    ports.filter_map(Result::ok).find_map(|port| {
        let given = fs::read_to_string(port.path().join("name")).ok()?;
        (given.trim_end() == name).then(|| port.file_name())
    })
}

/// An open port.
#[derive(Debug)]
pub struct Port {
    device: File,
    /// Contains the device, edge-triggered.
    events: Epoll,
    /// The same epoll instance, watched by the runtime.
    changed: AsyncFd<OwnedFd>,
}

impl Port {
    /// Opens the port at `path`, which can be open only once.
    ///
    /// # Errors
    /// If the device cannot be opened or watched.
    pub fn open(path: &Path) -> io::Result<Self> {
        let device =
            OpenOptions::new().read(true).write(true).custom_flags(O_NONBLOCK).open(path)?;
        let events = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        let wanted = EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT | EpollFlags::EPOLLET;
        events.add(&device, EpollEvent::new(wanted, 0))?;
        let changed = sys::watch(events.0.try_clone()?, Interest::READABLE)?;
        Ok(Self { device, events, changed })
    }

    /// Waits until a host is connected. Cancel safe.
    ///
    /// # Errors
    /// If the device fails.
    pub async fn host_connected(&self) -> io::Result<()> {
        self.host_is(true).await
    }

    /// Waits until no host is connected. Cancel safe.
    ///
    /// # Errors
    /// If the device fails.
    pub async fn host_left(&self) -> io::Result<()> {
        self.host_is(false).await
    }

    async fn host_is(&self, connected: bool) -> io::Result<()> {
        loop {
            let mut state = [PollFd::new(self.device.as_fd(), PollFlags::empty())];
            poll(&mut state, PollTimeout::ZERO)?;
            let hung_up = state[0].revents().is_some_and(|now| now.contains(PollFlags::POLLHUP));
            if connected != hung_up {
                return Ok(());
            }
            let mut changed = self.changed.readable().await?;
            self.forget_events()?;
            changed.clear_ready();
        }
    }

    /// Repeats `transfer` until it does not block.
    fn poll_transfer(
        &self,
        context: &mut Context<'_>,
        mut transfer: impl FnMut(&File) -> io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        loop {
            match transfer(&self.device) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                outcome => return Poll::Ready(outcome),
            }
            let mut changed = ready!(self.changed.poll_read_ready(context))?;
            self.forget_events()?;
            changed.clear_ready();
        }
    }

    /// Rearms the epoll instance. Any later event makes it readable again.
    fn forget_events(&self) -> io::Result<()> {
        self.events.wait(&mut [EpollEvent::empty()], EpollTimeout::ZERO)?;
        Ok(())
    }
}

impl AsyncRead for Port {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_transfer(context, |mut device| device.read(buffer))
    }
}

impl AsyncWrite for Port {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_transfer(context, |mut device| device.write(bytes))
    }

    fn poll_flush(self: Pin<&mut Self>, _context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_close(self: Pin<&mut Self>, _context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn port_is_found_by_its_name_whatever_its_device_is_called() {
        let class = tempfile::tempdir().unwrap();
        for (device, name) in [("vport0p1", "other\n"), ("vport3p2", "emberd.agent\n")] {
            fs::create_dir(class.path().join(device)).unwrap();
            fs::write(class.path().join(device).join("name"), name).unwrap();
        }
        fs::create_dir(class.path().join("vport3p3")).unwrap(); // not named yet
        assert_eq!(find(class.path(), "emberd.agent"), Some("vport3p2".into()));
        assert_eq!(find(class.path(), "emberd"), None);
        assert_eq!(find(&class.path().join("absent"), "emberd.agent"), None);
    }
}
