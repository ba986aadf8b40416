//! The steps that turn kernel, initramfs and root image into a machine, in the order of `main`.
//! Only PID 1 runs them.

use std::convert::Infallible;
use std::error::Error;
use std::io;

use nix::sys::reboot::{RebootMode, reboot};
use nix::sys::resource::{Resource, setrlimit};

use crate::console;

mod bounds;
mod disks;
mod modules;
mod root;

pub use bounds::Bounds;
pub use modules::load_modules;
pub use root::{
    SCRATCH, mount_kernel_filesystems, mount_root, mount_runtime_filesystems, switch_root,
};

/// Host name of a guest before it is renewed.
const HOSTNAME: &str = "emberd";

/// Maximum number of open files of a process in the guest. With the kernel's default of 1,024,
/// the agent could serve only about 200 execs. Programs inherit this limit.
const OPEN_FILES_MAX: u64 = 65_536;

/// Sets the host name.
///
/// # Errors
/// As sethostname(2).
pub fn name_host() -> io::Result<()> {
    Ok(nix::unistd::sethostname(HOSTNAME)?)
}

/// Sets the limit of open files of the agent and its children to [`OPEN_FILES_MAX`].
///
/// # Errors
/// As setrlimit(2).
pub fn raise_open_file_limit() -> io::Result<()> {
    Ok(setrlimit(Resource::RLIMIT_NOFILE, OPEN_FILES_MAX, OPEN_FILES_MAX)?)
}

/// Prints why the guest cannot start and reboots, which ends the VMM.
///
/// Never powers off, because Firecracker then keeps running on x86.
pub fn give_up(error: &dyn Error) -> ! {
    console::report(error);
    let Err(errno) = reboot(RebootMode::RB_AUTOBOOT) as Result<Infallible, _>;
    // When PID 1 ends, the kernel panics and then reboots.
    panic!("cannot reboot: {errno}");
}
