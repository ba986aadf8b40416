//! What needs `unsafe`: limits set between fork and exec, waiting on a descriptor, questions
//! to KVM, and the host's cycle counter.

#![allow(unsafe_code, reason = "pre_exec, AsyncFd, ioctl and rdtsc have no safe form")]

use std::ffi::c_void;
use std::io;
use std::os::fd::{AsFd, FromRawFd as _, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::Command;

use rustix::ioctl::{Ioctl, IoctlOutput, Opcode, ioctl, opcode};
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

/// A call to KVM whose argument is 0 and whose answer is a number (kernel document `kvm/api`).
struct KvmCall(Opcode);

// SAFETY: the two calls made below take 0 as argument, which a null pointer is, and touch no
// memory of this process; their answer is the number the call returns.
unsafe impl Ioctl for KvmCall {
    type Output = IoctlOutput;
    const IS_MUTATING: bool = false;

    fn opcode(&self) -> Opcode {
        self.0
    }

    fn as_ptr(&mut self) -> *mut c_void {
        std::ptr::null_mut()
    }

    unsafe fn output_from_ptr(
        out: IoctlOutput,
        _: *mut c_void,
    ) -> rustix::io::Result<Self::Output> {
        Ok(out)
    }
}

/// Version of the API behind `kvm`, an open `/dev/kvm` (`KVM_GET_API_VERSION`).
pub(crate) fn kvm_api_version(kvm: impl AsFd) -> io::Result<i32> {
    // SAFETY: as said at `KvmCall`.
    Ok(unsafe { ioctl(kvm, KvmCall(opcode::none(0xAE, 0x00)))? })
}

/// An empty machine, which is gone when dropped (`KVM_CREATE_VM`).
pub(crate) fn kvm_create_vm(kvm: impl AsFd) -> io::Result<OwnedFd> {
    // SAFETY: as said at `KvmCall`.
    let fd = unsafe { ioctl(kvm, KvmCall(opcode::none(0xAE, 0x01)))? };
    // SAFETY: a successful call returns a new descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// The processor's cycle counter now.
pub(crate) fn cycles() -> u64 {
    // SAFETY: RDTSC exists on every x86_64 processor and touches no memory.
    unsafe { core::arch::x86_64::_rdtsc() }
}
