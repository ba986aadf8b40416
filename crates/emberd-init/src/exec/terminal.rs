//! The agent's end of a program's terminal.

use std::io;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::sync::Arc;

use emberd_proto::process::TtySize;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, OFlag, fcntl};
use nix::pty::{OpenptyResult, Winsize, openpty};
use nix::sys::termios::{InputFlags, SetArg, tcgetattr, tcsetattr};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::sys;

/// The default end-of-input character of a terminal (`VEOF`, Ctrl-D).
pub const END_OF_INPUT: &[u8] = b"\x04";

/// The master end of a pseudo terminal (pty(7)).
#[derive(Debug, Clone)]
pub struct Terminal(Arc<AsyncFd<OwnedFd>>);

impl Terminal {
    /// Opens a terminal of that size; the second value is the program's end.
    ///
    /// # Errors
    /// If the system has no terminal left.
    pub fn open(size: TtySize) -> io::Result<(Self, OwnedFd)> {
        let OpenptyResult { master, slave } = openpty(Some(&winsize(size)), None)?;
        // The kernel's defaults are those of a login, except for this: input is UTF-8, so that
        // Backspace removes a character and not one byte of it.
        let mut settings = tcgetattr(&slave)?;
        settings.input_flags |= InputFlags::IUTF8;
        tcsetattr(&slave, SetArg::TCSANOW, &settings)?;
        // No other child is started in between, because this is the agent's only thread.
        for end in [&master, &slave] {
            fcntl(end, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))?;
        }
        fcntl(&master, FcntlArg::F_SETFL(OFlag::O_RDWR | OFlag::O_NONBLOCK))?;
        let master = sys::watch(master, Interest::READABLE | Interest::WRITABLE)?;
        Ok((Self(Arc::new(master)), slave))
    }

    /// Waits until there is output, or the program's end is closed. Cancel safe.
    pub async fn readable(&self) -> io::Result<()> {
        self.0.ready(Interest::READABLE).await.map(drop)
    }

    /// Waits until input can be written. Cancel safe.
    pub async fn writable(&self) -> io::Result<()> {
        self.0.ready(Interest::WRITABLE).await.map(drop)
    }

    /// Reads without waiting. EIO means that the other end is closed.
    pub fn try_read(&self, chunk: &mut [u8]) -> io::Result<usize> {
        let read = |end: &OwnedFd| nix::unistd::read(end, chunk).map_err(io::Error::from);
        self.0.try_io(Interest::READABLE, read)
    }

    /// Writes without waiting.
    pub fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        let write = |end: &OwnedFd| nix::unistd::write(end, bytes).map_err(io::Error::from);
        self.0.try_io(Interest::WRITABLE, write)
    }

    /// Changes the size, which the program notices by SIGWINCH.
    ///
    /// # Errors
    /// As `TIOCSWINSZ`.
    pub fn resize(&self, size: TtySize) -> Result<(), Errno> {
        sys::set_window_size(self.0.get_ref().as_raw_fd(), winsize(size))
    }
}

impl AsFd for Terminal {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.get_ref().as_fd()
    }
}

fn winsize(TtySize { cols, rows }: TtySize) -> Winsize {
    Winsize { ws_row: rows, ws_col: cols, ws_xpixel: 0, ws_ypixel: 0 }
}
