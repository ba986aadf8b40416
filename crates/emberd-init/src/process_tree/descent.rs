//! Finds a process tree in `/proc`.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use nix::sys::signal::{Signal, kill as send_signal};
use nix::unistd::Pid;

/// Maximum number of scans of `/proc` for processes that were forked since the last one.
const LOOKS_MAX: usize = 32;

/// Kills `leader`, its descendants and its session.
///
/// Stops all of them first, until a scan finds no new one. A process that is killed at once would
/// leave its children to another parent, and they could no longer be recognised.
pub fn kill(proc: &Path, leader: i32) {
    let mut stopped = BTreeSet::new();
    for _ in 0..LOOKS_MAX {
        let tree = members(&processes(proc), leader);
        let mut found_new = false;
        for pid in tree {
            if stopped.insert(pid) {
                found_new = true;
                signal(pid, Signal::SIGSTOP);
            }
        }
        if !found_new {
            break;
        }
    }
    for pid in stopped {
        signal(pid, Signal::SIGKILL);
    }
}

/// Returns `leader`, its descendants and its session, as they are now.
pub fn tree(proc: &Path, leader: i32) -> Vec<i32> {
    members(&processes(proc), leader).into_iter().collect()
}

/// Returns the living descendants of `root`, as they are now.
pub fn living_below(proc: &Path, root: u32) -> Vec<u32> {
    let processes = processes(proc);
    let root = root.cast_signed();
    let mut below = members(&processes, root);
    below.remove(&root);
    let living = processes.iter().filter(|process| !process.dead && below.contains(&process.pid));
    living.map(|process| process.pid.cast_unsigned()).collect()
}

/// Sends `what`; it is not an error if the process has just ended.
pub fn signal(pid: i32, what: Signal) {
    send_signal(Pid::from_raw(pid), what).ok();
}

/// One line of the process table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Process {
    pid: i32,
    parent: i32,
    session: i32,
    /// Whether the process has ended and is not reaped yet.
    dead: bool,
}

impl Process {
    /// Parses `/proc/<pid>/stat`: `pid (name) state ppid pgrp session …` (proc(5)). The program
    /// chooses the name, which may contain spaces and parentheses.
    fn parse(stat: &str) -> Option<Self> {
        let (pid, rest) = stat.split_once(' ')?;
        let (_name, rest) = rest.rsplit_once(')')?;
        let mut fields = rest.split_ascii_whitespace();
        let dead = matches!(fields.next()?, "Z" | "X");
        let parent = fields.next()?.parse().ok()?;
        let session = fields.nth(1)?.parse().ok()?;
        Some(Self { pid: pid.parse().ok()?, parent, session, dead })
    }
}

fn processes(proc: &Path) -> Vec<Process> {
    let Ok(entries) = fs::read_dir(proc) else { return Vec::new() };
    let stat = |name: &str| fs::read(proc.join(name).join("stat")).ok();
    entries
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| name.bytes().all(|byte| byte.is_ascii_digit()))
        .filter_map(|name| Process::parse(&String::from_utf8_lossy(&stat(&name)?)))
        .collect()
}

/// Returns the processes of `leader`'s session, and all their descendants in any session.
fn members(processes: &[Process], leader: i32) -> BTreeSet<i32> {
    let mut tree = BTreeSet::from([leader]);
    loop {
        let size_before = tree.len();
        for process in processes {
            if process.session == leader || tree.contains(&process.parent) {
                tree.insert(process.pid);
            }
        }
        if tree.len() == size_before {
            return tree;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stat_is_parsed_whatever_the_program_calls_itself() {
        let expect = Some(Process { pid: 42, parent: 7, session: 9, dead: false });
        assert_eq!(Process::parse("42 (sh) S 7 8 9 0 -1 4194304"), expect);
        assert_eq!(Process::parse("42 (a) R 1 1 1) S 7 8 9 0 -1"), expect);
        let dead = expect.map(|process| Process { dead: true, ..process });
        assert_eq!(Process::parse("42 (sh) Z 7 8 9 0 -1"), dead);
        assert_eq!(Process::parse("42 (sh) S 7 8"), None);
        assert_eq!(Process::parse("42 (sh"), None);
        assert_eq!(Process::parse(""), None);
    }

    #[test]
    fn tree_holds_session_and_descendants_and_nobody_else() {
        let process = |pid, parent, session| Process { pid, parent, session, dead: false };
        let table = [
            process(1, 0, 1),
            process(14, 12, 14), // grandchild, listed before its parent
            process(10, 1, 10),  // the leader
            process(11, 1, 10),  // an orphan in its session
            process(12, 10, 12), // a child with its own session
            process(20, 1, 20),  // a stranger
        ];
        assert_eq!(members(&table, 10), BTreeSet::from([10, 11, 12, 14]));
    }

    #[test]
    fn own_process_is_in_the_table() {
        let own = std::process::id().cast_signed();
        assert!(processes(Path::new("/proc")).iter().any(|process| process.pid == own));
    }
}
