//! How a VMM ended, and a handle to wait for it.

use std::fmt;

use tokio::sync::watch;

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
    /// The process ended, but the kernel kept no status (the daemon ignores `SIGCHLD`).
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
            Self::Unknown => f.write_str("ended for an unknown reason"),
        }
    }
}

/// Waits for one VMM's end. Clones wait independently; none keeps the VMM alive.
#[derive(Debug, Clone)]
pub struct ExitWatch {
    reason: watch::Receiver<Option<ExitReason>>,
}

impl ExitWatch {
    /// A watch and the sender a driver reports the end with.
    pub fn channel() -> (watch::Sender<Option<ExitReason>>, Self) {
        let (sender, reason) = watch::channel(None);
        (sender, Self { reason })
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
