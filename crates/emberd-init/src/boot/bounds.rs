//! Limits on the memory that files and other objects may take after their program ended.
//!
//! No file system here has a disk. Files, inodes and System V objects take memory that the kernel
//! cannot free by killing a program. Their total is limited, with memory left for the kernel, the
//! agent and a program that removes them.

use std::fs;
use std::io;
use std::path::Path;

use crate::process_tree::CGROUPS_MAX_FILE;
use crate::residents::EVENTS_BYTES_MAX;

/// Memory of the machine per inode of the disk, in bytes (16 KiB), which allows 6 KiB of files
/// for each. An inode with its name takes 1 KiB of the kernel's memory.
const BYTES_PER_INODE: u64 = 16 << 10;

/// Minimum size of the file system for the code of running execs, in bytes (9 MiB): the longest
/// code, and the files beside it.
const SCRATCH_BYTES_MIN: u64 = 9 << 20;

/// Inodes for running execs: a directory and a file for each of the maximum number.
const SCRATCH_INODES: u64 = 4096;

/// Size limit of `/dev`, in bytes (1 MiB). Devices take none of it.
const DEVICES_BYTES: u64 = 1 << 20;

/// Inode limit of `/dev`: several times what kernels create there.
const DEVICES_INODES: u64 = 1024;

/// Memory of the machine for each cgroup below the root, in bytes (256 KiB): a program in it needs
/// as much. A cgroup takes 9 KiB of the kernel's memory, 25 with every controller on.
const BYTES_PER_CGROUP: u64 = 256 << 10;

/// Least limit of cgroups: three times the number of execs and processes there can be at once.
const CGROUPS_MIN: u64 = 1024;

/// Size of a page, in bytes.
const PAGE_BYTES: u64 = 4 << 10;

/// Limits of all file systems: less than two thirds of the memory in total, including inodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    disk: Bound,
    shared: Bound,
    scratch: Bound,
    /// Shared memory of System V, in bytes.
    system_v_bytes: u64,
    /// Directories in the tree of cgroups.
    cgroups: u64,
    /// Events of processes and contexts, in bytes.
    events_bytes: usize,
}

/// Limits of one file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Bound {
    bytes: u64,
    inodes: u64,
}

impl Bounds {
    /// Returns the limits for this machine.
    ///
    /// # Errors
    /// If `/proc` does not report the size of the memory.
    pub fn of_machine() -> io::Result<Self> {
        let meminfo = fs::read_to_string("/proc/meminfo")?;
        let memory = memory_bytes(&meminfo).ok_or(io::ErrorKind::InvalidData)?;
        Ok(Self::of(memory))
    }

    /// Returns the limits for a machine with `memory` bytes.
    fn of(memory: u64) -> Self {
        Self {
            disk: Bound { bytes: memory / 8 * 3, inodes: memory / BYTES_PER_INODE },
            shared: Bound { bytes: memory / 8, inodes: memory / BYTES_PER_INODE / 8 },
            scratch: Bound { bytes: (memory / 32).max(SCRATCH_BYTES_MIN), inodes: SCRATCH_INODES },
            system_v_bytes: memory / 32,
            cgroups: (memory / BYTES_PER_CGROUP).max(CGROUPS_MIN),
            events_bytes: usize::try_from(memory / 16).unwrap_or(usize::MAX).min(EVENTS_BYTES_MAX),
        }
    }

    /// Returns the mount options of the tmpfs for everything that is written below `/`.
    pub fn disk_options(&self) -> String {
        self.disk.options("0755")
    }

    /// Returns the mount options of the tmpfs for `/dev/shm` and `/run`, which can fill up
    /// independently of the disk.
    pub fn shared_options(&self) -> String {
        self.shared.options("0755")
    }

    /// Returns the mount options of the tmpfs for the code of running execs, which can be written
    /// when the others are full.
    pub fn scratch_options(&self) -> String {
        self.scratch.options("0711")
    }

    /// Limits the memory of System V objects, which outlive their program. A kernel without them
    /// needs no limit.
    pub fn hold_shared_objects(&self) {
        let pages = self.system_v_bytes / PAGE_BYTES;
        for (name, value) in [
            ("shmall", pages.to_string()),
            // 16 KiB in each queue.
            ("msgmni", "128".to_owned()),
            // Semaphores per set, in all sets, operations per call, sets.
            ("sem", "250 32000 100 128".to_owned()),
        ] {
            fs::write(format!("/proc/sys/kernel/{name}"), value).ok();
        }
    }

    /// Returns the maximum total size of the events that the agent keeps of processes and contexts.
    pub fn events_bytes(&self) -> usize {
        self.events_bytes
    }

    /// Bounds the cgroups below `root`, which programs of root can make as others make
    /// directories.
    ///
    /// # Errors
    /// When the kernel does not take it.
    pub fn hold_cgroups(&self, root: &Path) -> io::Result<()> {
        fs::write(root.join(CGROUPS_MAX_FILE), self.cgroups.to_string())
    }
}

impl Bound {
    fn options(self, mode: &str) -> String {
        let Self { bytes, inodes } = self;
        format!("mode={mode},size={bytes},nr_inodes={inodes}")
    }
}

/// Returns the mount options of `/dev`, which is a tmpfs of the kernel.
pub fn devices_options() -> String {
    Bound { bytes: DEVICES_BYTES, inodes: DEVICES_INODES }.options("0755")
}

/// Parses `/proc/meminfo`.
fn memory_bytes(meminfo: &str) -> Option<u64> {
    let total = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kib: u64 = total.split_whitespace().next()?.parse().ok()?;
    kib.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Kernel memory of an inode with a name of usual length.
    const INODE_BYTES: u64 = 1 << 10;

    /// What one cgroup takes of it with every controller on.
    const CGROUP_BYTES: u64 = 25 << 10;

    #[test]
    fn all_that_can_be_filled_leaves_a_third_of_the_memory() {
        for mib in [192, 256, 512, 4096, 65_536] {
            let memory = mib << 20;
            let Bounds { disk, shared, scratch, system_v_bytes, cgroups, events_bytes } =
                Bounds::of(memory);
            let whole = |bound: Bound| bound.bytes + bound.inodes * INODE_BYTES;
            let devices = DEVICES_BYTES + DEVICES_INODES * INODE_BYTES;
            let all = whole(disk) + whole(shared) + scratch.bytes + system_v_bytes + devices;
            assert!(all <= memory / 3 * 2, "{mib} MiB: {} MiB", all >> 20);
            let all = all + cgroups * CGROUP_BYTES;
            assert!(all <= memory / 5 * 4, "{mib} MiB: {} MiB with cgroups", all >> 20);
            let all = all + events_bytes as u64;
            assert!(all <= memory / 8 * 7, "{mib} MiB: {} MiB with events", all >> 20);
        }
    }

    #[test]
    fn a_machine_is_divided_by_what_its_kernel_counts() {
        let meminfo = "MemFree: 1 kB\nMemTotal:         262144 kB\n";
        let bounds = Bounds::of(memory_bytes(meminfo).unwrap());
        assert_eq!(bounds.disk_options(), "mode=0755,size=100663296,nr_inodes=16384");
        assert_eq!(bounds.shared_options(), "mode=0755,size=33554432,nr_inodes=2048");
        assert_eq!(bounds.scratch_options(), "mode=0711,size=9437184,nr_inodes=4096");
        let root = tempfile::tempdir().unwrap();
        bounds.hold_cgroups(root.path()).unwrap();
        assert_eq!(fs::read_to_string(root.path().join(CGROUPS_MAX_FILE)).unwrap(), "1024");
        for unreadable in ["", "MemTotal:", "MemTotal: x kB", "MemTotal: 18446744073709551615 kB"] {
            assert_eq!(memory_bytes(unreadable), None, "{unreadable}");
        }
    }
}
