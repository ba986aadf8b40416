//! A jail for QEMU: a user of its own, a root with nothing in it but programs and libraries,
//! this microVM's images and its directory, a network without devices, and cgroup limits.
//!
//! ```text
//! <VM's directory>/      root's: log, record, saved devices
//!                  vm/   the VMM's: sockets, memory of a template-to-be; /vm in the jail
//!                  root/ where the jail's root is mounted, seen by the VMM alone
//! ```
//!
//! A trial at the start of the daemon detects a host that refuses any part of the jail. A trial
//! that succeeded is kept ([`super::known`]).

use std::fs::{DirBuilder, File};
use std::io::{self, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, chown};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicU64, Ordering};

use super::FindQemuError;
use super::arguments::Hardware;
use crate::jail::{Access, Ids, JailChoice, JailConfig, Plan};
use crate::process::{VmDir, command};
use crate::sys::{self, Confinement};
use crate::{BootError, Orphan};

/// Directory of what the VMM writes, in the VM's.
const WORK_DIR: &str = "vm";

/// The same directory inside the jail.
const WORK_DIR_INSIDE: &str = "/vm";

/// Where the root is mounted, in the VM's directory.
const ROOT: &str = "root";

/// Paths that programs need to run, on hosts that have them. They contain no secrets and cannot
/// be written to. Some are links on some hosts.
const SYSTEM: [&str; 10] = [
    "/usr",
    "/bin",
    "/sbin",
    "/lib",
    "/lib32",
    "/lib64",
    "/etc/ld.so.cache",
    "/etc/alternatives",
    "/nix/store",
    "/gnu/store",
];

/// Makes jails.
#[derive(Debug)]
pub(super) struct Jail {
    ids: Ids,
    network: OwnedFd,
    /// Directories of the host bound into the jails under the same names.
    bound: Vec<PathBuf>,
    /// The number of `/dev/kvm`, if guests run on it.
    kvm: Option<u64>,
}

/// Where and how one VMM will run.
#[derive(Debug)]
pub(super) struct Cell {
    /// Where its sockets will be, as seen from outside.
    pub(super) work_dir: PathBuf,
    /// Its user.
    pub(super) uid: u32,
    pub(super) plan: Plan,
}

impl Jail {
    /// A jail for the QEMU at `binary`, or in the inner error why microVMs are not jailed. Tries
    /// it, unless it `is_tried`.
    ///
    /// # Errors
    /// [`FindQemuError::Jail`] when a jail is demanded and cannot be had.
    pub(super) fn find(
        config: &JailConfig,
        binary: &Path,
        hardware: Hardware,
        is_tried: bool,
    ) -> Result<Result<Self, String>, FindQemuError> {
        if config.choice == JailChoice::Off {
            return Ok(Err("switched off".to_owned()));
        }
        match Self::try_find(config, binary, hardware, is_tried) {
            Err(reason) if config.choice == JailChoice::On => Err(FindQemuError::Jail { reason }),
            outcome => Ok(outcome),
        }
    }

    fn try_find(
        config: &JailConfig,
        binary: &Path,
        hardware: Hardware,
        is_tried: bool,
    ) -> Result<Self, String> {
        if !rustix::process::geteuid().is_root() {
            return Err("the daemon is not root".to_owned());
        }
        let network = match &config.netns {
            Some(path) => File::open(path).map(OwnedFd::from),
            None => sys::empty_network(),
        };
        let network = network.map_err(|error| format!("no network namespace: {error}"))?;
        let kvm = hardware.needs_kvm().then(|| Path::new("/dev/kvm").metadata());
        let kvm = kvm.transpose().map_err(|error| format!("/dev/kvm: {error}"))?;
        let mut bound: Vec<_> = SYSTEM.into_iter().map(PathBuf::from).collect();
        let prefix = installed_in(binary);
        if !bound.iter().any(|dir| prefix.starts_with(dir)) {
            bound.push(prefix);
        }
        let kvm = kvm.map(|metadata| metadata.rdev());
        let jail = Self { ids: Ids::new(config.ids), network, bound, kvm };
        if is_tried {
            return Ok(jail);
        }
        let run_dir = config.run_dir.clone().filter(|dir| dir.is_dir());
        let place = run_dir.unwrap_or_else(std::env::temp_dir);
        jail.tried(&place, binary, hardware)
            .map_err(|error| format!("a trial failed: {error}"))?
            .map_or(Ok(jail), |said| Err(format!("QEMU does not run in a jail: {said}")))
    }

    /// Starts `binary` in a jail with the board of guests, and ends it before a guest runs.
    /// Returns its last output if it fails.
    fn tried(&self, place: &Path, binary: &Path, hardware: Hardware) -> io::Result<Option<String>> {
        /// Distinguishes the trials of one process.
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let dir = place.join(format!(".emberd-jail-{}-{number}", std::process::id()));
        let mut dir = VmDir::create(&dir).map_err(io::Error::other)?;
        let cell = self.cell(&mut dir, &[])?;
        let mut command = command(binary);
        command
            .args(hardware.trial())
            .current_dir(dir.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        sys::confine(&mut command, Confinement { jail: Some(cell.plan), ..Confinement::default() });
        let mut child = command.spawn()?;
        drop(command);
        // The error of a process that has already ended is read below.
        drop(child.stdin.take().map(|mut monitor| monitor.write_all(b"quit\n")));
        let output = child.wait_with_output()?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        let said = said.lines().last().unwrap_or("nothing said").to_owned();
        Ok((!output.status.success()).then(|| format!("{said} ({})", output.status)))
    }

    /// Keeps the user of an orphan for it.
    pub(super) fn reserve(&self, orphan: &mut Orphan) {
        orphan.reserve(&self.ids);
    }

    /// A jail in `dir` that contains `images`, each a file of the host and its name inside. Its
    /// user is free again when `dir` is gone.
    pub(super) fn prepare(
        &self,
        dir: &mut VmDir,
        images: &[(&Path, &str)],
    ) -> Result<Cell, BootError> {
        let path = dir.path().to_owned();
        self.cell(dir, images).map_err(|source| BootError::Prepare { path, source })
    }

    fn cell(&self, dir: &mut VmDir, images: &[(&Path, &str)]) -> io::Result<Cell> {
        let lease = self.ids.lease()?;
        let uid = lease.id();
        let (work_dir, root) = (dir.path().join(WORK_DIR), dir.path().join(ROOT));
        for made in [&work_dir, &root] {
            DirBuilder::new().mode(0o700).create(made)?;
        }
        chown(&work_dir, Some(uid), Some(uid))?;
        dir.keep(lease);
        let network = self.network.try_clone()?;
        let mut plan = Plan::new(&root, WORK_DIR_INSIDE, uid, network)?;
        for path in &self.bound {
            plan.show_if_present(path, Access::Run)?;
        }
        // Its own process and no other: there it finds the descriptors it inherits by name.
        plan.show(Path::new("/proc/self"), Path::new("/proc/self"), Access::Read)?;
        for (file, inside) in images {
            plan.show(file, Path::new(inside), Access::Read)?;
        }
        if let Some(number) = self.kvm {
            plan.device(number, Path::new("/dev/kvm"))?;
        }
        plan.show(&work_dir, Path::new(WORK_DIR_INSIDE), Access::Write)?;
        Ok(Cell { work_dir, uid, plan })
    }
}

/// Returns the directory a program was installed in, with its libraries and firmware: the parent
/// of `bin`, else its own directory. Never the host's root.
fn installed_in(binary: &Path) -> PathBuf {
    let dir = binary.parent();
    let prefix = dir.filter(|dir| dir.ends_with("bin")).and_then(Path::parent);
    let prefix = prefix.filter(|prefix| prefix.parent().is_some());
    prefix.or(dir).unwrap_or(binary).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_brings_what_it_was_installed_with() {
        let cases = [
            ("/usr/bin/qemu", "/usr"),
            ("/opt/qemu-10/bin/qemu", "/opt/qemu-10"),
            ("/srv/build/qemu", "/srv/build"),
            ("/bin/qemu", "/bin"),
        ];
        for (binary, expect) in cases {
            assert_eq!(installed_in(Path::new(binary)), Path::new(expect));
        }
    }
}
