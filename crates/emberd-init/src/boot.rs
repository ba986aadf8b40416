//! The steps that make a machine out of kernel, initramfs and root image, in the order
//! `main` takes them. Only PID 1 takes them.

use std::convert::Infallible;
use std::error::Error;
use std::io;

use nix::sys::reboot::{RebootMode, reboot};
use nix::sys::resource::{Resource, setrlimit};

use crate::console;

mod bounds;
mod modules;
mod root;

pub use bounds::Bounds;
pub use modules::load_modules;
pub use root::{
    SCRATCH, mount_kernel_filesystems, mount_root, mount_runtime_filesystems, switch_root,
};

/// Name of every guest.
const HOSTNAME: &str = "emberd";

/// Files one process of the guest may have open. The kernel's own limit of 1,024 would let
/// the agent serve some 200 execs; what it starts inherits this.
const OPEN_FILES_MAX: u64 = 65_536;

/// Sets the host name.
///
/// # Errors
/// As sethostname(2).
pub fn name_host() -> io::Result<()> {
    Ok(nix::unistd::sethostname(HOSTNAME)?)
}

/// Lets the agent and what it starts open [`OPEN_FILES_MAX`] files each.
///
/// # Errors
/// As setrlimit(2).
pub fn raise_open_file_limit() -> io::Result<()> {
    Ok(setrlimit(Resource::RLIMIT_NOFILE, OPEN_FILES_MAX, OPEN_FILES_MAX)?)
}

/// Says why there will be no guest and reboots, which ends the VMM.
///
/// Never powers off: Firecracker keeps running then on x86.
pub fn give_up(error: &dyn Error) -> ! {
    console::report(error);
    let Err(errno) = reboot(RebootMode::RB_AUTOBOOT) as Result<Infallible, _>;
    // The kernel panics when PID 1 ends, and reboots then.
    panic!("cannot reboot: {errno}");
}
