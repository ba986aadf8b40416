//! The kernel's announcements that a device came or changed.
//!
//! Subscribe, look whether the device is there, wait, look again: what happens between
//! the look and the wait is queued in the socket.

use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::time::Instant;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, socket,
};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::sys;

/// Multicast group the kernel itself sends to.
const KERNEL_GROUP: u32 = 1;

/// A subscription to all announcements. What they say is not looked at.
#[derive(Debug)]
pub struct Uevents {
    socket: OwnedFd,
}

impl Uevents {
    /// Hears everything from now on.
    ///
    /// # Errors
    /// When the kernel offers no such socket.
    pub fn subscribe() -> io::Result<Self> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let protocol = SockProtocol::NetlinkKObjectUEvent;
        let socket = socket(AddressFamily::Netlink, SockType::Datagram, flags, protocol)?;
        bind(socket.as_raw_fd(), &NetlinkAddr::new(0, KERNEL_GROUP))?;
        Ok(Self { socket })
    }

    /// Blocks until something was announced; `false` when nothing was by `deadline`.
    pub fn wait_until(&self, deadline: Instant) -> bool {
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
            match poll(&mut [PollFd::new(self.socket.as_fd(), PollFlags::POLLIN)], timeout) {
                Err(Errno::EINTR) => {}
                Ok(0) | Err(_) => return false,
                Ok(_) => {
                    drain(&self.socket);
                    return true;
                }
            }
        }
    }

    /// The same subscription for use inside the runtime.
    ///
    /// # Errors
    /// When the runtime cannot watch the socket.
    pub fn into_async(self) -> io::Result<AsyncUevents> {
        Ok(AsyncUevents { socket: sys::watch(self.socket, Interest::READABLE)? })
    }
}

/// [`Uevents`] inside the runtime.
#[derive(Debug)]
pub struct AsyncUevents {
    socket: AsyncFd<OwnedFd>,
}

impl AsyncUevents {
    /// Waits until something was announced since the last call. Cancel safe.
    ///
    /// # Errors
    /// When the runtime shuts down.
    pub async fn wait(&self) -> io::Result<()> {
        let mut ready = self.socket.readable().await?;
        drain(self.socket.get_ref());
        ready.clear_ready();
        Ok(())
    }
}

/// Empties the queue. An error means it is empty, or overflowed (`ENOBUFS`), which is an
/// announcement too.
fn drain(socket: &OwnedFd) {
    // Datagrams are cut to what fits: nobody reads them.
    let mut start = [0; 64];
    while recv(socket.as_raw_fd(), &mut start, MsgFlags::MSG_DONTWAIT).is_ok() {}
}
