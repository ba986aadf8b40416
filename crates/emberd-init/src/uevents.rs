//! Kernel notifications that a device was added or changed.
//!
//! Subscribe, check whether the device exists, wait, check again. Notifications between the check
//! and the wait are queued in the socket.

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

/// Multicast group of notifications from the kernel itself.
const KERNEL_GROUP: u32 = 1;

/// A subscription to all notifications. Their content is ignored.
#[derive(Debug)]
pub struct Uevents {
    socket: OwnedFd,
}

impl Uevents {
    /// Subscribes to notifications from now on.
    ///
    /// # Errors
    /// If the kernel has no such socket.
    pub fn subscribe() -> io::Result<Self> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let protocol = SockProtocol::NetlinkKObjectUEvent;
        let socket = socket(AddressFamily::Netlink, SockType::Datagram, flags, protocol)?;
        bind(socket.as_raw_fd(), &NetlinkAddr::new(0, KERNEL_GROUP))?;
        Ok(Self { socket })
    }

    /// Blocks until there is a notification; `false` if there is none by `deadline`.
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

    /// Converts the subscription for use inside the runtime.
    ///
    /// # Errors
    /// If the runtime cannot watch the socket.
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
    /// Waits for a notification since the last call. Cancel safe.
    ///
    /// # Errors
    /// If the runtime shuts down.
    pub async fn wait(&self) -> io::Result<()> {
        let mut ready = self.socket.readable().await?;
        drain(self.socket.get_ref());
        ready.clear_ready();
        Ok(())
    }
}

/// Empties the queue. An error means that it is empty or overflowed (`ENOBUFS`), which counts as
/// a notification.
fn drain(socket: &OwnedFd) {
    // Datagrams are cut to the buffer; their content is not used.
    let mut start = [0; 64];
    while recv(socket.as_raw_fd(), &mut start, MsgFlags::MSG_DONTWAIT).is_ok() {}
}
