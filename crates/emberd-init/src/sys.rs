//! All `unsafe` code of the agent: system calls that neither the standard library nor `nix`
//! wraps.
#![allow(unsafe_code, reason = "fork hooks and system calls without a safe wrapper")]

use std::ffi::CString;
use std::fs::{self, File};
use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd, RawFd};
use std::os::unix::process::ExitStatusExt as _;
use std::process::ExitStatus;
use std::sync::atomic::{AtomicI32, Ordering};
use std::{mem, ptr};

use emberd_proto::renewal::ENTROPY_BYTES_MAX;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::libc;
use nix::pty::Winsize;
use nix::sched::{CloneFlags, clone};
use nix::sys::prctl;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{SigHandler, SigSet, SigmaskHow, Signal, signal};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::process::{NewProcess, ResourceLimits};
use crate::users::User;

/// Stack of a child between vfork and exec, in bytes (32 KiB): a dozen system calls deep.
const CHILD_STACK_BYTES: usize = 32 << 10;

/// Signals that the agent handles or ignores. A child gets their default action back. The kernel
/// does this for handled signals too, but only once the child has executed its program.
const SIGNALS_OF_OURS: [Signal; 4] =
    [Signal::SIGPIPE, Signal::SIGCHLD, Signal::SIGTERM, Signal::SIGINT];

/// Starts `process` as the leader of its own session and process group, in its cgroup if it has
/// one, and returns its pid. Returns when the program was executed or could not be.
///
/// Without a cgroup, the kernel kills the child when the agent dies, because off PID 1 no other
/// process would.
///
/// The child borrows the agent's memory until then (vfork(2)). Copying page tables, and the page
/// faults of both sides afterwards, cost an emulated guest more than the rest of the start.
///
/// # Errors
/// The error that prevented the child from running the program. The reaper then reaps the child.
pub fn start(process: &NewProcess<'_>) -> io::Result<u32> {
    let arguments = pointers(&process.arguments);
    let environment = pointers(&process.environment);
    let failure = AtomicI32::new(0);
    let child = || {
        let errno = become_program(process, &arguments, &environment);
        failure.store(errno as i32, Ordering::Relaxed);
        127
    };
    let mut stack = vec![0; CHILD_STACK_BYTES];
    let flags = CloneFlags::CLONE_VM | CloneFlags::CLONE_VFORK;
    // A handler of ours must not run in the child, on memory it shares with us.
    let before = SigSet::all().thread_swap_mask(SigmaskHow::SIG_SETMASK)?;
    // SAFETY: with CLONE_VFORK this thread stands still until the child has executed its
    // program or ended, so `stack` and what `child` borrows outlive its use of them. Threads
    // that work on files go on, and know nothing of either. The child makes system calls and
    // neither allocates nor takes a lock.
    let pid = unsafe { clone(Box::new(child), &mut stack, flags, Some(libc::SIGCHLD)) };
    before.thread_set_mask()?;
    match failure.load(Ordering::Relaxed) {
        0 => Ok(pid?.as_raw().cast_unsigned()),
        errno => Err(io::Error::from_raw_os_error(errno)),
    }
}

/// Strings as execve(2) takes them.
fn pointers(strings: &[CString]) -> Vec<*const libc::c_char> {
    strings.iter().map(|string| string.as_ptr()).chain([ptr::null()]).collect()
}

/// Runs in the child of [`start`], and returns only on failure.
fn become_program(
    process: &NewProcess<'_>,
    arguments: &[*const libc::c_char],
    environment: &[*const libc::c_char],
) -> Errno {
    if let Err(errno) = prepare_child(process) {
        return errno;
    }
    let mut outcome = Errno::ENOENT;
    for file in &process.files {
        // SAFETY: all are terminated strings, and lists ended by a null pointer.
        unsafe { libc::execve(file.as_ptr(), arguments.as_ptr(), environment.as_ptr()) };
        match Errno::last() {
            Errno::ENOENT | Errno::ENOTDIR => {}
            Errno::EACCES => outcome = Errno::EACCES,
            errno => return errno,
        }
    }
    outcome
}

fn prepare_child(process: &NewProcess<'_>) -> nix::Result<()> {
    nix::unistd::setsid()?;
    if let Some(procs) = process.cgroup_procs {
        // `0` stands for the process that writes.
        nix::unistd::write(procs, b"0")?;
    }
    for (fd, number) in process.stdio.iter().zip(0..) {
        // SAFETY: the child's standard descriptors are its own, and nothing owns them here.
        Errno::result(unsafe { libc::dup2(fd.as_raw_fd(), number) })?;
    }
    if let Some(kept) = process.kept {
        fcntl(kept, FcntlArg::F_SETFD(FdFlag::empty()))?;
    }
    if process.terminal {
        // SAFETY: the request takes a number, and standard input is a terminal.
        Errno::result(unsafe { libc::ioctl(libc::STDIN_FILENO, libc::TIOCSCTTY, 0) })?;
    }
    hold_resources(&process.resources)?;
    if let Some(user) = process.user {
        become_user(user)?;
    }
    if process.cgroup_procs.is_none() {
        // After the change of user, which takes it back.
        prctl::set_pdeathsig(Signal::SIGKILL)?;
    }
    nix::unistd::chdir(process.directory.as_c_str())?;
    for handled in SIGNALS_OF_OURS {
        // SAFETY: the default action runs no code.
        unsafe { signal(handled, SigHandler::SigDfl) }?;
    }
    SigSet::empty().thread_set_mask()
}

fn hold_resources(limits: &ResourceLimits) -> nix::Result<()> {
    let ResourceLimits { cpu_s, file_bytes } = *limits;
    for (resource, limit) in [(Resource::RLIMIT_CPU, cpu_s), (Resource::RLIMIT_FSIZE, file_bytes)] {
        if let Some((soft, hard)) = limit {
            setrlimit(resource, soft, hard)?;
        }
    }
    Ok(())
}

/// Gives up the agent's identity, groups first, because setgroups(2) is not permitted afterwards.
///
/// Uses system calls instead of the C library's functions of the same names, which change every
/// thread of the process and would therefore change the agent.
fn become_user(user: &User) -> nix::Result<()> {
    let groups = user.groups.as_ptr();
    let [uid, gid] = [user.uid, user.gid].map(libc::c_long::from);
    // SAFETY: `groups` holds as many numbers as its length says; the others take numbers.
    unsafe {
        Errno::result(libc::syscall(libc::SYS_setgroups, user.groups.len(), groups))?;
        Errno::result(libc::syscall(libc::SYS_setgid, gid))?;
        Errno::result(libc::syscall(libc::SYS_setuid, uid))?;
    }
    Ok(())
}

mod terminal_device {
    nix::ioctl_write_ptr_bad!(
        /// Changes the size of a terminal.
        set_window_size,
        nix::libc::TIOCSWINSZ,
        nix::pty::Winsize
    );
}

/// Changes the size of the terminal `fd`, which notifies its programs.
///
/// # Errors
/// If `fd` is not a terminal.
pub fn set_window_size(fd: RawFd, size: Winsize) -> nix::Result<()> {
    // SAFETY: the kernel reads `size`.
    unsafe { terminal_device::set_window_size(fd, &raw const size) }.map(drop)
}

/// Takes the exit status of one ended child, if there is one.
///
/// `nix` has a wrapper, but it fails if a real-time signal killed the child, and the status is
/// lost.
pub fn reap_one() -> Option<(u32, ExitStatus)> {
    loop {
        let mut status = 0;
        // SAFETY: `status` is valid for writing one int.
        let pid = unsafe { libc::waitpid(-1, &raw mut status, libc::WNOHANG) };
        match u32::try_from(pid) {
            Ok(0) => return None,
            Ok(pid) => return Some((pid, ExitStatus::from_raw(status))),
            Err(_) if Errno::last() == Errno::EINTR => {}
            Err(_) => return None,
        }
    }
}

/// Undoes settings of the agent's parent that children would inherit: open descriptors and
/// ignored signals.
///
/// SIGPIPE stays ignored, as the runtime needs it; the standard library restores it in
/// children.
pub fn shed_inheritance() {
    let after_stderr = 3;
    let close_on_exec = libc::CLOSE_RANGE_CLOEXEC.cast_signed();
    // SAFETY: the call only marks descriptors. It may fail on kernels before 5.11, which
    // leaves them as they are.
    unsafe { libc::close_range(after_stderr, libc::c_uint::MAX, close_on_exec) };
    for signal in (1..=libc::SIGRTMAX()).filter(|signal| *signal != libc::SIGPIPE) {
        // SAFETY: `sigaction` is plain data, for which all zeroes is a valid value and
        // means SIG_DFL without flags.
        let default: libc::sigaction = unsafe { mem::zeroed() };
        let mut current = default;
        // SAFETY: both pointers are null or point to a `sigaction`; SIG_DFL runs no code.
        unsafe {
            if libc::sigaction(signal, ptr::null(), &raw mut current) == 0
                && current.sa_sigaction == libc::SIG_IGN
            {
                libc::sigaction(signal, &raw const default, ptr::null_mut());
            }
        }
    }
}

/// Fills in `attributes` with the place of the calling thread's stack, or returns an error number.
/// The standard library calls it when a thread starts, for its message about an overflow.
///
/// Takes the place of glibc's function of this name, which reads the same file and brings all of
/// `sscanf` into a static binary for it (97 KB). No caller asks about another thread.
#[unsafe(no_mangle)]
extern "C" fn pthread_getattr_np(
    _thread: libc::pthread_t,
    attributes: *mut libc::pthread_attr_t,
) -> libc::c_int {
    let Some(stack) = stack_here() else { return libc::ENOENT };
    let (start, guard_bytes) = (ptr::without_provenance_mut(stack.start), 4096);
    // SAFETY: `attributes` is the caller's to fill, and initialised before it is used; the
    // addresses are only noted.
    unsafe {
        libc::pthread_attr_init(attributes);
        libc::pthread_attr_setguardsize(attributes, guard_bytes);
        libc::pthread_attr_setstack(attributes, start, stack.len())
    }
}

/// Where the calling thread's stack is, and how far that of the first thread may grow.
fn stack_here() -> Option<Range<usize>> {
    let here = 0_u8;
    let here = (&raw const here).addr();
    let maps = fs::read("/proc/self/maps").ok()?;
    String::from_utf8_lossy(&maps).lines().find_map(|line| {
        let (start, end) = line.split_once(' ')?.0.split_once('-')?;
        let end = usize::from_str_radix(end, 16).ok()?;
        let mut start = usize::from_str_radix(start, 16).ok()?;
        if line.ends_with("[stack]") {
            let (limit, _) = getrlimit(Resource::RLIMIT_STACK).ok()?;
            start = start.min(end.saturating_sub(usize::try_from(limit).ok()?));
        }
        Some(start..end).filter(|stack| stack.contains(&here))
    })
}

/// Brings up the loopback interface.
///
/// # Errors
/// If the kernel has no such interface.
pub fn bring_loopback_up() -> io::Result<()> {
    let flags = SockFlag::SOCK_CLOEXEC;
    let socket = socket(AddressFamily::Inet, SockType::Datagram, flags, None)?;
    // SAFETY: `ifreq` is plain data, for which all zeroes is a valid value.
    let mut request: libc::ifreq = unsafe { mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"lo") {
        *to = from.cast_signed();
    }
    // SAFETY: both requests take an `ifreq` named by a terminated string; the first call
    // fills `ifru_flags`, so reading that member of the union is sound.
    unsafe {
        let request = &raw mut request;
        Errno::result(libc::ioctl(socket.as_raw_fd(), libc::SIOCGIFFLAGS, request))?;
        let up = libc::c_short::try_from(libc::IFF_UP).expect("the flag is 1");
        (*request).ifr_ifru.ifru_flags |= up;
        Errno::result(libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, request))?;
    }
    Ok(())
}

/// Argument of `RNDADDENTROPY` (random(4)), with room for the maximum amount of entropy.
#[repr(C)]
struct RandPoolInfo {
    entropy_bits: libc::c_int,
    buffer_bytes: libc::c_int,
    buffer: [u8; ENTROPY_BYTES_MAX],
}

mod random_device {
    use nix::libc::c_int;

    // The request's number is made from the size of its argument without the buffer.
    nix::ioctl_write_ptr_bad!(
        /// Mixes bytes into the kernel's random pool and counts them as random.
        add_entropy,
        nix::request_code_write!(b'R', 0x03, size_of::<[c_int; 2]>()),
        crate::sys::RandPoolInfo
    );
    nix::ioctl_none!(
        /// Re-seeds the kernel's random generator from the pool.
        reseed,
        b'R',
        0x07
    );
}

/// Device that accepts entropy and gives random bytes without waiting for any.
pub const RANDOM_DEVICE: &str = "/dev/urandom";

/// Makes the kernel's random generator use `entropy` from the next byte on. `device` is
/// [`RANDOM_DEVICE`].
///
/// # Errors
/// Without `CAP_SYS_ADMIN`, and on kernels before 4.14, which cannot be re-seeded.
///
/// # Panics
/// If `entropy` is longer than [`ENTROPY_BYTES_MAX`].
pub fn reseed_random(device: &File, entropy: &[u8]) -> io::Result<()> {
    let mut buffer = [0; ENTROPY_BYTES_MAX];
    buffer[..entropy.len()].copy_from_slice(entropy);
    let length = libc::c_int::try_from(entropy.len()).expect("bounded by the buffer");
    let info = RandPoolInfo { entropy_bits: length * 8, buffer_bytes: length, buffer };
    // SAFETY: the kernel reads `info` and, as it says, no more of its buffer than there is;
    // the second request has no argument.
    unsafe {
        random_device::add_entropy(device.as_raw_fd(), &raw const info)?;
        random_device::reseed(device.as_raw_fd())?;
    }
    Ok(())
}

nix::ioctl_write_ptr!(resize_fs, b'f', 16, u64);

/// Makes the mounted ext4 that `root` is in `blocks` large (`EXT4_IOC_RESIZE_FS`).
///
/// # Errors
/// Without `CAP_SYS_RESOURCE`, if it is larger, and beyond the end of its device.
pub fn resize_ext4(root: &File, blocks: u64) -> io::Result<()> {
    // SAFETY: the kernel reads the number.
    Ok(unsafe { resize_fs(root.as_raw_fd(), &raw const blocks) }.map(drop)?)
}

/// Registers `fd` with the runtime for `interest`.
///
/// # Errors
/// If `fd` cannot be polled.
pub fn watch(fd: OwnedFd, interest: Interest) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` stays the same open descriptor until it is dropped, and
    // `AsyncFd` only lends it.
    unsafe { AsyncFd::register_with_interest(fd, interest) }.map_err(io::Error::from)
}

/// Commands, and kinds of maps, programs and attachments, of bpf(2).
mod bpf_number {
    use nix::libc::c_int;

    pub const MAP_CREATE: c_int = 0;
    pub const MAP_UPDATE: c_int = 2;
    pub const MAP_DELETE: c_int = 3;
    pub const PROG_LOAD: c_int = 5;
    pub const LINK_CREATE: c_int = 28;
    pub const MAP_HASH: u32 = 1;
    pub const MAP_SOCKETS: u32 = 15;
    pub const PROG_SK_LOOKUP: u32 = 30;
    pub const ATTACH_SK_LOOKUP: u32 = 36;
}

/// Calls bpf(2) with the part of its argument that `command` reads.
fn bpf<const WORDS: usize>(command: libc::c_int, argument: &[u64; WORDS]) -> io::Result<RawFd> {
    // SAFETY: the kernel reads as many bytes as the argument has, and callers here fill it as
    // `union bpf_attr` says, with pointers to memory that outlives the call. The result of
    // each command is a descriptor or 0.
    let result = unsafe {
        libc::syscall(libc::SYS_bpf, command, argument.as_ptr(), mem::size_of_val(argument))
    };
    Ok(Errno::result(result).map(|fd| RawFd::try_from(fd).expect("descriptors are ints"))?)
}

/// Calls bpf(2) for a command that makes a descriptor.
fn bpf_fd<const WORDS: usize>(
    command: libc::c_int,
    argument: &[u64; WORDS],
) -> io::Result<OwnedFd> {
    let fd = bpf(command, argument)?;
    // SAFETY: the kernel has just made the descriptor, which is close-on-exec, for this call.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Two fields of 32 bits, in the order in which they lie in memory.
fn pair(first: u32, second: u32) -> u64 {
    let mut bytes = [0; 8];
    bytes[..4].copy_from_slice(&first.to_ne_bytes());
    bytes[4..].copy_from_slice(&second.to_ne_bytes());
    u64::from_ne_bytes(bytes)
}

fn descriptor(fd: RawFd) -> u32 {
    fd.cast_unsigned()
}

fn pointer<T>(to: &[T]) -> u64 {
    to.as_ptr() as u64
}

/// A map that BPF programs read. Its values have four bytes.
#[derive(Debug)]
pub struct BpfMap {
    fd: OwnedFd,
    key_bytes: usize,
}

impl BpfMap {
    /// Makes a map of numbers by keys of `key_bytes` bytes.
    ///
    /// # Errors
    /// `ENOSYS` if the kernel has no BPF.
    pub fn hash(key_bytes: usize, entries: u32) -> io::Result<Self> {
        Self::new(bpf_number::MAP_HASH, key_bytes, entries)
    }

    /// Makes a map of sockets by their place.
    ///
    /// # Errors
    /// `ENOSYS` if the kernel has no BPF, `EINVAL` if it has no such maps.
    pub fn of_sockets(entries: u32) -> io::Result<Self> {
        Self::new(bpf_number::MAP_SOCKETS, size_of::<u32>(), entries)
    }

    fn new(kind: u32, key_bytes: usize, entries: u32) -> io::Result<Self> {
        let key = u32::try_from(key_bytes).expect("keys are small");
        let value = u32::try_from(size_of::<u32>()).expect("four bytes");
        let argument = [pair(kind, key), pair(value, entries)];
        Ok(Self { fd: bpf_fd(bpf_number::MAP_CREATE, &argument)?, key_bytes })
    }

    /// Sets the value of `key`: a number, or the descriptor of a socket.
    ///
    /// # Errors
    /// As bpf(2).
    ///
    /// # Panics
    /// If the key is not as long as the map's keys.
    pub fn set(&self, key: &[u8], value: RawFd) -> io::Result<()> {
        assert_eq!(key.len(), self.key_bytes);
        let (map, value) = (pair(descriptor(self.fd.as_raw_fd()), 0), [value]);
        bpf(bpf_number::MAP_UPDATE, &[map, pointer(key), pointer(&value), 0]).map(drop)
    }

    /// Removes `key`.
    ///
    /// # Errors
    /// As bpf(2).
    ///
    /// # Panics
    /// If the key is not as long as the map's keys.
    pub fn remove(&self, key: &[u8]) -> io::Result<()> {
        assert_eq!(key.len(), self.key_bytes);
        let map = pair(descriptor(self.fd.as_raw_fd()), 0);
        bpf(bpf_number::MAP_DELETE, &[map, pointer(key)]).map(drop)
    }
}

impl AsFd for BpfMap {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Loads a program that chooses sockets.
///
/// # Errors
/// `ENOSYS` if the kernel has no BPF, `EINVAL` if it does not know the kind of program.
pub fn load_lookup(instructions: &[u64]) -> io::Result<OwnedFd> {
    let count = u32::try_from(instructions.len()).expect("programs are short");
    let licence = b"MIT\0";
    let mut argument = [0; 9];
    argument[0] = pair(bpf_number::PROG_SK_LOOKUP, count);
    argument[1] = pointer(instructions);
    argument[2] = pointer(licence);
    // The name and the interface, between which and the log nothing is set.
    argument[8] = pair(0, bpf_number::ATTACH_SK_LOOKUP);
    bpf_fd(bpf_number::PROG_LOAD, &argument)
}

/// Lets `program` choose the sockets of a network namespace, until the result is dropped.
///
/// # Errors
/// As bpf(2).
pub fn attach_lookup(program: &OwnedFd, namespace: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let fds = pair(descriptor(program.as_raw_fd()), descriptor(namespace.as_raw_fd()));
    bpf_fd(bpf_number::LINK_CREATE, &[fds, pair(bpf_number::ATTACH_SK_LOOKUP, 0)])
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    #[test]
    fn stack_of_a_thread_has_the_size_that_was_asked_for() {
        let asked_bytes = 256 << 10;
        let thread = thread::Builder::new().stack_size(asked_bytes).spawn(|| {
            let here = 0_u8;
            (stack_here().unwrap(), (&raw const here).addr())
        });
        let (stack, here) = thread.unwrap().join().unwrap();
        assert!(stack.contains(&here), "{stack:?} {here}");
        // The thread has just begun, at the stack's other end.
        let below = here - stack.start;
        assert!((asked_bytes / 2..=asked_bytes + (8 << 10)).contains(&below), "{below}");
    }
}
