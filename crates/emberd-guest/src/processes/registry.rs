//! The processes of one guest, and those that have just ended.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::error::ProcessError;
use super::process::Process;

/// Most processes one sandbox runs at once. Each holds a connection to the guest, and up to
/// [`EVENT_BYTES_MAX`](crate::EVENT_BYTES_MAX) of the host's memory.
pub const PROCESSES_MAX: usize = 256;

/// Most ended processes kept for one sandbox; beyond that the one that ended first is dropped.
pub const ENDED_MAX: usize = 256;

/// Most bytes of output kept of all ended processes of one sandbox (32 MiB); beyond that the one
/// that ended first is dropped.
pub const ENDED_BYTES_MAX: usize = 32 << 20;

/// Time that an ended process is kept for late clients.
pub const ENDED_KEPT: Duration = Duration::from_secs(600);

/// See the module.
#[derive(Debug)]
pub(crate) struct Registry {
    /// One permit for each that may run.
    permits: Arc<Semaphore>,
    by_pid: Mutex<BTreeMap<u32, Process>>,
}

impl Default for Registry {
    fn default() -> Self {
        Self { permits: Arc::new(Semaphore::new(PROCESSES_MAX)), by_pid: Mutex::default() }
    }
}

impl Registry {
    /// Returns every process, running or ended, by process id.
    pub fn all(&self) -> Vec<Process> {
        self.by_pid.lock().values().cloned().collect()
    }

    pub fn find(&self, pid: u32) -> Option<Process> {
        self.by_pid.lock().get(&pid).cloned()
    }

    /// Removes the record of `pid`.
    pub fn remove(&self, pid: u32) -> Option<Process> {
        self.by_pid.lock().remove(&pid)
    }

    pub fn permit(&self) -> Result<OwnedSemaphorePermit, ProcessError> {
        let permits = Arc::clone(&self.permits);
        permits.try_acquire_owned().map_err(|_| ProcessError::TooMany(PROCESSES_MAX))
    }

    /// Adds `process`; replaces an ended one with the same id.
    pub fn enter(&self, process: Process) {
        self.by_pid.lock().insert(process.pid(), process);
    }

    /// Drops the processes that ended first while the limits of number or bytes are exceeded.
    pub fn trim(&self) {
        let mut by_pid = self.by_pid.lock();
        let ended = by_pid.values().filter_map(|process| {
            let (at, bytes) = process.ended()?;
            Some((at, process.pid(), bytes))
        });
        let mut ended: Vec<_> = ended.collect();
        // The last that ended comes first.
        ended.sort_unstable_by(|one, other| other.cmp(one));
        let mut held_bytes = 0;
        for (count, (_, pid, bytes)) in ended.into_iter().enumerate() {
            held_bytes += bytes;
            if count >= ENDED_MAX || held_bytes > ENDED_BYTES_MAX {
                by_pid.remove(&pid);
            }
        }
    }

    /// Drops `process`, unless another process has its id now.
    pub fn forget(&self, process: &Process) {
        let mut by_pid = self.by_pid.lock();
        if by_pid.get(&process.pid()).is_some_and(|other| other.is(process)) {
            by_pid.remove(&process.pid());
        }
    }
}
