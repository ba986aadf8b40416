//! What the daemon's host shows of a sandbox from outside of it, if this is that host.

use std::io;
use std::path::Path;

use emberd_api::{Info, Sandbox};

use super::Seen;

/// Whether the daemon's directory is on this host; if not, nothing else of it is either.
fn is_this_host(info: &Info) -> bool {
    Path::new(&info.work_dir).is_dir()
}

fn not_here(info: &Info) -> Seen {
    Seen::Nothing(format!("the daemon runs on another host: this host has no {}", info.work_dir))
}

/// Whether the sandbox's VMM is a process of this host.
pub fn process_runs(info: &Info, sandbox: &Sandbox) -> Seen {
    if !is_this_host(info) {
        return not_here(info);
    }
    let Some(pid) = sandbox.vmm_pid else {
        return Seen::Unexpected("the daemon reports no VMM process".into());
    };
    match std::fs::read_to_string(format!("/proc/{pid}/comm")) {
        Ok(name) => Seen::Expected(format!("{} is process {pid}", name.trim_end())),
        Err(error) => Seen::Unexpected(format!("process {pid}: {error}")),
    }
}

/// Whether the sandbox's VMM is no longer a process of this host.
pub fn process_gone(info: &Info, sandbox: &Sandbox) -> Seen {
    if !is_this_host(info) {
        return not_here(info);
    }
    let Some(pid) = sandbox.vmm_pid else {
        return Seen::Nothing("the daemon reported no VMM process".into());
    };
    if Path::new(&format!("/proc/{pid}")).exists() {
        Seen::Unexpected(format!("process {pid} is still running"))
    } else {
        Seen::Expected(format!("process {pid} is gone"))
    }
}

/// Whether the sandbox's directory is gone.
pub fn directory_gone(info: &Info, sandbox: &Sandbox) -> Seen {
    if !is_this_host(info) {
        return not_here(info);
    }
    match Path::new(&sandbox.dir).symlink_metadata() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Seen::Expected(format!("{} is gone", sandbox.dir))
        }
        Err(error) => Seen::Nothing(format!("{}: {error}", sandbox.dir)),
        Ok(_) => Seen::Unexpected(format!("{} still exists", sandbox.dir)),
    }
}

/// Identifies one run of a kernel: random, made at its start.
pub const BOOT_ID_FILE: &str = "/proc/sys/kernel/random/boot_id";

/// Whether `guest`, lines of boot id, kernel release and name of PID 1, tell of a kernel that is
/// not this host's.
pub fn kernel_is_another(guest: &str) -> Seen {
    let mut lines = guest.lines();
    let (Some(boot_id), Some(release), Some(init)) = (lines.next(), lines.next(), lines.next())
    else {
        return Seen::Unexpected(format!("expected three lines, got {guest:?}"));
    };
    let seen = format!("Linux {release}, PID 1 is {init}");
    match std::fs::read_to_string(BOOT_ID_FILE) {
        Ok(ours) if ours.trim_end() == boot_id => {
            Seen::Unexpected(format!("the code ran on the kernel of this host: {seen}"))
        }
        _ => Seen::Expected(seen),
    }
}
