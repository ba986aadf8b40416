//! What code that broke out of a VMM would hold: nothing that others share can be changed.

use std::fs::{self, OpenOptions};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::Path;

use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, geteuid, pidfd_getfd, pidfd_open};

use super::{Daemon, of_pack};

/// Size of the disk of a sandbox (2 GiB).
const DISK_BYTES: u64 = 2 << 30;

/// A restored VMM's own descriptors, used as code in it could use them.
#[tokio::test(flavor = "multi_thread")]
async fn a_clone_s_vmm_cannot_change_what_others_are_made_from() {
    let Some(daemon) = Daemon::instant(&["--pool-size", "off"]) else { return };
    daemon.client.build_template("shell").await.unwrap();
    let sandbox = daemon.restored(&of_pack("shell")).await;
    let own_dir = daemon.run_dir.join(sandbox.id);
    let pid = Pid::from_raw(sandbox.vmm_pid.unwrap().cast_signed()).unwrap();
    let vmm = pidfd_open(pid, PidfdFlags::empty()).unwrap();
    let (mut memories, mut disks) = (0, 0);
    for (number, target) in descriptors(pid) {
        let fd = match pidfd_getfd(&vmm, number, PidfdGetfdFlags::empty()) {
            // The VMM has closed it since the list was read.
            Err(Errno::BADF) => continue,
            got => got.unwrap_or_else(|error| panic!("descriptor {number}, {target}: {error}")),
        };
        if target.starts_with("/memfd:") {
            memories += 1;
            check_unwritable(&fd, &target);
        } else if target.starts_with('/') && target != "/dev/null" {
            let file = fs::File::from(fd);
            let metadata = file.metadata().unwrap();
            // Its disk, which has no name, and its log.
            if metadata.is_file() && metadata.nlink() == 0 && metadata.len() == DISK_BYTES {
                disks += 1;
            } else if Path::new(&target) != own_dir.join("vm.log") {
                // Images, as QEMU opened them.
                file.write_at(b"x", 0).expect_err(&target);
            }
        }
    }
    assert!(memories > 0, "the guest's memory is that of the template");
    assert!(disks > 0, "the disk is the sandbox's own");
    let status = fs::read_to_string(format!("/proc/{}/status", pid.as_raw_nonzero())).unwrap();
    assert_eq!(field(&status, "NoNewPrivs"), "1");
    assert_eq!(field(&status, "Seccomp"), "2");
    if geteuid().is_root() {
        assert_eq!(field(&status, "CapEff"), "0000000000000000");
        assert_eq!(field(&status, "CapBnd"), "0000000000000000");
        assert_ne!(field(&status, "Uid").split_whitespace().next(), Some("0"));
    }
    let id = daemon.create("shell").await;
    assert_eq!(daemon.output(&id, "echo alive").await, "alive\n");
    daemon.stop();
}

/// Neither the descriptor nor the file opened again takes a byte.
fn check_unwritable(fd: &OwnedFd, target: &str) {
    let file = fs::File::from(fd.as_fd().try_clone_to_owned().unwrap());
    file.write_at(b"x", 0).expect_err(target);
    let name = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(fd));
    if let Ok(again) = OpenOptions::new().read(true).write(true).open(name) {
        again.write_at(b"x", 0).expect_err(target);
        again.set_len(0).expect_err(target);
    }
}

/// Descriptors of a process, and what they are open on.
fn descriptors(pid: Pid) -> Vec<(i32, String)> {
    let dir = format!("/proc/{}/fd", pid.as_raw_nonzero());
    let entries = fs::read_dir(Path::new(&dir)).unwrap().map(|entry| entry.unwrap());
    let described = entries.filter_map(|entry| {
        let number = entry.file_name().to_str()?.parse().ok()?;
        Some((number, fs::read_link(entry.path()).ok()?.to_string_lossy().into_owned()))
    });
    described.collect()
}

/// The value of a field of `/proc/PID/status`.
fn field<'a>(status: &'a str, name: &str) -> &'a str {
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.unwrap_or_else(|| panic!("no {name} in {status}")).trim()
}
