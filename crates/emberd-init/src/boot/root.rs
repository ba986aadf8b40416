//! Puts the root file system together and moves into it.
//!
//! ```text
//! /dev/vda squashfs, read-only ─▶ /lower ─┐
//! tmpfs, size-limited ──────────▶ /upper ─┴─▶ overlay /newroot ─▶ becomes /
//! ```

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;
use std::time::{Duration, Instant};

use nix::mount::{MsFlags, mount};

use super::modules::MODULES_DIR;
use crate::agent::HOME;
use crate::process_tree::CGROUP_ROOT;
use crate::uevents::Uevents;

/// The block device that holds the root image.
const ROOT_DEVICE: &str = "/dev/vda";

/// Longest wait for [`ROOT_DEVICE`] once the modules are loaded. Emulated guests need
/// milliseconds; a device that is not there after this was not attached.
const ROOT_DEVICE_WAIT: Duration = Duration::from_secs(10);

/// What the guest may write to its root file system: half of its memory, so that a full
/// disk leaves the other half to its processes.
const UPPER_SIZE: &str = "50%";

const LOWER: &str = "/lower";
const UPPER: &str = "/upper";
const NEW_ROOT: &str = "/newroot";

/// Why a file system is not where it should be.
#[derive(Debug, thiserror::Error)]
#[error("cannot mount {kind} on {target}")]
pub struct MountError {
    kind: &'static str,
    target: String,
    source: io::Error,
}

/// Why there is no root file system to boot into.
#[derive(Debug, thiserror::Error)]
pub enum RootError {
    /// The root device never came.
    #[error("{ROOT_DEVICE} did not appear within {ROOT_DEVICE_WAIT:?}")]
    NoDevice,
    /// One of its parts cannot be mounted.
    #[error(transparent)]
    Mount(#[from] MountError),
    /// A directory or link in it cannot be made.
    #[error("cannot make {0}")]
    Make(&'static str, #[source] io::Error),
    /// It cannot become `/`.
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
    mount_new("devtmpfs", "/dev", quiet, "mode=0755")?;
    mount_new("sysfs", "/sys", quiet | MsFlags::MS_NODEV, "")
}

/// Mounts the root image with a writable layer over it on `/newroot`.
///
/// # Errors
/// [`RootError`].
pub fn mount_root(uevents: &Uevents) -> Result<(), RootError> {
    wait_for_root_device(uevents)?;
    mount_from(ROOT_DEVICE, "squashfs", LOWER, MsFlags::MS_RDONLY, "")?;
    let upper_options = format!("mode=0755,size={UPPER_SIZE}");
    mount_new("tmpfs", UPPER, MsFlags::empty(), &upper_options)?;
    fs::create_dir(Path::new(UPPER).join("data"))
        .and_then(|()| fs::create_dir(Path::new(UPPER).join("work")))
        .map_err(|source| RootError::Make(UPPER, source))?;
    let layers = format!("lowerdir={LOWER},upperdir={UPPER}/data,workdir={UPPER}/work");
    Ok(mount_new("overlay", NEW_ROOT, MsFlags::empty(), &layers)?)
}

fn wait_for_root_device(uevents: &Uevents) -> Result<(), RootError> {
    let deadline = Instant::now() + ROOT_DEVICE_WAIT;
    while !Path::new(ROOT_DEVICE).exists() {
        if !uevents.wait_until(deadline) {
            return Err(RootError::NoDevice);
        }
    }
    Ok(())
}

/// Makes `/newroot` the root, with `/proc`, `/dev` and `/sys` in it, and frees the memory of
/// what the initramfs brought. (`pivot_root` is refused on an initramfs.)
///
/// # Errors
/// [`RootError`].
pub fn switch_root() -> Result<(), RootError> {
    for (kind, from) in [("proc", "/proc"), ("devtmpfs", "/dev"), ("sysfs", "/sys")] {
        move_mount(kind, from, &format!("{NEW_ROOT}{from}"))?;
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

/// Mounts what running programs expect, and makes the places they expect to find.
///
/// `/tmp` stays on the overlay: a tmpfs of its own would be a second claim on the memory the
/// upper layer already may take half of.
///
/// # Errors
/// [`RootError`].
pub fn mount_runtime_filesystems() -> Result<(), RootError> {
    let private = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    let quiet = private | MsFlags::MS_NOEXEC;
    let no_device = MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC;
    mount_new("devpts", "/dev/pts", no_device, "gid=5,mode=0620,ptmxmode=0666")?;
    mount_new("tmpfs", "/dev/shm", private, "mode=1777")?;
    mount_new("tmpfs", "/run", private, "mode=0755,size=20%")?;
    // An exec joins its cgroup in 1.5 ms with `favordynmods` and in 14 ms without, where it
    // waits for an RCU grace period (emulated guest). Kernels before 6.0 do not know it.
    mount_new("cgroup2", CGROUP_ROOT, quiet, "favordynmods")
        .or_else(|_unknown_option| mount_new("cgroup2", CGROUP_ROOT, quiet, ""))?;
    // devtmpfs makes devices only; shells need these for `<(…)` and `/dev/stdin`.
    for (link, target) in [
        ("/dev/fd", "/proc/self/fd"),
        ("/dev/stdin", "/proc/self/fd/0"),
        ("/dev/stdout", "/proc/self/fd/1"),
        ("/dev/stderr", "/proc/self/fd/2"),
    ] {
        symlink(target, link).map_err(|source| RootError::Make(link, source))?;
    }
    make_dir("/tmp", 0o1777)?;
    make_dir(HOME, 0o700)
}

/// A directory the image may have left out.
fn make_dir(path: &'static str, mode: u32) -> Result<(), RootError> {
    fs::create_dir_all(path)
        .and_then(|()| fs::set_permissions(path, Permissions::from_mode(mode)))
        .map_err(|source| RootError::Make(path, source))
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
