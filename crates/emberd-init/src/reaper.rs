//! The only place that waits for children: those of execs, and orphans that PID 1 inherits.
//!
//! ```text
//! SIGCHLD ─▶ waitpid until none is dead ─▶ who started the pid, or works with it, or nobody
//! zygote ──▶ it reaped a child of its own ─▶ who works with the pid, or nobody
//! ```

use std::collections::HashMap;
use std::convert::Infallible;
use std::io;
use std::process::ExitStatus;

use nix::errno::Errno;
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::unistd::Pid;
use parking_lot::{Mutex, MutexGuard};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;

use crate::process::NewProcess;
use crate::sys;

/// Sends how a process ended; dropped if that will never be known.
pub type Exit = oneshot::Receiver<ExitStatus>;

/// Starts children and reports how they ended.
#[derive(Debug, Default)]
pub struct Reaper {
    /// Locked while a child is started and registered, and while children are reaped, so that no
    /// child can end before it is registered.
    waiting: Mutex<Waiting>,
}

/// The waiting receivers, by pid.
#[derive(Debug, Default)]
struct Waiting {
    /// Children of this process.
    started: HashMap<u32, oneshot::Sender<ExitStatus>>,
    /// Children of the zygote, which this process inherits when the zygote dies. They are
    /// separate, because a pid that the zygote has reaped may be reused by this process before
    /// the zygote's message arrives.
    forked: HashMap<u32, oneshot::Sender<ExitStatus>>,
}

impl Reaper {
    /// Starts `process`.
    ///
    /// # Errors
    /// As [`sys::start`].
    pub fn start(&self, process: &NewProcess<'_>) -> io::Result<(u32, Exit)> {
        let mut waiting = self.waiting();
        let pid = sys::start(process)?;
        let (ended, exit) = oneshot::channel();
        waiting.started.insert(pid, ended);
        Ok((pid, exit))
    }

    /// Registers a child of the zygote.
    pub fn expect(&self, pid: u32) -> Exit {
        let (ended, exit) = oneshot::channel();
        self.waiting().forked.insert(pid, ended);
        exit
    }

    /// Handles the zygote's report that its child ended.
    pub fn report_end(&self, pid: u32, status: ExitStatus) {
        tell(self.waiting().forked.remove(&pid), status);
    }

    /// Unregisters those of `pids` that this process did not inherit when their zygote died. The
    /// zygote had reaped them, and its report is lost.
    pub fn orphaned(&self, pids: impl IntoIterator<Item = u32>) {
        let mut waiting = self.waiting();
        let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
        for pid in pids {
            if waitid(Id::Pid(Pid::from_raw(pid.cast_signed())), flags) == Err(Errno::ECHILD) {
                waiting.forked.remove(&pid);
            }
        }
    }

    /// Reaps children until the runtime ends, and calls `after` when some were reaped.
    ///
    /// # Errors
    /// If SIGCHLD cannot be watched.
    pub async fn run(&self, after: impl Fn()) -> io::Result<Infallible> {
        let mut child_ended = signal(SignalKind::child())?;
        loop {
            self.reap();
            after();
            child_ended.recv().await;
        }
    }

    fn reap(&self) {
        let mut waiting = self.waiting();
        while let Some((pid, status)) = sys::reap_one() {
            let started = waiting.started.remove(&pid);
            tell(started.or_else(|| waiting.forked.remove(&pid)), status);
        }
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock()
    }
}

/// Nobody listens when the exec's connection is gone.
fn tell(ended: Option<oneshot::Sender<ExitStatus>>, status: ExitStatus) {
    ended.map(|ended| ended.send(status).ok());
}
