//! Counts the processes of callers: everything below the agent but what it keeps for later.
//!
//! The pack's zygote, its spares and the interpreters of contexts wait for work and do not count.
//! What an interpreter has started does.

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::process_tree::living_below;

/// Processes that wait for work.
#[derive(Debug, Default)]
pub struct Kept(Arc<Mutex<HashSet<u32>>>);

/// A process that waits for work, until dropped.
#[derive(Debug)]
pub struct KeptProcess {
    kept: Arc<Mutex<HashSet<u32>>>,
    pid: u32,
}

impl Kept {
    /// Records that the process `pid` waits for work.
    pub fn keep(&self, pid: u32) -> KeptProcess {
        self.0.lock().insert(pid);
        KeptProcess { kept: Arc::clone(&self.0), pid }
    }

    /// Returns the number of processes of callers. A process that the zygote is just forking
    /// counts, too.
    pub fn program_count(&self) -> u32 {
        let below = living_below(Path::new("/proc"), std::process::id());
        let kept = self.0.lock();
        let programs = below.iter().filter(|pid| !kept.contains(pid)).count();
        u32::try_from(programs).unwrap_or(u32::MAX)
    }
}

impl KeptProcess {
    /// Returns the process id.
    pub fn pid(&self) -> u32 {
        self.pid
    }
}

impl Drop for KeptProcess {
    fn drop(&mut self) {
        self.kept.lock().remove(&self.pid);
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn children_count_unless_they_are_kept() {
        // Other tests have children, too.
        let kept = Kept::default();
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let is_counted = |kept: &Kept| {
            let below = living_below(Path::new("/proc"), std::process::id());
            below.contains(&child.id()) && !kept.0.lock().contains(&child.id())
        };
        assert!(is_counted(&kept));
        let waits = kept.keep(child.id());
        assert!(!is_counted(&kept));
        drop(waits);
        assert!(is_counted(&kept));
        assert!(kept.program_count() > 0);
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
