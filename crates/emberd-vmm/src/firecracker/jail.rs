//! Runs Firecracker under its jailer: a user of its own, a root of its own.
//!
//! The jailer executes Firecracker in its own process, so one process is watched. Its tree is in
//! the microVM's directory and is removed with it. Its cgroup is the driver's, not the jailer's.
//! Firecracker's document jailer.md describes the flags.

use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::fs::StatVfsMountFlags;

use super::version::{self, Version};
use super::{FindError, stage};
use crate::holdings;
use crate::jail::{Ids, JailChoice, JailConfig, Lease};
use crate::process::{VmDir, command};
use crate::sys::open_files_max;
use crate::{BootError, Orphan};

/// Where the jailer makes its jails, in a microVM's directory.
const JAILS: &str = "jail";

/// A jailer, ready to be used.
#[derive(Debug)]
pub(super) struct Jail {
    jailer: PathBuf,
    ids: Ids,
    netns: Option<PathBuf>,
}

/// Where and as whom one VMM will run.
#[derive(Debug)]
pub(super) struct Cell {
    /// The jail's root, as seen from outside.
    pub(super) root: PathBuf,
    /// The VMM's user and group.
    pub(super) uid: u32,
    lease: Lease,
}

impl Jail {
    /// The jailer for `firecracker`, or in the inner error why microVMs are not jailed.
    ///
    /// # Errors
    /// [`FindError::Jail`] when a jail is demanded and cannot be had.
    pub(super) fn find(
        config: &JailConfig,
        firecracker: &Path,
        version: &Version,
    ) -> Result<Result<Self, String>, FindError> {
        let demanded = match config.choice {
            JailChoice::Off => return Ok(Err("switched off".to_owned())),
            JailChoice::On => true,
            JailChoice::Auto => false,
        };
        match Self::try_find(config, firecracker, version, demanded) {
            Err(reason) if demanded => Err(FindError::Jail { reason }),
            outcome => Ok(outcome),
        }
    }

    fn try_find(
        config: &JailConfig,
        firecracker: &Path,
        version: &Version,
        demanded: bool,
    ) -> Result<Self, String> {
        if !rustix::process::geteuid().is_root() {
            return Err("the daemon is not root".to_owned());
        }
        let beside = || firecracker.parent().map(Path::to_owned);
        let jailer = super::find_binary("jailer", config.jailer.as_deref(), beside().as_slice())
            .ok_or("no jailer found")?;
        let jailers = version::of_binary(&jailer).map_err(|error| error.to_string())?;
        if jailers != *version {
            return Err(format!("the jailer is version {jailers}, Firecracker {version}"));
        }
        if !demanded && super::find::needs_interpreter(firecracker) {
            return Err("Firecracker is linked dynamically: a jail has no libraries".to_owned());
        }
        if let Some(run_dir) = &config.run_dir {
            allows_jails(run_dir)?;
        }
        let ids = Ids::new(config.ids);
        Ok(Self { jailer, ids, netns: config.netns.clone() })
    }

    /// Keeps the user of an orphan for it.
    pub(super) fn reserve(&self, orphan: &mut Orphan) {
        orphan.reserve(&self.ids);
    }

    /// Makes the root in which the microVM `id` of `dir` will find `files`.
    pub(super) fn prepare(
        &self,
        dir: &Path,
        id: &str,
        firecracker: &Path,
        files: &[stage::Staged],
    ) -> Result<Cell, BootError> {
        let prepare = |path: &Path| {
            let path = path.to_owned();
            move |source| BootError::Prepare { path, source }
        };
        let jails = dir.join(JAILS);
        let lease = self.ids.lease().map_err(prepare(&jails))?;
        // Some files are mounted, and mounts are looked for where there is a list.
        holdings::list(dir).map_err(prepare(dir))?;
        let program = firecracker.file_name().unwrap_or_default();
        let root = jails.join(program).join(id).join("root");
        let mut builder = std::fs::DirBuilder::new();
        builder.recursive(true).mode(0o700).create(&root).map_err(prepare(&root))?;
        stage::jail(&root, files, lease.id())?;
        Ok(Cell { root, uid: lease.id(), lease })
    }

    /// The command that becomes `firecracker` in `cell`; its arguments are still to be added.
    /// The cell's user is free again when `dir` is gone.
    pub(super) fn command(
        &self,
        dir: &mut VmDir,
        id: &str,
        firecracker: &Path,
        cell: Cell,
    ) -> Command {
        let user = cell.uid.to_string();
        let mut command = command(&self.jailer);
        command.args(["--id", id]).arg("--exec-file").arg(firecracker);
        command.args(["--uid", &user, "--gid", &user]);
        // The jailer's own default may be over the hard limit, which not every root may raise.
        command.arg("--resource-limit").arg(format!("no-file={}", open_files_max()));
        command.arg("--chroot-base-dir").arg(dir.path().join(JAILS));
        if let Some(netns) = &self.netns {
            command.arg("--netns").arg(netns);
        }
        command.arg("--");
        dir.keep(cell.lease);
        command
    }
}

/// Returns why jails in `run_dir`, which need not exist yet, cannot work.
fn allows_jails(run_dir: &Path) -> Result<(), String> {
    let existing = run_dir.ancestors().find(|dir| dir.exists()).unwrap_or(Path::new("/"));
    let flags = rustix::fs::statvfs(existing)
        .map_err(|error| format!("cannot look at {}: {error}", existing.display()))?
        .f_flag;
    denying(flags).map_or(Ok(()), |option| {
        let run_dir = run_dir.display();
        Err(format!("{run_dir} is mounted {option}: a jail needs devices and programs"))
    })
}

/// The mount option that denies a jail its devices or programs.
fn denying(flags: StatVfsMountFlags) -> Option<&'static str> {
    [(StatVfsMountFlags::NODEV, "nodev"), (StatVfsMountFlags::NOEXEC, "noexec")]
        .into_iter()
        .find_map(|(flag, option)| flags.contains(flag).then_some(option))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::jail::IdRange;

    #[test]
    fn mounts_without_devices_or_programs_hold_no_jail() {
        assert_eq!(denying(StatVfsMountFlags::NOSUID), None);
        assert_eq!(denying(StatVfsMountFlags::NOEXEC), Some("noexec"));
        assert_eq!(denying(StatVfsMountFlags::all()), Some("nodev"));
    }

    #[test]
    fn a_run_dir_that_does_not_exist_yet_is_judged_by_what_holds_it() {
        let root = rustix::fs::statvfs("/").unwrap().f_flag;
        assert_eq!(allows_jails(Path::new("/nowhere/yet")).is_ok(), denying(root).is_none());
    }

    #[test]
    fn golden_jailer_arguments() {
        let parent = tempfile::tempdir().unwrap();
        let uid = rustix::process::geteuid().as_raw();
        let jail = Jail {
            jailer: "/opt/jailer".into(),
            ids: Ids::new(IdRange { first: uid, count: 1 }),
            netns: Some("/run/netns/vm".into()),
        };
        let mut dir = VmDir::create(&parent.path().join("sb_1")).unwrap();
        let firecracker = Path::new("/opt/firecracker");
        let cell = jail.prepare(dir.path(), "sb-1", firecracker, &[]).unwrap();
        assert_eq!(cell.root, dir.path().join("jail/firecracker/sb-1/root"));
        assert!(jail.prepare(dir.path(), "sb-2", firecracker, &[]).is_err(), "one id, one VM");
        let command = jail.command(&mut dir, "sb-1", firecracker, cell);
        let args: Vec<_> = command.get_args().map(|arg| arg.to_string_lossy()).collect();
        let expect = format!(
            "--id sb-1 --exec-file /opt/firecracker --uid {uid} --gid {uid} --resource-limit \
             no-file={} --chroot-base-dir {}/jail --netns /run/netns/vm --",
            open_files_max(),
            dir.path().display()
        );
        assert_eq!(args.join(" "), expect);
        drop(dir);
        jail.ids.lease().expect("free again with the directory");
    }
}
