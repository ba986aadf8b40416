//! The only place that waits for children: those of execs, and orphans that came to us.
//!
//! ```text
//! SIGCHLD ─▶ waitpid until none is dead ─▶ the exec that spawned the pid, or nobody
//! ```

use std::collections::HashMap;
use std::convert::Infallible;
use std::io;
use std::process::{Child, Command, ExitStatus};
use std::sync::{Mutex, PoisonError};

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;

use crate::sys;

/// Spawns children and learns how they ended.
#[derive(Debug, Default)]
pub struct Reaper {
    /// Who waits for which pid. The lock is held while a child is spawned and entered, and
    /// while children are reaped, so that none can end before it is entered.
    waiting: Mutex<HashMap<u32, oneshot::Sender<ExitStatus>>>,
}

impl Reaper {
    /// Starts `command`. Never wait on the child itself.
    ///
    /// # Errors
    /// As [`Command::spawn`].
    pub fn spawn(
        &self,
        command: &mut Command,
    ) -> io::Result<(Child, oneshot::Receiver<ExitStatus>)> {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let child = command.spawn()?;
        let (ended, exit) = oneshot::channel();
        waiting.insert(child.id(), ended);
        Ok((child, exit))
    }

    /// Reaps until the runtime ends, and calls `after` when some were reaped.
    ///
    /// # Errors
    /// When SIGCHLD cannot be watched.
    pub async fn run(&self, after: impl Fn()) -> io::Result<Infallible> {
        let mut child_ended = signal(SignalKind::child())?;
        loop {
            self.reap();
            after();
            child_ended.recv().await;
        }
    }

    fn reap(&self) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        while let Some((pid, status)) = sys::reap_one() {
            if let Some(ended) = waiting.remove(&pid) {
                // Nobody listens when the exec's connection is gone.
                ended.send(status).ok();
            }
        }
    }
}
