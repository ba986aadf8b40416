//! Code that needs `unsafe`: the child between fork and exec, waiting on a descriptor, calls to
//! KVM and about processes, and the host's cycle counter.

#![allow(unsafe_code, reason = "pre_exec, unshare, AsyncFd, ioctl and rdtsc have no safe form")]

use std::ffi::c_void;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd, RawFd};
use std::os::unix::process::{CommandExt, ExitStatusExt as _};
use std::process::{Command, ExitStatus};
use std::sync::Arc;

use rustix::fs::{Mode, OFlags, RawDir};
use rustix::io::{Errno, FdFlags, fcntl_setfd};
use rustix::ioctl::{Ioctl, IoctlOutput, Opcode, ioctl, opcode};
use rustix::process::{Resource, Rlimit, getpid, getppid, getrlimit, setrlimit, setsid};
use rustix::thread::{UnshareFlags, set_no_new_privs, unshare_unsafe};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::jail::plan::Plan;

/// Most file descriptors one VMM may hold: sockets, images and what virtio queues need.
const OPEN_FILES_MAX: u64 = 2048;

/// Most file descriptors a VMM of this process may hold: [`OPEN_FILES_MAX`], or the hard limit
/// of this process where that is lower, because only a privileged process raises its own.
pub(crate) fn open_files_max() -> u64 {
    getrlimit(Resource::Nofile).maximum.map_or(OPEN_FILES_MAX, |hard| hard.min(OPEN_FILES_MAX))
}

/// File in which a process says how readily the kernel ends it when memory is short.
const OOM_SCORE: &str = "/proc/self/oom_score_adj";

/// First descriptor that is not a standard stream.
const FIRST_FD: RawFd = 3;

/// Bytes read of a directory of descriptors at once: some forty entries.
const FD_DIR_BYTES: usize = 1024;

/// Confinement of a child process before it executes the VMM.
#[derive(Debug, Default)]
pub(crate) struct Confinement {
    /// Descriptors the VMM finds under the numbers they have here; it gets no others but its
    /// standard streams.
    pub(crate) inherits: Vec<OwnedFd>,
    /// Its jail, if it has one.
    pub(crate) jail: Option<Plan>,
    /// `cgroup.procs` of its cgroup, if it has one.
    pub(crate) cgroup: Option<OwnedFd>,
}

/// Gives the child a session of its own, so that neither a terminal nor the daemon's end reaches
/// it: when a parent ends, the kernel hangs up (SIGHUP) on groups of its session that are stopped
/// (setpgid(2)). Removes from it, before it runs, what no VMM needs: the daemon's descriptors, core
/// dumps (they would hold guest memory), many descriptors, privileges gained by exec, and the
/// daemon's protection where the host runs out of memory (proc(5), `oom_score_adj`). Then
/// the child enters its cgroup and its jail.
pub(crate) fn confine(command: &mut Command, confinement: Confinement) {
    let Confinement { inherits, jail, cgroup } = confinement;
    let daemon = getpid();
    let open_files = open_files_max();
    let is_spared = std::fs::read(OOM_SCORE).is_ok_and(|score| score.starts_with(b"-"));
    let confine = move || -> io::Result<()> {
        let limit = |n| Rlimit { current: Some(n), maximum: Some(n) };
        setsid()?;
        if let Some(procs) = &cgroup {
            rustix::io::write(procs, b"0")?;
        }
        if is_spared {
            let score =
                rustix::fs::open(OOM_SCORE, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
            rustix::io::write(score, b"0")?;
        }
        setrlimit(Resource::Nofile, limit(open_files))?;
        setrlimit(Resource::Core, limit(0))?;
        close_on_exec()?;
        for fd in &inherits {
            fcntl_setfd(fd, FdFlags::empty())?;
        }
        if let Some(jail) = &jail {
            leave_namespaces()?;
            jail.enter()?;
        }
        set_no_new_privs(true)?;
        // A daemon that was killed in the meantime has no record of this process: it must not
        // become a VMM.
        if getppid() == Some(daemon) { Ok(()) } else { Err(Errno::CANCELED.into()) }
    };
    // SAFETY: between fork and exec only async-signal-safe functions may run; the closure
    // makes system calls alone, allocates nothing and takes no lock. What it borrows was
    // made before the fork.
    unsafe { command.pre_exec(confine) };
}

/// Marks every descriptor except the standard streams as close-on-exec, including inherited ones.
/// Does not allocate.
///
/// # Errors
/// On a kernel before 5.11 without `/proc`.
pub fn close_on_exec() -> io::Result<()> {
    // By number, because glibc has the function from 2.34 on.
    // SAFETY: the call changes flags of descriptors and touches no memory.
    let done = unsafe {
        libc::syscall(libc::SYS_close_range, FIRST_FD, RawFd::MAX, libc::CLOSE_RANGE_CLOEXEC)
    };
    if done == 0 { Ok(()) } else { close_on_exec_one_by_one() }
}

/// As [`close_on_exec`], for kernels that cannot do it at once.
fn close_on_exec_one_by_one() -> io::Result<()> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let dir = rustix::fs::open(c"/proc/self/fd", flags, Mode::empty())?;
    let mut buffer = [MaybeUninit::<u8>::uninit(); FD_DIR_BYTES];
    let mut entries = RawDir::new(&dir, &mut buffer);
    while let Some(entry) = entries.next() {
        let entry = entry?;
        let number = entry.file_name().to_bytes();
        let digit = |value: RawFd, digit: &u8| value * 10 + RawFd::from(digit - b'0');
        if number.iter().all(u8::is_ascii_digit) {
            let number = number.iter().fold(0, digit);
            if number >= FIRST_FD {
                // SAFETY: the descriptor was just listed as open, and is only borrowed for
                // the call; a closed one makes the call fail.
                let fd = unsafe { BorrowedFd::borrow_raw(number) };
                fcntl_setfd(fd, FdFlags::CLOEXEC)?;
            }
        }
    }
    Ok(())
}

/// Gives the calling thread mounts, System V IPC and host names of its own.
fn leave_namespaces() -> io::Result<()> {
    let flags = UnshareFlags::NEWNS | UnshareFlags::NEWIPC | UnshareFlags::NEWUTS;
    // SAFETY: the descriptor table stays shared.
    Ok(unsafe { unshare_unsafe(flags) }?)
}

/// A network namespace with nothing in it. It is gone with its last descriptor and process.
pub(crate) fn empty_network() -> io::Result<OwnedFd> {
    let make = || -> io::Result<OwnedFd> {
        // SAFETY: the descriptor table stays shared.
        unsafe { unshare_unsafe(UnshareFlags::NEWNET) }?;
        Ok(std::fs::File::open("/proc/thread-self/ns/net")?.into())
    };
    // On a thread of its own, which ends there: this one stays where it is.
    let joined = std::thread::spawn(make).join();
    joined.unwrap_or_else(|_| Err(io::Error::other("the thread that makes it panicked")))
}

/// Lets tasks wait until `fd` is readable.
///
/// # Panics
/// Outside of a tokio runtime.
pub(crate) fn readable(fd: Arc<OwnedFd>) -> io::Result<AsyncFd<Arc<OwnedFd>>> {
    // SAFETY: an `OwnedFd` is open, always names the same file, and is closed only when its last
    // owner drops it, of which the `AsyncFd` is one.
    let registered = unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) };
    registered.map_err(|error| error.into_parts().1)
}

/// Information about a process (kernel header `linux/pidfd.h`, its first version).
#[repr(C)]
#[derive(Default)]
struct PidfdInfo {
    mask: u64,
    cgroup_id: u64,
    /// Process ids and user ids.
    ids: [u32; 11],
    exit_code: i32,
}

/// Bit of the mask for the exit code of a process that was reaped; Linux 6.15 and later.
const PIDFD_INFO_EXIT: u64 = 1 << 3;

/// Asks for [`PidfdInfo`] (`PIDFD_GET_INFO`).
struct InfoCall(PidfdInfo);

// SAFETY: the call reads and writes one `PidfdInfo`, whose size is part of its number.
unsafe impl Ioctl for InfoCall {
    type Output = PidfdInfo;
    const IS_MUTATING: bool = true;

    fn opcode(&self) -> Opcode {
        opcode::read_write::<PidfdInfo>(0xFF, 11)
    }

    fn as_ptr(&mut self) -> *mut c_void {
        (&raw mut self.0).cast()
    }

    unsafe fn output_from_ptr(
        _: IoctlOutput,
        pointer: *mut c_void,
    ) -> rustix::io::Result<Self::Output> {
        // SAFETY: the pointer is that of `as_ptr`, and the value is plain data.
        Ok(unsafe { pointer.cast::<PidfdInfo>().read() })
    }
}

/// How the process behind `pidfd` ended; none until it was reaped, and on kernels that do not tell.
pub(crate) fn exit_status(pidfd: &OwnedFd) -> Option<ExitStatus> {
    let wanted = PidfdInfo { mask: PIDFD_INFO_EXIT, ..PidfdInfo::default() };
    // SAFETY: as said at `InfoCall`.
    let info = unsafe { ioctl(pidfd, InfoCall(wanted)) }.ok()?;
    (info.mask & PIDFD_INFO_EXIT != 0).then(|| ExitStatus::from_raw(info.exit_code))
}

/// Sends SIGKILL to the process behind `pidfd` and to its process group, which only Linux 6.9 and
/// later can do; else to the process. Returns whether there was one.
pub(crate) fn kill(pidfd: &OwnedFd) -> io::Result<bool> {
    /// `PIDFD_SIGNAL_PROCESS_GROUP`.
    const GROUP: u32 = 1 << 2;
    let send = |flags: u32| {
        let information = std::ptr::null::<c_void>();
        let number = libc::SYS_pidfd_send_signal;
        // SAFETY: without information about the signal, the call touches no memory.
        unsafe { libc::syscall(number, pidfd.as_raw_fd(), libc::SIGKILL, information, flags) }
    };
    // The group may be gone before the process, or be another's: the process itself is what counts.
    if send(GROUP) == 0 || send(0) == 0 {
        return Ok(true);
    }
    match io::Error::last_os_error() {
        error if error.raw_os_error() == Some(libc::ESRCH) => Ok(false),
        error => Err(error),
    }
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
