//! The virtio disks of a guest: the root image, which is read-only, and its own disk.
//!
//! Their names depend on the order in which the board presents them, so they are told apart by
//! whether they can be written to.

use std::fs;
use std::path::Path;
use std::time::Instant;

use emberd_proto::message::DISK_ARGUMENT;

use crate::uevents::Uevents;

/// Directory in which the kernel lists disks.
const BLOCK_DIR: &str = "/sys/block";

/// Devices of the virtio disks that a VMM attaches.
const NODES: [&str; 2] = ["/dev/vda", "/dev/vdb"];

/// Operations that a disk allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Reading only: the root image.
    Read,
    /// Writing too: the guest's own disk.
    Write,
}

/// A disk.
#[derive(Debug, PartialEq, Eq)]
pub struct Disk {
    /// Path of its device.
    pub node: &'static str,
    discards: bool,
}

impl Disk {
    /// Returns the options with which its ext4 is mounted. The file behind it is new and reads as
    /// zeros, so no table of inodes is cleared, which would fill it. Blocks of deleted files go
    /// back to the host if it takes them.
    pub fn mount_options(&self) -> &'static str {
        if self.discards { "noinit_itable,discard" } else { "noinit_itable" }
    }
}

/// Returns whether the VMM gives the guest a disk of its own.
pub fn has_disk() -> bool {
    let command_line = fs::read_to_string("/proc/cmdline").unwrap_or_default();
    command_line.split_ascii_whitespace().any(|word| word == DISK_ARGUMENT)
}

/// Waits for the disk that allows `access`; `None` after `deadline`.
pub fn wait(uevents: &Uevents, deadline: Instant, access: Access) -> Option<Disk> {
    loop {
        if let Some(disk) =
            find(Path::new(BLOCK_DIR), access).filter(|disk| Path::new(disk.node).exists())
        {
            return Some(disk);
        }
        if !uevents.wait_until(deadline) {
            return None;
        }
    }
}

fn find(block_dir: &Path, access: Access) -> Option<Disk> {
    let says = |node: &str, attribute: &str, value: &[u8]| {
        let name = node.trim_start_matches("/dev/");
        let said = fs::read(block_dir.join(name).join(attribute));
        said.is_ok_and(|said| said == value)
    };
    let expected: &[u8] = match access {
        Access::Read => b"1\n",
        Access::Write => b"0\n",
    };
    let node = NODES.into_iter().find(|node| says(node, "ro", expected))?;
    Some(Disk { node, discards: !says(node, "queue/discard_max_bytes", b"0\n") })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn disks_are_told_apart_by_what_they_allow() {
        let block_dir = tempfile::tempdir().unwrap();
        let add = |name: &str, ro: &str, discard: &str| {
            let dir = block_dir.path().join(name);
            fs::create_dir_all(dir.join("queue")).unwrap();
            fs::write(dir.join("ro"), ro).unwrap();
            fs::write(dir.join("queue/discard_max_bytes"), discard).unwrap();
        };
        assert_eq!(find(block_dir.path(), Access::Read), None);
        add("loop0", "0\n", "4096\n");
        assert_eq!(find(block_dir.path(), Access::Write), None, "no virtio disk");
        add("vda", "0\n", "4294966784\n");
        add("vdb", "1\n", "0\n");
        let own = find(block_dir.path(), Access::Write).unwrap();
        assert_eq!((own.node, own.mount_options()), ("/dev/vda", "noinit_itable,discard"));
        let image = find(block_dir.path(), Access::Read).unwrap();
        assert_eq!((image.node, image.mount_options()), ("/dev/vdb", "noinit_itable"));
    }
}
