//! What needs `unsafe`: limits set between fork and exec, waiting on a descriptor, and the
//! host's cycle counter.

#![allow(unsafe_code, reason = "pre_exec, AsyncFd and rdtsc have no safe form")]

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::process::Command;

use rustix::process::{Resource, Rlimit, setrlimit};
use rustix::thread::set_no_new_privs;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Most file descriptors one VMM may hold: sockets, images and what virtio queues need.
const OPEN_FILES_MAX: u64 = 2048;

/// Makes the child give up, before it runs, what no VMM needs: core dumps (they would hold
/// guest memory), many descriptors, and privileges gained by exec.
pub(crate) fn confine(command: &mut Command) {
    let confine = || -> io::Result<()> {
        let limit = |n| Rlimit { current: Some(n), maximum: Some(n) };
        setrlimit(Resource::Nofile, limit(OPEN_FILES_MAX))?;
        setrlimit(Resource::Core, limit(0))?;
        Ok(set_no_new_privs(true)?)
    };
    // SAFETY: between fork and exec only async-signal-safe functions may run; the closure
    // makes three system calls, allocates nothing and takes no lock.
    unsafe { command.pre_exec(confine) };
}

/// Lets tasks wait until `fd` is readable.
///
/// # Panics
/// Outside of a tokio runtime.
pub(crate) fn readable(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` is open, always names the same file, and is closed only when the
    // `AsyncFd` that now owns it drops it.
    let registered = unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) };
    registered.map_err(|error| error.into_parts().1)
}

/// The processor's cycle counter now.
pub(crate) fn cycles() -> u64 {
    // SAFETY: RDTSC exists on every x86_64 processor and touches no memory.
    unsafe { core::arch::x86_64::_rdtsc() }
}
