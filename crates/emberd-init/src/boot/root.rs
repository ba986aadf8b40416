//! Assembles the root file system and switches to it.
//!
//! ```text
//! squashfs, read-only disk ──▶ /lower ─────────┐
//! ext4, the disk ───▶ /disk ─── data, work ────┴─▶ overlay /newroot ─▶ becomes /
//! tmpfs, shared ────▶ /shared ┬─ shm ────────────▶ /dev/shm
//!                             └─ run ────────────▶ /run
//! ```
//! Without a disk, a tmpfs takes its place. Each tmpfs has a size limit, so that they cannot fill
//! the memory in any order of writing.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;
use std::time::{Duration, Instant};

use nix::mount::{MsFlags, mount};

use super::bounds::{self, Bounds};
use super::disks::{self, Access};
use super::modules::MODULES_DIR;
use crate::console;
use crate::disk::OwnDisk;
use crate::process_tree::CGROUP_ROOT;
use crate::uevents::Uevents;
use crate::users::ROOT_HOME;

/// Maximum wait for disks after the modules are loaded. Emulated guests need milliseconds; a disk
/// that is missing after this time was not attached.
const DEVICE_WAIT: Duration = Duration::from_secs(10);

const LOWER: &str = "/lower";
/// Everything that is written below `/`.
const DISK: &str = "/disk";
const SHARED: &str = "/shared";
const NEW_ROOT: &str = "/newroot";

/// Directory of the agent's own files.
pub const SCRATCH: &str = "/run/emberd";

/// Mount options of the overlay, the most complete first; a kernel that does not support a line
/// gets the next. They make the overlay behave like one disk: directories of the image can be
/// renamed, all files are on one device, hard links stay together when a file is changed, and
/// changing owner, mode or time copies no content.
const OVERLAY_OPTIONS: [&str; 4] = [
    ",redirect_dir=on,xino=on,index=on,metacopy=on",
    ",redirect_dir=on,xino=on,index=on",
    ",redirect_dir=on",
    "",
];

/// A file system that could not be mounted.
#[derive(Debug, thiserror::Error)]
#[error("cannot mount {kind} on {target}")]
pub struct MountError {
    kind: &'static str,
    target: String,
    source: io::Error,
}

/// Why the root file system cannot be assembled.
#[derive(Debug, thiserror::Error)]
pub enum RootError {
    /// The disk with the root image did not appear.
    #[error("no disk with the root image appeared within {DEVICE_WAIT:?}")]
    NoDevice,
    /// A file system cannot be mounted.
    #[error(transparent)]
    Mount(#[from] MountError),
    /// A directory or link cannot be created.
    #[error("cannot make {0}")]
    Make(String, #[source] io::Error),
    /// The root cannot be switched.
    #[error("cannot switch to the new root")]
    Switch(#[source] io::Error),
}

/// Mounts `/proc`, `/dev` and `/sys` in the initramfs.
///
/// # Errors
/// [`MountError`].
pub fn mount_kernel_filesystems() -> Result<(), MountError> {
    let quiet = MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC;
    mount_new("proc", "/proc", quiet | MsFlags::MS_NODEV, "")?;
    // On a kernel without tmpfs, the size of `/dev` cannot be limited.
    mount_new("devtmpfs", "/dev", quiet, &bounds::devices_options())
        .or_else(|_unknown_option| mount_new("devtmpfs", "/dev", quiet, "mode=0755"))?;
    mount_new("sysfs", "/sys", quiet | MsFlags::MS_NODEV, "")
}

/// Mounts the root image with a writable layer on `/newroot`; returns the disk below that, if there
/// is one.
///
/// # Errors
/// [`RootError`].
pub fn mount_root(uevents: &Uevents, bounds: &Bounds) -> Result<Option<OwnDisk>, RootError> {
    let deadline = Instant::now() + DEVICE_WAIT;
    let image = disks::wait(uevents, deadline, Access::Read).ok_or(RootError::NoDevice)?;
    mount_from(image.node, "squashfs", LOWER, MsFlags::MS_RDONLY, "")?;
    let disk = mount_disk(uevents, deadline, bounds)?;
    mount_new("tmpfs", SHARED, MsFlags::empty(), &bounds.shared_options())?;
    for (file_system, name, mode) in [
        (DISK, "data", 0o755),
        (DISK, "work", 0o755),
        (SHARED, "shm", 0o1777),
        (SHARED, "run", 0o755),
    ] {
        make_dir(&format!("{file_system}/{name}"), mode)?;
    }
    let layers = format!("lowerdir={LOWER},upperdir={DISK}/data,workdir={DISK}/work");
    let mount_as =
        |more| mount_new("overlay", NEW_ROOT, MsFlags::empty(), &format!("{layers}{more}"));
    let mut mounted = Ok(());
    for options in OVERLAY_OPTIONS {
        mounted = mount_as(options);
        if mounted.is_ok() {
            break;
        }
    }
    mounted?;
    Ok(disk)
}

/// Mounts what the guest writes to: its disk, or memory if it has none or the kernel has no ext4.
fn mount_disk(
    uevents: &Uevents,
    deadline: Instant,
    bounds: &Bounds,
) -> Result<Option<OwnDisk>, MountError> {
    if disks::has_disk() {
        let mounted = disks::wait(uevents, deadline, Access::Write).map(|disk| {
            let options = disk.mount_options();
            mount_from(disk.node, "ext4", DISK, MsFlags::MS_NOATIME, options).map(|()| disk.node)
        });
        match mounted {
            Some(Ok(node)) => return Ok(OwnDisk::open(DISK, node).ok()),
            Some(Err(error)) => console::report(&error),
            None => console::say("the disk did not appear: files are kept in memory"),
        }
    }
    mount_new("tmpfs", DISK, MsFlags::empty(), &bounds.disk_options()).map(|()| None)
}

/// Makes `/newroot` the root, with `/proc`, `/dev`, `/sys`, `/dev/shm` and `/run` in it, and
/// frees the memory of the initramfs. (`pivot_root` is refused on an initramfs.)
///
/// # Errors
/// [`RootError`].
pub fn switch_root() -> Result<(), RootError> {
    for (kind, from) in [("proc", "/proc"), ("devtmpfs", "/dev"), ("sysfs", "/sys")] {
        move_mount(kind, from, &format!("{NEW_ROOT}{from}"))?;
    }
    for (name, target) in [("shm", "/dev/shm"), ("run", "/run")] {
        bind_mount(&format!("{SHARED}/{name}"), &format!("{NEW_ROOT}{target}"))?;
    }
    fs::remove_file("/init").ok();
    fs::remove_dir_all(MODULES_DIR).ok();
    let switch = || {
        std::env::set_current_dir(NEW_ROOT)?;
        mount(Some("."), "/", None::<&str>, MsFlags::MS_MOVE, None::<&str>)?;
        nix::unistd::chroot(".")?;
        std::env::set_current_dir("/")
    };
    switch().map_err(RootError::Switch)
}

/// Mounts the file systems and creates the directories that programs expect.
///
/// `/tmp` stays on the overlay, as on a machine with one disk. The code of execs has a file
/// system of its own, so that it can be written when the disk is full.
///
/// # Errors
/// [`RootError`].
pub fn mount_runtime_filesystems(bounds: &Bounds) -> Result<(), RootError> {
    let private = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    let quiet = private | MsFlags::MS_NOEXEC;
    let no_device = MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC;
    mount_new("devpts", "/dev/pts", no_device, "gid=5,mode=0620,ptmxmode=0666")?;
    mount_new("tmpfs", SCRATCH, private, &bounds.scratch_options())?;
    // An exec joins its cgroup in 1.5 ms with `favordynmods`. Without it, joining waits for an
    // RCU grace period and takes 14 ms (emulated guest). Kernels before 6.0 do not support the
    // option.
    mount_new("cgroup2", CGROUP_ROOT, quiet, "favordynmods")
        .or_else(|_unknown_option| mount_new("cgroup2", CGROUP_ROOT, quiet, ""))?;
    // The boot goes on where the kernel cannot limit them.
    bounds.hold_cgroups(Path::new(CGROUP_ROOT)).ok();
    // devtmpfs creates devices only; shells need these links for `<(…)` and `/dev/stdin`.
    for (link, target) in [
        ("/dev/fd", "/proc/self/fd"),
        ("/dev/stdin", "/proc/self/fd/0"),
        ("/dev/stdout", "/proc/self/fd/1"),
        ("/dev/stderr", "/proc/self/fd/2"),
    ] {
        symlink(target, link).map_err(|source| RootError::Make(link.to_owned(), source))?;
    }
    make_dir("/tmp", 0o1777)?;
    make_dir(ROOT_HOME, 0o700)
}

/// Creates a directory unless it exists.
fn make_dir(path: &str, mode: u32) -> Result<(), RootError> {
    fs::create_dir_all(path)
        .and_then(|()| fs::set_permissions(path, Permissions::from_mode(mode)))
        .map_err(|source| RootError::Make(path.to_owned(), source))
}

fn mount_new(
    kind: &'static str,
    target: &str,
    flags: MsFlags,
    options: &str,
) -> Result<(), MountError> {
    mount_from(kind, kind, target, flags, options)
}

fn mount_from(
    from: &str,
    kind: &'static str,
    target: &str,
    flags: MsFlags,
    options: &str,
) -> Result<(), MountError> {
    fs::create_dir_all(target)
        .and_then(|()| Ok(mount(Some(from), target, Some(kind), flags, Some(options))?))
        .map_err(|source| MountError { kind, target: target.to_owned(), source })
}

fn move_mount(kind: &'static str, from: &str, target: &str) -> Result<(), MountError> {
    let none = None::<&str>;
    fs::create_dir_all(target)
        .and_then(|()| Ok(mount(Some(from), target, none, MsFlags::MS_MOVE, none)?))
        .map_err(|source| MountError { kind, target: target.to_owned(), source })
}

/// Mounts the directory `from` at `target` too, without devices and set-user-id programs.
fn bind_mount(from: &str, target: &str) -> Result<(), MountError> {
    let none = None::<&str>;
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    fs::create_dir_all(target)
        .and_then(|()| Ok(mount(Some(from), target, none, MsFlags::MS_BIND, none)?))
        .and_then(|()| {
            // The flags of a bind mount can be set only by a remount.
            let again = MsFlags::MS_REMOUNT | MsFlags::MS_BIND | flags;
            Ok(mount(none, target, none, again, none)?)
        })
        .map_err(|source| MountError { kind: "tmpfs", target: target.to_owned(), source })
}
