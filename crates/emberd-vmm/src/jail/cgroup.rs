//! Which resources the host can limit, and how: by a jailer's flags, or directly.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use crate::holdings::Holdings;
use crate::{CpuLimits, LimitError, MachineShape};

/// Resources that a VMM takes beyond its guest's memory and processors.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Overhead {
    /// Memory, in MiB.
    pub(crate) mem_mib: u64,
    /// Most tasks: its threads and the kernel's for it.
    pub(crate) tasks: u32,
}

/// Length of the period processor time is limited over, in microseconds.
const CPU_PERIOD_US: u32 = 100_000;

/// The host's way of limiting resources.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Cgroups {
    /// Version 2, with the limits this host's controllers allow.
    V2 { root: PathBuf, parent: String, limits: Vec<Limit> },
    /// Version 1, or both at once: limits are not set. Restores are slow there, each controller
    /// has a tree of its own, and version 1 is deprecated.
    V1,
    /// Version 2, but this daemon cannot set limits, for this reason.
    Denied { reason: String },
    /// No hierarchy is mounted.
    None,
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
    /// Detects the limits of the hierarchy mounted at `root`.
    pub(crate) fn detect(root: &Path, parent: &str) -> Self {
        if let Ok(controllers) = std::fs::read_to_string(root.join("cgroup.controllers")) {
            let has = |name: &str| controllers.split_whitespace().any(|word| word == name);
            let limits = LIMITS.iter().filter(|(_, name)| has(name)).map(|(limit, _)| *limit);
            return Self::V2 { root: root.into(), parent: parent.into(), limits: limits.collect() };
        }
        let is_empty = std::fs::read_dir(root).map_or(true, |mut entries| entries.next().is_none());
        if is_empty { Self::None } else { Self::V1 }
    }

    /// Describes, for people, what is limited and what is not.
    pub(crate) fn describe(&self) -> String {
        let (limits, why_not) = match self {
            Self::V2 { limits, .. } => (limits.as_slice(), "its cgroup controller is missing"),
            Self::V1 => (&[][..], "the host has cgroup v1"),
            Self::Denied { reason } => (&[][..], reason.as_str()),
            Self::None => (&[][..], "the host has no cgroups"),
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
        let Self::V2 { limits, .. } = self else { return Vec::new() };
        let names = LIMITS.iter().filter(|(limit, _)| limits.contains(limit));
        names.map(|(_, name)| *name).collect()
    }

    /// Returns the cgroups that the jailer makes for the microVM `id`.
    pub(crate) fn holdings(&self, id: &str) -> Holdings {
        Holdings { cgroups: self.dir(id).into_iter().collect() }
    }

    /// The cgroup of the microVM `id`; none where nothing is limited.
    fn dir(&self, id: &str) -> Option<PathBuf> {
        match self {
            Self::V2 { root, parent, limits } if !limits.is_empty() => {
                Some(root.join(parent).join(id))
            }
            _ => None,
        }
    }

    /// Limits the processor time of the microVM `id`, which runs.
    pub(crate) fn limit_cpu(&self, id: &str, cpu: CpuLimits) -> Result<(), LimitError> {
        let dir = self.dir(id).filter(|_| self.limited().contains(&"cpu"));
        let dir = dir.ok_or_else(|| LimitError::Unavailable(self.describe()))?;
        let quota = format!("{} {CPU_PERIOD_US}", cpu.percent * (CPU_PERIOD_US / 100));
        for (file, value) in [("cpu.max", quota), ("cpu.weight", cpu.weight.to_string())] {
            let path = dir.join(file);
            fs::write(&path, value).map_err(|source| LimitError::Refused { path, source })?;
        }
        Ok(())
    }

    /// The jailer's flags for a guest on `machine`. Without a limit there are none: the
    /// jailer's default is version 1, and fails where that is missing.
    pub(crate) fn args(&self, machine: &MachineShape, overhead: Overhead) -> Vec<OsString> {
        let Self::V2 { parent, limits, .. } = self else { return Vec::new() };
        if limits.is_empty() {
            return Vec::new();
        }
        let mut args = vec!["--cgroup-version".into(), "2".into()];
        args.extend(["--parent-cgroup".into(), parent.into()]);
        for limit in limits {
            let setting = format!("{}={}", limit.file(), limit.value(machine, overhead));
            args.extend(["--cgroup".into(), setting.into()]);
        }
        args
    }
}

impl Cgroups {
    /// The same for a daemon that makes its cgroups itself: tries to pass the controllers
    /// down to the parent, which a container may not allow.
    pub(crate) fn delegated(self) -> Self {
        let Self::V2 { root, parent, limits } = &self else { return self };
        if limits.is_empty() {
            return self;
        }
        let names = LIMITS.iter().filter(|(limit, _)| limits.contains(limit));
        let enable = names.map(|(_, name)| format!("+{name}")).collect::<Vec<_>>().join(" ");
        let dir = root.join(parent);
        let enable_in = |dir: &Path| fs::write(dir.join("cgroup.subtree_control"), &enable);
        let delegated =
            fs::create_dir_all(&dir).and_then(|()| enable_in(root)).and_then(|()| enable_in(&dir));
        match delegated {
            Ok(()) => self,
            Err(error) => Self::Denied { reason: format!("{}: {error}", dir.display()) },
        }
    }

    /// Makes the cgroup of the microVM `id` with its limits, and returns the file to which a
    /// process writes to enter it; none where nothing is limited. It is one of [`Self::holdings`].
    pub(crate) fn make(
        &self,
        id: &str,
        machine: &MachineShape,
        overhead: Overhead,
    ) -> io::Result<Option<OwnedFd>> {
        let (Self::V2 { limits, .. }, Some(dir)) = (self, self.dir(id)) else { return Ok(None) };
        fs::create_dir(&dir)?;
        for limit in limits {
            fs::write(dir.join(limit.file()), limit.value(machine, overhead))?;
        }
        let procs = File::options().write(true).open(dir.join("cgroup.procs"))?;
        Ok(Some(procs.into()))
    }
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
    /// Removes the parent, which the jailer or this daemon made, unless another daemon uses it.
    fn drop(&mut self) {
        if let Self::V2 { root, parent, .. } = self
            && let Err(error) = std::fs::remove_dir(root.join(&*parent))
        {
            tracing::debug!(%error, parent, "parent cgroup not removed");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OVERHEAD: Overhead = Overhead { mem_mib: 1, tasks: 2 };

    #[test]
    fn every_kind_of_host_says_what_it_limits() {
        let parent = tempfile::tempdir().unwrap();
        let host = |name: &str, file: Option<(&str, &str)>| {
            let root = parent.path().join(name);
            std::fs::create_dir(&root).unwrap();
            if let Some((file, text)) = file {
                std::fs::write(root.join(file), text).unwrap();
            }
            Cgroups::detect(&root, "emberd")
        };
        let controllers = |text| Some(("cgroup.controllers", text));
        let cases = [
            (
                host("full", controllers("cpuset cpu io memory pids\n")),
                "limited: memory, cpu, pids",
            ),
            (
                host("part", controllers("memory\n")),
                "limited: memory; not limited: cpu, pids (its cgroup controller is missing)",
            ),
            (
                host("bare", controllers("\n")),
                "not limited: memory, cpu, pids (its cgroup controller is missing)",
            ),
            (
                host("v1", Some(("memory", ""))),
                "not limited: memory, cpu, pids (the host has cgroup v1)",
            ),
            (host("none", None), "not limited: memory, cpu, pids (the host has no cgroups)"),
        ];
        for (cgroups, expect) in cases {
            assert_eq!(cgroups.describe(), expect);
            let machine = MachineShape {
                vcpu_count: 1,
                mem_size_mib: 1,
                disk_size_mib: 0,
                kernel_args: Vec::new(),
            };
            let limited = expect.starts_with("limited");
            assert_eq!(cgroups.args(&machine, OVERHEAD).is_empty(), !limited, "{expect}");
            assert_eq!(cgroups.holdings("x").cgroups.is_empty(), !limited, "{expect}");
        }
    }

    /// A plain directory in place of a hierarchy with these controllers: written values can be
    /// read back, and no directory has `cgroup.procs` at first.
    fn hierarchy(controllers: &str) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        fs::write(root.path().join("cgroup.controllers"), controllers).unwrap();
        root
    }

    const MACHINE: MachineShape =
        MachineShape { vcpu_count: 2, mem_size_mib: 3, disk_size_mib: 0, kernel_args: Vec::new() };

    #[test]
    fn controllers_are_passed_down_to_the_parent_of_all() {
        let root = hierarchy("cpu io memory pids\n");
        let cgroups = Cgroups::detect(root.path(), "emberd").delegated();
        for dir in [root.path().to_owned(), root.path().join("emberd")] {
            let enabled = fs::read_to_string(dir.join("cgroup.subtree_control")).unwrap();
            assert_eq!(enabled, "+memory +cpu +pids");
        }
        assert_eq!(cgroups.describe(), "limited: memory, cpu, pids");
        fs::remove_file(root.path().join("emberd/cgroup.subtree_control")).unwrap();
        drop(cgroups);
        assert!(!root.path().join("emberd").exists());
    }

    #[test]
    fn a_host_that_passes_no_controllers_down_says_why() {
        let root = hierarchy("memory\n");
        // A directory cannot be written to, even by root.
        fs::create_dir(root.path().join("cgroup.subtree_control")).unwrap();
        let cgroups = Cgroups::detect(root.path(), "emberd").delegated();
        let described = cgroups.describe();
        assert!(described.starts_with("not limited: memory, cpu, pids ("), "{described}");
        assert!(described.contains("Is a directory"), "{described}");
        assert!(cgroups.make("sb_1", &MACHINE, OVERHEAD).unwrap().is_none());
        assert!(!root.path().join("emberd").exists(), "nothing is left of the attempt");
    }

    #[test]
    fn without_a_controller_nothing_is_made() {
        let root = hierarchy("io\n");
        let cgroups = Cgroups::detect(root.path(), "emberd").delegated();
        assert!(cgroups.make("sb_1", &MACHINE, OVERHEAD).unwrap().is_none());
        let refused = cgroups.limit_cpu("sb_1", CpuLimits { percent: 50, weight: 100 });
        let refused = refused.unwrap_err().to_string();
        assert!(refused.contains("cpu, pids (its cgroup controller is missing)"), "{refused}");
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_microvm_has_a_cgroup_with_its_limits() {
        let root = hierarchy("cpu pids memory\n");
        let cgroups = Cgroups::detect(root.path(), "emberd").delegated();
        let made = cgroups.make("sb_1", &MACHINE, OVERHEAD);
        assert_eq!(made.unwrap_err().kind(), io::ErrorKind::NotFound, "no real cgroup");
        let dir = root.path().join("emberd/sb_1");
        assert_eq!(cgroups.holdings("sb_1").cgroups, vec![dir.clone()]);
        for (file, value) in
            [("memory.max", "4194304"), ("cpu.max", "200000 100000"), ("pids.max", "2")]
        {
            assert_eq!(fs::read_to_string(dir.join(file)).unwrap(), value, "{file}");
        }
        cgroups.limit_cpu("sb_1", CpuLimits { percent: 150, weight: 20 }).unwrap();
        for (file, value) in [("cpu.max", "150000 100000"), ("cpu.weight", "20")] {
            assert_eq!(fs::read_to_string(dir.join(file)).unwrap(), value, "{file}");
        }
        let gone = cgroups.limit_cpu("sb_2", CpuLimits { percent: 1, weight: 1 }).unwrap_err();
        assert!(matches!(gone, LimitError::Refused { .. }), "{gone}");
        let twice = cgroups.make("sb_1", &MACHINE, OVERHEAD).unwrap_err();
        assert_eq!(twice.kind(), io::ErrorKind::AlreadyExists, "one microVM each");
    }
}
