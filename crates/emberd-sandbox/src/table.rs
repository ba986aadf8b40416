//! The sandboxes callers hold, by id.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use crate::SandboxId;
use crate::create::CreateError;
use crate::sandbox::{Sandbox, SandboxView};

/// See the module.
pub(crate) struct Table {
    sandboxes_max: usize,
    entries: Mutex<Entries>,
}

struct Entries {
    by_id: HashMap<SandboxId, Entry>,
    next_serial: u64,
    closed: bool,
}

struct Entry {
    sandbox: Arc<Sandbox>,
    /// Grows with every sandbox: the order of creation.
    serial: u64,
    created_at: SystemTime,
}

impl Table {
    pub fn new(sandboxes_max: usize) -> Self {
        let entries = Entries { by_id: HashMap::new(), next_serial: 0, closed: false };
        Self { sandboxes_max, entries: Mutex::new(entries) }
    }

    /// Enters what `pick` picks, if one more is allowed; else nothing is picked.
    pub fn enter<T>(
        &self,
        pick: impl FnOnce() -> T,
        sandbox: impl FnOnce(&T) -> &Arc<Sandbox>,
    ) -> Result<T, CreateError> {
        let mut entries = self.lock();
        if entries.closed {
            return Err(CreateError::ShuttingDown);
        }
        if entries.by_id.len() >= self.sandboxes_max {
            return Err(CreateError::TooMany(entries.by_id.len()));
        }
        let picked = pick();
        let sandbox = Arc::clone(sandbox(&picked));
        let (serial, created_at) = (entries.next_serial, SystemTime::now());
        entries.next_serial += 1;
        entries.by_id.insert(sandbox.id, Entry { sandbox, serial, created_at });
        Ok(picked)
    }

    pub fn find(&self, id: SandboxId) -> Option<Arc<Sandbox>> {
        self.lock().by_id.get(&id).map(|entry| Arc::clone(&entry.sandbox))
    }

    pub fn remove(&self, id: SandboxId) -> Option<Arc<Sandbox>> {
        self.lock().by_id.remove(&id).map(|entry| entry.sandbox)
    }

    pub fn view(&self, id: SandboxId) -> Option<SandboxView> {
        self.lock().by_id.get(&id).map(|entry| entry.sandbox.view(entry.created_at))
    }

    /// All sandboxes, oldest first.
    pub fn views(&self) -> Vec<SandboxView> {
        let entries = self.lock();
        let mut sandboxes: Vec<_> = entries
            .by_id
            .values()
            .map(|entry| (entry.serial, Arc::clone(&entry.sandbox), entry.created_at))
            .collect();
        drop(entries);
        sandboxes.sort_unstable_by_key(|(serial, ..)| *serial);
        sandboxes.iter().map(|(_, sandbox, created_at)| sandbox.view(*created_at)).collect()
    }

    pub fn count(&self) -> usize {
        self.lock().by_id.len()
    }

    pub fn is_closed(&self) -> bool {
        self.lock().closed
    }

    /// Lets no more in, and cuts off the creations under way.
    pub fn close(&self) {
        let mut entries = self.lock();
        entries.closed = true;
        let sandboxes = entries.by_id.values().map(|entry| &entry.sandbox);
        for sandbox in sandboxes.filter(|sandbox| sandbox.ready.get().is_none()) {
            sandbox.ending.cancel();
        }
    }

    /// Takes all out.
    pub fn drain(&self) -> Vec<Arc<Sandbox>> {
        self.lock().by_id.drain().map(|(_, entry)| entry.sandbox).collect()
    }

    /// No code that could panic half-way through a change runs under this lock.
    fn lock(&self) -> MutexGuard<'_, Entries> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
