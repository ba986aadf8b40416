//! Ends what a fake's agent started: a real guest's processes end with their machine.

use std::collections::BTreeSet;

use rustix::process::{Pid, Signal, kill_process};

use crate::record::Record;

/// Most looks for processes started since the last look.
const LOOKS_MAX: usize = 32;

/// All descendants of one agent; killed when dropped, while the agent still lives.
#[derive(Debug)]
pub(super) struct Offspring {
    agent: Option<Record>,
}

impl Offspring {
    /// The offspring of the process `agent`.
    pub(super) fn of(agent: u32) -> Self {
        Self { agent: Record::of(agent).ok().flatten() }
    }
}

impl Drop for Offspring {
    fn drop(&mut self) {
        let Some(agent) = &self.agent else { return };
        // Once the agent is reaped its process id may be a stranger's.
        if !matches!(Record::of(agent.pid), Ok(Some(now)) if now == *agent) {
            return;
        }
        let root = agent.pid.cast_signed();
        // Stopped, it starts no further ones while it inherits the orphans of those killed.
        signal(root, Signal::STOP);
        let mut killed = BTreeSet::new();
        for _ in 0..LOOKS_MAX {
            let found: Vec<_> =
                descendants(root).into_iter().filter(|pid| killed.insert(*pid)).collect();
            if found.is_empty() {
                break;
            }
            for pid in found {
                signal(pid, Signal::KILL);
            }
        }
    }
}

fn signal(pid: i32, what: Signal) {
    // One that has just ended is as good as killed.
    Pid::from_raw(pid).and_then(|pid| kill_process(pid, what).ok());
}

fn descendants(root: i32) -> Vec<i32> {
    let mut found = children(root);
    let mut next = 0;
    while let Some(pid) = found.get(next) {
        found.extend(children(*pid));
        next += 1;
    }
    found
}

/// The children of all threads of `pid` (`/proc/<pid>/task/<tid>/children`, proc(5)).
fn children(pid: i32) -> Vec<i32> {
    let Ok(threads) = std::fs::read_dir(format!("/proc/{pid}/task")) else { return Vec::new() };
    let lists = threads
        .filter_map(|thread| std::fs::read_to_string(thread.ok()?.path().join("children")).ok());
    lists
        .flat_map(|list| list.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
        .filter_map(|pid| pid.parse().ok())
        .collect()
}
