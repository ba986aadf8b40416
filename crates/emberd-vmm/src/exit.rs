//! How a VMM ended, and a handle to wait for it.

use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tokio::sync::watch;

/// Longest wait for one killed process to end; a healthy kernel needs far less.
const END_WAIT_MAX: Duration = Duration::from_secs(10);

/// Waits until the process behind `pidfd`, which was killed, has ended. Blocks.
pub(crate) fn wait_for_end(pidfd: &OwnedFd) -> io::Result<()> {
    let timeout = Timespec::try_from(END_WAIT_MAX).expect("ten seconds are few");
    match poll(&mut [PollFd::new(pidfd, PollFlags::IN)], Some(&timeout))? {
        0 => Err(io::ErrorKind::TimedOut.into()),
        _ => Ok(()),
    }
}

/// How a VMM process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExitReason {
    /// The process exited by itself: the guest rebooted or panicked, or the VMM failed.
    Code(i32),
    /// As [`Self::Code`], with a code whose meaning its driver knows.
    Named {
        /// The code.
        code: i32,
        /// Meaning of the code.
        cause: &'static str,
        /// The refused system call, if that is the cause and the log names it.
        syscall: Option<u32>,
    },
    /// A signal ended it.
    Signal(i32),
    /// The kernel ended it: with its guest it would have taken more memory than its cgroup has.
    OutOfMemory,
    /// The process ended, and nobody knows how: the daemon ignores `SIGCHLD`, or an earlier one
    /// started the process on a kernel before 6.15.
    Unknown,
}

impl fmt::Display for ExitReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code(code) => write!(f, "exited with code {code}"),
            Self::Named { code, cause, syscall: None } => {
                write!(f, "exited with code {code} ({cause})")
            }
            Self::Named { code, cause, syscall: Some(number) } => {
                write!(f, "exited with code {code} ({cause}: system call {number})")
            }
            Self::Signal(signal) => write!(f, "was killed by signal {signal}"),
            Self::OutOfMemory => f.write_str("ran out of the memory of its cgroup"),
            Self::Unknown => f.write_str("ended for an unknown reason"),
        }
    }
}

/// Waits for one VMM's end. Clones wait independently; none keeps the VMM alive.
#[derive(Debug, Clone)]
pub struct ExitWatch {
    reason: watch::Receiver<Option<ExitReason>>,
    pidfd: Arc<OwnedFd>,
}

impl ExitWatch {
    /// A watch on the process behind `pidfd`, and the sender a driver reports its end with.
    pub(crate) fn channel(pidfd: Arc<OwnedFd>) -> (watch::Sender<Option<ExitReason>>, Self) {
        let (sender, reason) = watch::channel(None);
        (sender, Self { reason, pidfd })
    }

    /// Whether the VMM process runs now. Asks the kernel: the end may be reported a moment later.
    pub fn is_running(&self) -> bool {
        let mut fds = [PollFd::new(&self.pidfd, PollFlags::IN)];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        self.reason().is_none() && matches!(poll(&mut fds, Some(&now)), Ok(0))
    }

    /// How the VMM ended, if it has.
    pub fn reason(&self) -> Option<ExitReason> {
        *self.reason.borrow()
    }

    /// Waits until the VMM process has ended. Cancel safe.
    ///
    /// # Panics
    /// When a driver dropped its sender without reporting: a driver always does.
    pub async fn wait(&mut self) -> ExitReason {
        let reason = self.reason.wait_for(Option::is_some).await.expect("drivers report the end");
        reason.expect("waited for it")
    }
}
