//! A cgroup for each VMM, with limits where the host's controllers allow them.
//!
//! ```text
//! <hierarchy>/emberd/ ─┬─ sb_…/   auto, as root: made and removed by the daemon
//! <delegated cgroup>/ ─┼─ sb_…/   others, or one given by the operator
//!                      └─ daemon/ where the daemon moves to, if it was in the delegated cgroup:
//!                                 one that passes controllers down has no processes itself
//! ```
//!
//! The daemon makes the cgroup, and the VMM's process enters it between fork and exec, jailed or
//! not (`Documentation/admin-guide/cgroup-v2.rst`). The directory of the microVM lists it, so that
//! it is removed with it, by whichever daemon.

use std::fs::{self, File};
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use crate::holdings::Holdings;
use crate::{CpuLimits, LimitError, MachineShape};

/// Place of the cgroups of VMMs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum CgroupChoice {
    /// As root in `emberd` below the top of the hierarchy, if it has controllers; else in the
    /// daemon's own cgroup, if that was delegated to its user.
    #[default]
    Auto,
    /// None is made.
    Off,
    /// In this directory of the hierarchy, which the daemon may write to.
    In(PathBuf),
}

/// Place of the cgroups of VMMs, and the files in which the host says what it has.
#[derive(Debug, Clone)]
pub struct CgroupConfig {
    /// Their place.
    pub choice: CgroupChoice,
    /// Mount point of the hierarchy.
    pub hierarchy: PathBuf,
    /// File that tells the daemon's own cgroup.
    pub own: PathBuf,
}

impl Default for CgroupConfig {
    fn default() -> Self {
        Self {
            choice: CgroupChoice::Auto,
            hierarchy: "/sys/fs/cgroup".into(),
            own: "/proc/self/cgroup".into(),
        }
    }
}

/// Resources that a VMM takes beyond its guest's memory and processors.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Overhead {
    /// Memory, in MiB.
    pub(crate) mem_mib: u64,
    /// Most tasks: its threads and the kernel's for it.
    pub(crate) tasks: u32,
}

/// A remedy for a cgroup that cannot be used.
pub(crate) const HINT: &str = "name a cgroup that was delegated to this user with --cgroup, or \
    start emberd-vms.service";

/// Name of the cgroup of all VMMs below the top of the hierarchy.
const SHARED: &str = "emberd";

/// Name of the cgroup that the daemon makes for itself where it must leave its own.
const DAEMON: &str = "daemon";

/// Attributes that say that a cgroup was delegated, as systemd sets them ("Control Group APIs and
/// Delegation"): by anyone, and by root alone.
const DELEGATED: [&str; 2] = ["user.delegate", "trusted.delegate"];

/// Length of the period processor time is limited over, in microseconds.
const CPU_PERIOD_US: u32 = 100_000;

/// File to which a process writes to enter a cgroup.
const PROCS: &str = "cgroup.procs";

/// File with the controllers that a cgroup passes down.
const PASSED_DOWN: &str = "cgroup.subtree_control";

/// The host's way of limiting resources.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Cgroups {
    /// Each VMM has a cgroup in `base`, with the limits that its controllers allow.
    In { base: Base, limits: Vec<Limit> },
    /// VMMs stay in the daemon's, for this reason.
    None { reason: String },
}

/// The directory of all cgroups of VMMs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Base {
    dir: PathBuf,
    /// Set if the daemon made it, below a cgroup that must pass controllers down to it.
    is_made: bool,
}

/// A resource that is limited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Limit {
    Memory,
    Cpu,
    Pids,
}

const LIMITS: [(Limit, &str); 3] =
    [(Limit::Memory, "memory"), (Limit::Cpu, "cpu"), (Limit::Pids, "pids")];

impl Cgroups {
    /// Finds the cgroup of all VMMs, and makes it pass its controllers down.
    ///
    /// # Errors
    /// Why the directory that the operator gave cannot be used: VMMs that stayed in the daemon's
    /// cgroup would end with its service.
    pub(crate) fn find(config: &CgroupConfig) -> Result<Self, String> {
        let found = Self::try_find(config);
        if matches!(config.choice, CgroupChoice::In(_)) {
            return found;
        }
        Ok(found.unwrap_or_else(|reason| Self::None { reason }))
    }

    fn try_find(config: &CgroupConfig) -> Result<Self, String> {
        let is_root = rustix::process::geteuid().is_root();
        let base = match &config.choice {
            CgroupChoice::Off => return Err("cgroups are switched off".to_owned()),
            CgroupChoice::In(dir) => Base { dir: dir.clone(), is_made: false },
            CgroupChoice::Auto if is_root => {
                Base { dir: config.hierarchy.join(SHARED), is_made: true }
            }
            CgroupChoice::Auto => {
                hierarchy_of_version_2(&config.hierarchy)?;
                Base { dir: own(config).and_then(delegated)?, is_made: false }
            }
        };
        Self::found_in(base, config)
    }

    fn found_in(base: Base, config: &CgroupConfig) -> Result<Self, String> {
        let limits = base.limits(&config.hierarchy)?;
        if limits.is_empty() && base.is_made {
            return Err("its cgroup controller is missing".to_owned());
        }
        if own(config).is_ok_and(|own| own == base.dir) {
            enter_below(&base.dir, DAEMON)
                .map_err(|error| format!("{}: {error}", base.dir.display()))?;
        }
        let passed = base.pass_down(&limits);
        let reason = passed.map_err(|error| format!("{}: {error}", base.dir.display()));
        // Made before: an attempt that failed leaves nothing behind.
        let found = Self::In { base, limits };
        reason.map(|()| found)
    }

    /// Describes, for people, what is limited and what is not.
    pub(crate) fn describe(&self) -> String {
        let (limits, why_not) = match self {
            Self::In { limits, .. } => (limits.as_slice(), "its cgroup controller is missing"),
            Self::None { reason } => (&[][..], reason.as_str()),
        };
        let names = |limited: bool| {
            let names = LIMITS.iter().filter(|(limit, _)| limits.contains(limit) == limited);
            names.map(|(_, name)| *name).collect::<Vec<_>>().join(", ")
        };
        match (names(true), names(false)) {
            (limited, rest) if rest.is_empty() => format!("limited: {limited}"),
            (limited, rest) if limited.is_empty() => format!("not limited: {rest} ({why_not})"),
            (limited, rest) => format!("limited: {limited}; not limited: {rest} ({why_not})"),
        }
    }

    /// Names of the resources that are limited.
    pub(crate) fn limited(&self) -> Vec<&'static str> {
        let Self::In { limits, .. } = self else { return Vec::new() };
        let names = LIMITS.iter().filter(|(limit, _)| limits.contains(limit));
        names.map(|(_, name)| *name).collect()
    }

    /// Limits the processor time of the microVM `id`, which runs.
    pub(crate) fn limit_cpu(&self, id: &str, cpu: CpuLimits) -> Result<(), LimitError> {
        let Self::In { base, limits } = self else {
            return Err(LimitError::Unavailable(self.describe()));
        };
        if !limits.contains(&Limit::Cpu) {
            return Err(LimitError::Unavailable(self.describe()));
        }
        let quota = format!("{} {CPU_PERIOD_US}", cpu.percent * (CPU_PERIOD_US / 100));
        for (file, value) in [("cpu.max", quota), ("cpu.weight", cpu.weight.to_string())] {
            let path = base.dir.join(id).join(file);
            fs::write(&path, value).map_err(|source| LimitError::Refused { path, source })?;
        }
        Ok(())
    }

    /// Makes the cgroup of the microVM of `dir`, whose name it has, with the limits of a guest on
    /// `machine`, and returns the file to which a process writes to enter it. None is made if VMMs
    /// stay in the daemon's. It is listed in `dir` and goes with it.
    pub(crate) fn make(
        &self,
        dir: &Path,
        machine: &MachineShape,
        overhead: Overhead,
    ) -> io::Result<Option<OwnedFd>> {
        let (Self::In { base, limits }, Some(id)) = (self, dir.file_name()) else {
            return Ok(None);
        };
        let cgroup = base.dir.join(id);
        Holdings { cgroups: vec![cgroup.clone()] }.write(dir)?;
        match fs::create_dir(&cgroup) {
            // Another daemon that shared it has ended.
            Err(error) if error.kind() == io::ErrorKind::NotFound && base.is_made => {
                base.pass_down(limits)?;
                fs::create_dir(&cgroup)?;
            }
            made => made?,
        }
        for limit in limits {
            fs::write(cgroup.join(limit.file()), limit.value(machine, overhead))?;
        }
        if limits.contains(&Limit::Memory) {
            // All of its processes end, or none.
            fs::write(cgroup.join("memory.oom.group"), "1")?;
        }
        Ok(Some(File::options().write(true).open(cgroup.join(PROCS))?.into()))
    }
}

impl Base {
    /// The limits that the controllers here allow; an error says why there are none at all.
    fn limits(&self, hierarchy: &Path) -> Result<Vec<Limit>, String> {
        let controllers = if self.is_made {
            hierarchy_of_version_2(hierarchy)?
        } else {
            fs::read_to_string(self.dir.join("cgroup.controllers"))
                .map_err(|error| format!("{} is not a cgroup: {error}", self.dir.display()))?
        };
        let has = |name: &str| controllers.split_whitespace().any(|word| word == name);
        Ok(LIMITS.iter().filter(|(_, name)| has(name)).map(|(limit, _)| *limit).collect())
    }

    /// Makes the directory, if it is the daemon's, and lets it pass down the controllers of
    /// `limits`, which a container may not allow.
    fn pass_down(&self, limits: &[Limit]) -> io::Result<()> {
        let names = LIMITS.iter().filter(|(limit, _)| limits.contains(limit));
        let enable = names.map(|(_, name)| format!("+{name}")).collect::<Vec<_>>().join(" ");
        if self.is_made {
            fs::create_dir_all(&self.dir)?;
            let above = self.dir.parent().unwrap_or(&self.dir);
            fs::write(above.join(PASSED_DOWN), &enable)?;
        }
        if limits.is_empty() { Ok(()) } else { fs::write(self.dir.join(PASSED_DOWN), &enable) }
    }
}

/// The controllers of the hierarchy mounted at `root`; an error says what is there instead.
fn hierarchy_of_version_2(root: &Path) -> Result<String, String> {
    fs::read_to_string(root.join("cgroup.controllers")).map_err(|_| {
        let is_empty = fs::read_dir(root).map_or(true, |mut entries| entries.next().is_none());
        // Version 1, or both at once: restores are slow there, each controller has a tree of its
        // own, and version 1 is deprecated.
        let seen = if is_empty { "the host has no cgroups" } else { "the host has cgroup v1" };
        seen.to_owned()
    })
}

/// The daemon's own cgroup (`/proc/self/cgroup` of cgroups(7), the line of version 2).
fn own(config: &CgroupConfig) -> Result<PathBuf, String> {
    let lines = fs::read_to_string(&config.own).map_err(|error| error.to_string())?;
    let path = lines.lines().find_map(|line| line.strip_prefix("0::/"));
    path.map(|path| config.hierarchy.join(path)).ok_or_else(|| "no cgroup v2".to_owned())
}

/// Passes `own` if it was delegated to this user.
fn delegated(own: PathBuf) -> Result<PathBuf, String> {
    // A daemon that moved to its leaf, or was started there, belongs to the cgroup above.
    let above = own.parent().filter(|_| own.ends_with(DAEMON)).map(Path::to_owned);
    let dir = above.unwrap_or(own);
    let is_marked = |name: &&str| {
        let mut value = [0_u8; 8];
        rustix::fs::getxattr(&dir, *name, &mut value).is_ok_and(|bytes| value[..bytes] == *b"1")
    };
    if DELEGATED.iter().any(is_marked) {
        Ok(dir)
    } else {
        Err("no cgroup was delegated to the daemon".to_owned())
    }
}

/// Moves this process from its cgroup `own` to `leaf` below it.
fn enter_below(own: &Path, leaf: &str) -> io::Result<()> {
    let leaf = own.join(leaf);
    match fs::create_dir(&leaf) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        made => made?,
    }
    fs::write(leaf.join(PROCS), std::process::id().to_string())
}

/// Moves this process to the cgroup `leaf`, which is made, below its own, so that its own can pass
/// controllers down to those of VMMs. Returns its own, which it was in.
///
/// # Errors
/// The host has no cgroups of version 2, or the kernel refuses it.
pub fn hold_cgroup(leaf: &str) -> io::Result<PathBuf> {
    let own = own(&CgroupConfig::default()).map_err(io::Error::other)?;
    enter_below(&own, leaf)?;
    Ok(own)
}

impl Limit {
    fn file(self) -> &'static str {
        match self {
            Self::Memory => "memory.max",
            Self::Cpu => "cpu.max",
            Self::Pids => "pids.max",
        }
    }

    fn value(self, machine: &MachineShape, overhead: Overhead) -> String {
        match self {
            Self::Memory => (machine.mem_bytes() + (overhead.mem_mib << 20)).to_string(),
            Self::Cpu => {
                let quota_us = u32::from(machine.vcpu_count) * CPU_PERIOD_US;
                format!("{quota_us} {CPU_PERIOD_US}")
            }
            Self::Pids => overhead.tasks.to_string(),
        }
    }
}

impl Drop for Cgroups {
    /// Removes the directory of all, if this daemon made it, unless another daemon uses it.
    fn drop(&mut self) {
        if let Self::In { base: Base { dir, is_made: true }, .. } = self
            && let Err(error) = fs::remove_dir(&*dir)
        {
            tracing::debug!(%error, dir = %dir.display(), "cgroup of all VMMs not removed");
        }
    }
}

#[cfg(test)]
mod tests;
