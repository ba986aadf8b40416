//! The control socket: one JSON object per datagram.
//!
//! ```text
//! zygote ─▶ {"ready":true}                      once, when everything is imported
//! agent  ─▶ {"fork":N} + [child's socket, cgroup.procs?]
//! zygote ─▶ {"forked":N,"pid":P}  or  {"failed":N,"error":"…"}
//! zygote ─▶ {"ended":P,"status":W}              it reaped its child; W as of wait(2)
//! ```
//! The end of the stream means that the other side ended.

use std::io::{self, IoSlice};
use std::num::NonZeroU32;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use nix::errno::Errno;
use nix::sys::socket::{ControlMessage, MsgFlags, UnixAddr, recv, sendmsg};
use serde::Deserialize;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::sys;

/// Largest datagram, in bytes (4 KiB).
const DATAGRAM_BYTES_MAX: usize = 4 << 10;

/// A message of the zygote.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub enum Message {
    /// The zygote can fork from now on.
    Ready {
        /// Always true.
        ready: bool,
    },
    /// The zygote forked.
    Forked {
        /// The number of the request.
        forked: u64,
        /// The child's pid.
        pid: NonZeroU32,
    },
    /// The zygote could not fork.
    Failed {
        /// The number of the request.
        failed: u64,
        /// The reason, for people.
        error: String,
    },
    /// A child of the zygote ended and was reaped.
    Ended {
        /// The child's pid.
        ended: u32,
        /// The exit status, as of wait(2).
        status: i32,
    },
}

/// Why the control socket failed.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// The zygote closed its end.
    #[error("the zygote closed its socket")]
    Left,
    /// A datagram is over [`DATAGRAM_BYTES_MAX`].
    #[error("the zygote sent a datagram of {0} bytes")]
    Oversize(usize),
    /// A datagram is not a message.
    #[error("the zygote sent an invalid message")]
    Garbage(#[from] serde_json::Error),
    /// The socket failed.
    #[error("cannot read from the zygote")]
    Io(#[from] io::Error),
}

/// The agent's end of the control socket.
#[derive(Debug, Clone)]
pub struct Control {
    socket: Arc<AsyncFd<OwnedFd>>,
}

impl Control {
    /// Uses `socket`.
    ///
    /// # Errors
    /// If the socket cannot be watched.
    pub fn new(socket: OwnedFd) -> io::Result<Self> {
        Ok(Self { socket: Arc::new(sys::watch(socket, Interest::READABLE)?) })
    }

    /// Requests a child with that number, which gets its end of `socket` and joins the cgroup of
    /// `procs`. Never waits: a zygote that does not read is an error.
    ///
    /// # Errors
    /// As sendmsg(2).
    pub fn ask_for_child(
        &self,
        number: u64,
        socket: BorrowedFd<'_>,
        procs: Option<BorrowedFd<'_>>,
    ) -> io::Result<()> {
        let text = format!(r#"{{"fork":{number}}}"#);
        let fds: Vec<_> = [Some(socket), procs].iter().flatten().map(AsRawFd::as_raw_fd).collect();
        sendmsg::<UnixAddr>(
            self.socket.get_ref().as_raw_fd(),
            &[IoSlice::new(text.as_bytes())],
            &[ControlMessage::ScmRights(&fds)],
            MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL,
            None,
        )?;
        Ok(())
    }

    /// Returns the next message. Cancel safe.
    ///
    /// # Errors
    /// [`ControlError`].
    pub async fn message(&self) -> Result<Message, ControlError> {
        loop {
            let mut ready = self.socket.readable().await?;
            if let Some(message) = self.waiting_message()? {
                return Ok(message);
            }
            ready.clear_ready();
        }
    }

    /// Returns the next message, if there is one already.
    ///
    /// # Errors
    /// [`ControlError`].
    pub fn waiting_message(&self) -> Result<Option<Message>, ControlError> {
        let mut datagram = [0; DATAGRAM_BYTES_MAX];
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_TRUNC;
        loop {
            return match recv(self.socket.get_ref().as_raw_fd(), &mut datagram, flags) {
                Ok(0) => Err(ControlError::Left),
                Ok(bytes) if bytes > DATAGRAM_BYTES_MAX => Err(ControlError::Oversize(bytes)),
                Ok(bytes) => Ok(Some(serde_json::from_slice(&datagram[..bytes])?)),
                Err(Errno::EAGAIN) => Ok(None),
                // A reset is reported before data that was sent earlier.
                Err(Errno::EINTR | Errno::ECONNRESET) => continue,
                Err(errno) => Err(io::Error::from(errno).into()),
            };
        }
    }
}
