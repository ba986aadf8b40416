//! Resources of a microVM outside of its directory: mounts below it, and control groups.
//!
//! A file in the directory lists them before they are made, so that the removal of the directory,
//! even by another daemon after a crash, can release them first.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::mount::{UnmountFlags, unmount};
use serde::{Deserialize, Serialize};

/// Most attempts to remove a cgroup while its last processes end, and the time between two.
const REMOVALS_MAX: usize = 100;
const REMOVAL_RETRY: Duration = Duration::from_millis(2);

/// Name of the list in a microVM's directory.
const HOLDINGS_FILE: &str = "holdings.json";

/// Resources of a microVM outside of its directory.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Holdings {
    /// Directories in cgroup hierarchies that hold this microVM's processes alone.
    pub(crate) cgroups: Vec<PathBuf>,
}

impl Holdings {
    /// Lists them in `dir`.
    pub(crate) fn write(&self, dir: &Path) -> io::Result<()> {
        std::fs::write(dir.join(HOLDINGS_FILE), serde_json::to_vec(self)?)
    }
}

/// Makes sure that there is a list in `dir`, so that mounts below it are released.
pub(crate) fn list(dir: &Path) -> io::Result<()> {
    if dir.join(HOLDINGS_FILE).exists() { Ok(()) } else { Holdings::default().write(dir) }
}

/// Releases the resources of the microVM of `dir`. Its process must have ended.
pub(crate) fn release(dir: &Path) -> io::Result<()> {
    let listed = match std::fs::read(dir.join(HOLDINGS_FILE)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        listed => listed?,
    };
    let mounts = std::fs::read_to_string("/proc/self/mountinfo")?;
    let dir = dir.canonicalize()?;
    // The last mounted comes off first.
    for mount in mounts.lines().rev().filter_map(mount_point) {
        if mount.starts_with(&dir) {
            unmount(mount, UnmountFlags::DETACH)?;
        }
    }
    // A torn list is one of a microVM that was never started.
    let holdings: Holdings = serde_json::from_slice(&listed).unwrap_or_default();
    holdings.cgroups.iter().try_for_each(|cgroup| remove(cgroup))
}

/// Ends what is left in a cgroup, and removes it.
fn remove(cgroup: &Path) -> io::Result<()> {
    let mut attempts = 1;
    loop {
        match std::fs::remove_dir(cgroup) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            // A process that the VMM started has outlived it. The kernel ends it soon after.
            Err(error)
                if error.kind() == io::ErrorKind::ResourceBusy && attempts < REMOVALS_MAX =>
            {
                attempts += 1;
                // Linux before 5.14 has no such file.
                drop(std::fs::write(cgroup.join("cgroup.kill"), "1"));
                std::thread::sleep(REMOVAL_RETRY);
            }
            outcome => return outcome,
        }
    }
}

/// Returns whether the kernel has ended a process in the cgroups of the microVM of `dir` because it
/// ran out of memory (`memory.events` of cgroup-v2).
pub(crate) fn ran_out_of_memory(dir: &Path) -> bool {
    let listed = std::fs::read(dir.join(HOLDINGS_FILE)).unwrap_or_default();
    let holdings: Holdings = serde_json::from_slice(&listed).unwrap_or_default();
    holdings.cgroups.iter().any(|cgroup| {
        let events = std::fs::read_to_string(cgroup.join("memory.events")).unwrap_or_default();
        let kills = events.lines().filter_map(|line| line.strip_prefix("oom_kill "));
        kills.filter_map(|number| number.parse().ok()).any(|number: u64| number > 0)
    })
}

/// Where a line of `/proc/self/mountinfo` mounts (field 5, with octal escapes).
fn mount_point(line: &str) -> Option<PathBuf> {
    let escaped = line.split(' ').nth(4)?;
    let mut parts = escaped.split('\\');
    let mut path = parts.next()?.to_owned();
    for part in parts {
        let code = u8::from_str_radix(part.get(..3)?, 8).ok()?;
        path.push(char::from(code));
        path.push_str(&part[3..]);
    }
    Some(path.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mount_points_are_unescaped() {
        let line = r"36 35 98:0 /a /mnt/with\040space\134x rw shared:1 - ext4 /dev/sda rw";
        assert_eq!(mount_point(line), Some(PathBuf::from(r"/mnt/with space\x")));
        assert_eq!(mount_point("36 35"), None);
    }

    #[test]
    fn cgroups_are_removed_and_a_second_release_finds_nothing_amiss() {
        let dir = tempfile::tempdir().unwrap();
        let cgroup = tempfile::tempdir().unwrap().keep();
        Holdings { cgroups: vec![cgroup.clone()] }.write(dir.path()).unwrap();
        release(dir.path()).unwrap();
        assert!(!cgroup.exists());
        release(dir.path()).unwrap();
    }

    #[test]
    fn no_list_and_a_torn_list_release_nothing() {
        let dir = tempfile::tempdir().unwrap();
        release(dir.path()).unwrap();
        std::fs::write(dir.path().join(HOLDINGS_FILE), "{\"cgr").unwrap();
        release(dir.path()).unwrap();
    }
}
