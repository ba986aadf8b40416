//! A root directory and a user for one VMM: planned by the daemon, carried out by the VMM's
//! process between fork and exec.
//!
//! ```text
//! own mounts ─▶ tmpfs ─▶ files bound into it ─▶ pivot ─▶ read-only ─▶ own user
//! ```
//!
//! The process may neither allocate nor lock there, so every path is prepared before. Only this
//! process sees the mounts, and they end with it.

use std::collections::BTreeSet;
use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{CWD, FileType, Gid, Mode, Uid, chownat, mkdirat, mknodat, symlinkat};
use rustix::io::Errno;
use rustix::mount::{
    MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_bind, mount_change,
    mount_remount, unmount,
};
use rustix::process::{chdir, pivot_root, umask};
use rustix::thread::{
    CapabilitySet, CapabilitySets, LinkNameSpaceType, move_into_link_name_space,
    remove_capability_from_bounding_set, set_capabilities, set_thread_groups, set_thread_res_gid,
    set_thread_res_uid,
};

/// Size of the root itself, which holds mount points and links.
const ROOT_OPTIONS: &CStr = c"mode=0755,size=64k,nr_inodes=128";

/// Capabilities a set of them has room for.
const CAPABILITIES: u32 = 64;

/// Access of a VMM to a bound file or directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    /// Read it, and run programs from it.
    Run,
    /// Read it.
    Read,
    /// Read it, write to it and make files in it.
    Write,
}

impl Access {
    fn flags(self) -> MountFlags {
        let never = MountFlags::BIND | MountFlags::NOSUID | MountFlags::NODEV;
        match self {
            Self::Run => never | MountFlags::RDONLY,
            Self::Read => never | MountFlags::RDONLY | MountFlags::NOEXEC,
            Self::Write => never | MountFlags::NOEXEC,
        }
    }
}

/// The jail of one VMM.
#[derive(Debug)]
pub(crate) struct Plan {
    /// Where on the host the root is mounted, which only the VMM sees.
    root: PathBuf,
    root_path: CString,
    made: BTreeSet<PathBuf>,
    steps: Vec<Step>,
    /// Directory in the jail the VMM starts in.
    work_dir: CString,
    uid: u32,
    network: OwnedFd,
}

/// One step in making the root. Places are paths of the host, below where it is mounted.
#[derive(Debug)]
enum Step {
    Directory(CString),
    File(CString),
    Link { to: CString, at: CString },
    Bind { from: CString, at: CString, access: Access },
    Device { number: u64, at: CString },
}

impl Plan {
    /// A jail for the user and group `uid` whose root will be mounted on the directory `root`
    /// and is still empty, in the network namespace `network`. The VMM starts in `work_dir` of
    /// the jail.
    pub(crate) fn new(root: &Path, work_dir: &str, uid: u32, network: OwnedFd) -> io::Result<Self> {
        Ok(Self {
            root: root.into(),
            root_path: c_path(root)?,
            made: BTreeSet::new(),
            steps: Vec::new(),
            work_dir: CString::new(work_dir)?,
            uid,
            network,
        })
    }

    /// Binds the host's file or directory `from` to `at`; of a directory only the part on the same
    /// file system. Follows a link.
    pub(crate) fn show(&mut self, from: &Path, at: &Path, access: Access) -> io::Result<()> {
        let is_dir = from.metadata()?.is_dir();
        let at = self.place(at)?;
        self.steps.push(if is_dir { Step::Directory(at.clone()) } else { Step::File(at.clone()) });
        self.steps.push(Step::Bind { from: c_path(from)?, at, access });
        Ok(())
    }

    /// Binds `path` of the host under the same name if it exists; copies a link as a link.
    pub(crate) fn show_if_present(&mut self, path: &Path, access: Access) -> io::Result<()> {
        match path.symlink_metadata() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
            Ok(metadata) if metadata.is_symlink() => {
                let to = c_path(&path.read_link()?)?;
                let at = self.place(path)?;
                self.steps.push(Step::Link { to, at });
                Ok(())
            }
            Ok(_) => self.show(path, path, access),
        }
    }

    /// Makes a character device `number` that belongs to the VMM's user.
    pub(crate) fn device(&mut self, number: u64, at: &Path) -> io::Result<()> {
        let at = self.place(at)?;
        self.steps.push(Step::Device { number, at });
        Ok(())
    }

    /// Where `at` of the jail is while it is made; its parents are made before.
    fn place(&mut self, at: &Path) -> io::Result<CString> {
        let plain = |part: &Component| matches!(part, Component::Normal(_));
        let parts: Vec<_> = at.components().filter(plain).collect();
        let mut place = self.root.clone();
        for (index, part) in parts.iter().enumerate() {
            place.push(part);
            if index + 1 < parts.len() && self.made.insert(place.clone()) {
                self.steps.push(Step::Directory(c_path(&place)?));
            }
        }
        c_path(&place)
    }

    /// Applies the plan to the calling process, which already has mounts of its own. Does not
    /// allocate.
    ///
    /// # Errors
    /// Returns the error of the first step that the kernel refuses.
    pub(crate) fn enter(&self) -> io::Result<()> {
        move_into_link_name_space(self.network.as_fd(), Some(LinkNameSpaceType::Network))?;
        umask(Mode::from_raw_mode(0o022));
        // Else the mounts below would appear on the host.
        mount_change(c"/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
        let flags = MountFlags::NOSUID | MountFlags::NOEXEC;
        mount(c"emberd-jail", &*self.root_path, c"tmpfs", flags, ROOT_OPTIONS)?;
        for step in &self.steps {
            self.take(step)?;
        }
        chdir(&*self.root_path)?;
        pivot_root(c".", c".")?;
        // The old root is mounted on the new one, under the same name.
        unmount(c".", UnmountFlags::DETACH)?;
        chdir(c"/")?;
        mount_remount(c"/", MountFlags::BIND | MountFlags::RDONLY | flags, c"")?;
        chdir(&*self.work_dir)?;
        umask(Mode::from_raw_mode(0o077));
        self.become_user()
    }

    fn take(&self, step: &Step) -> io::Result<()> {
        match step {
            Step::Directory(at) => match mkdirat(CWD, &**at, Mode::from_raw_mode(0o755)) {
                Err(Errno::EXIST) => Ok(()),
                made => Ok(made?),
            },
            Step::File(at) => {
                Ok(mknodat(CWD, &**at, FileType::RegularFile, Mode::from_raw_mode(0o444), 0)?)
            }
            Step::Link { to, at } => Ok(symlinkat(&**to, CWD, &**at)?),
            Step::Bind { from, at, access } => {
                mount_bind(&**from, &**at)?;
                Ok(mount_remount(&**at, access.flags(), c"")?)
            }
            Step::Device { number, at } => {
                let mode = Mode::from_raw_mode(0o600);
                mknodat(CWD, &**at, FileType::CharacterDevice, mode, *number)?;
                let (user, group) = (Uid::from_raw(self.uid), Gid::from_raw(self.uid));
                let flags = rustix::fs::AtFlags::empty();
                Ok(chownat(CWD, &**at, Some(user), Some(group), flags)?)
            }
        }
    }

    /// Gives up root: drops all capabilities, including those that exec could restore.
    fn become_user(&self) -> io::Result<()> {
        for number in 0..CAPABILITIES {
            match remove_capability_from_bounding_set(CapabilitySet::from_bits_retain(1 << number))
            {
                // The kernel has no further capabilities.
                Err(Errno::INVAL) => break,
                removed => removed?,
            }
        }
        let (user, group) = (Uid::from_raw(self.uid), Gid::from_raw(self.uid));
        set_thread_groups(&[])?;
        set_thread_res_gid(group, group, group)?;
        set_thread_res_uid(user, user, user)?;
        let none = CapabilitySet::empty();
        Ok(set_capabilities(
            None,
            CapabilitySets { effective: none, permitted: none, inheritable: none },
        )?)
    }
}

fn c_path(path: &Path) -> io::Result<CString> {
    Ok(CString::new(path.as_os_str().as_bytes())?)
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::os::unix::fs::symlink;

    use super::*;

    /// The steps, one a line, in a jail at `/root`.
    fn steps(edit: impl FnOnce(&mut Plan, &Path)) -> Vec<String> {
        let host = tempfile::tempdir().unwrap();
        fs::create_dir(host.path().join("lib")).unwrap();
        fs::write(host.path().join("kernel"), "").unwrap();
        symlink("usr/lib64", host.path().join("lib64")).unwrap();
        let network = File::open("/proc/self/ns/net").unwrap().into();
        let mut plan = Plan::new(Path::new("/root"), "/vm", 1, network).unwrap();
        edit(&mut plan, host.path());
        let host = host.path().to_str().unwrap();
        let text = |path: &CString| path.to_str().unwrap().replace(host, "/host");
        let line = |step: &Step| match step {
            Step::Directory(at) => format!("mkdir {}", text(at)),
            Step::File(at) => format!("touch {}", text(at)),
            Step::Link { to, at } => format!("ln -s {} {}", text(to), text(at)),
            Step::Bind { from, at, access } => {
                format!("bind {access:?} {} {}", text(from), text(at))
            }
            Step::Device { number, at } => format!("mknod {number} {}", text(at)),
        };
        plan.steps.iter().map(line).collect()
    }

    #[test]
    fn files_directories_and_devices_get_their_parents_once() {
        let steps = steps(|plan, host| {
            plan.show(&host.join("lib"), Path::new("/usr/lib"), Access::Run).unwrap();
            plan.show(&host.join("kernel"), Path::new("/usr/kernel"), Access::Read).unwrap();
            plan.device(0xae8, Path::new("/dev/kvm")).unwrap();
        });
        let expect = [
            "mkdir /root/usr",
            "mkdir /root/usr/lib",
            "bind Run /host/lib /root/usr/lib",
            "touch /root/usr/kernel",
            "bind Read /host/kernel /root/usr/kernel",
            "mkdir /root/dev",
            "mknod 2792 /root/dev/kvm",
        ];
        assert_eq!(steps, expect);
    }

    #[test]
    fn links_stay_links_and_what_is_missing_is_left_out() {
        let steps = steps(|plan, host| {
            plan.show_if_present(&host.join("lib64"), Access::Run).unwrap();
            plan.show_if_present(&host.join("lib128"), Access::Run).unwrap();
            plan.show(&host.join("lib128"), Path::new("/x"), Access::Read).unwrap_err();
        });
        assert_eq!(steps.last().unwrap().split(' ').nth(2), Some("usr/lib64"));
        assert!(steps.iter().all(|step| !step.starts_with("bind")), "{steps:?}");
    }

    #[test]
    fn only_what_may_be_written_to_is_writable_and_nothing_gives_rights() {
        for (access, read_only, runs) in
            [(Access::Run, true, true), (Access::Read, true, false), (Access::Write, false, false)]
        {
            let flags = access.flags();
            assert!(flags.contains(MountFlags::NOSUID | MountFlags::NODEV));
            assert_eq!(flags.contains(MountFlags::RDONLY), read_only);
            assert_eq!(flags.contains(MountFlags::NOEXEC), !runs);
        }
    }
}
