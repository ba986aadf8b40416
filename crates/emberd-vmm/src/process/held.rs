//! The process of a VMM: a child of this daemon, or one that an earlier daemon started.
//!
//! Only a parent can wait for a process. The other processes are known by a pidfd, which never
//! comes to mean another process and tells of the end.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Child, ExitStatus};
use std::sync::Arc;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::time::sleep;

use crate::exit::wait_for_end;
use crate::sys;

/// Looks for the exit status of a process that ended, and the time between two. The kernel has it
/// once the process was reaped, which init does at once.
const STATUS_LOOKS: usize = 20;
const STATUS_PAUSE: Duration = Duration::from_millis(10);

/// See the module.
#[derive(Debug)]
pub(super) enum Held {
    Child(Child),
    Adopted(Adopted),
}

/// A process that an earlier daemon started.
#[derive(Debug)]
pub(super) struct Adopted {
    pidfd: Arc<OwnedFd>,
    killed: bool,
}

impl Held {
    pub(super) fn adopted(pidfd: Arc<OwnedFd>) -> Self {
        Self::Adopted(Adopted { pidfd, killed: false })
    }

    /// Sends SIGKILL to the process and its group, unless it has ended.
    pub(super) fn kill(&mut self) -> io::Result<()> {
        match self {
            // Once it was reaped, its id may belong to another process.
            Self::Child(child) => match child.try_wait() {
                Ok(None) => Ok(kill_process_group(Pid::from_child(child), Signal::KILL)?),
                _ => Ok(()),
            },
            Self::Adopted(adopted) => {
                adopted.killed = sys::kill(&adopted.pidfd)?;
                Ok(())
            }
        }
    }

    /// Waits for the end of a process that was killed or has ended, and reaps a child.
    pub(super) fn wait(&mut self) -> Option<ExitStatus> {
        match self {
            Self::Child(child) => child.wait().ok(),
            Self::Adopted(adopted) => {
                if let Err(error) = wait_for_end(&adopted.pidfd) {
                    tracing::warn!(%error, "a killed VMM has not ended");
                }
                adopted.status()
            }
        }
    }
}

impl Adopted {
    fn status(&self) -> Option<ExitStatus> {
        let killed = || ExitStatus::from_raw(Signal::KILL.as_raw());
        sys::exit_status(&self.pidfd).or_else(|| self.killed.then(killed))
    }
}

/// Waits until the exit status of a process that has ended is there to be read, if it ever is.
pub(super) async fn settle(pidfd: &OwnedFd) {
    for _ in 0..STATUS_LOOKS {
        if sys::exit_status(pidfd).is_some() {
            return;
        }
        sleep(STATUS_PAUSE).await;
    }
}
