//! Which resources the host can limit, and how the jailer is told.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use crate::MachineShape;
use crate::holdings::Holdings;

/// Memory a VMM may use beyond its guest's, in MiB: its own (about 5), page tables, and the
/// page cache of what it alone reads.
const OVERHEAD_MIB: u64 = 128;

/// Most tasks of one VMM: its threads, one per processor (at most 32), and the kernel's for it.
const PIDS_MAX: u32 = 64;

/// Length of the period processor time is limited over, in microseconds.
const CPU_PERIOD_US: u32 = 100_000;

/// The host's way of limiting resources.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Cgroups {
    /// Version 2, with the limits this host's controllers allow.
    V2 { root: PathBuf, parent: String, limits: Vec<Limit> },
    /// Version 1, or both at once: limits are not set. Restores are slow there and each
    /// controller has a tree of its own; it is on its way out.
    V1,
    /// None mounted.
    None,
}

/// A resource that is limited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Limit {
    Memory,
    Cpu,
    Pids,
}

const LIMITS: [(Limit, &str); 3] =
    [(Limit::Memory, "memory"), (Limit::Cpu, "cpu"), (Limit::Pids, "pids")];

impl Cgroups {
    /// Looks at the hierarchy mounted at `root`.
    pub(super) fn detect(root: &Path, parent: &str) -> Self {
        if let Ok(controllers) = std::fs::read_to_string(root.join("cgroup.controllers")) {
            let has = |name: &str| controllers.split_whitespace().any(|word| word == name);
            let limits = LIMITS.iter().filter(|(_, name)| has(name)).map(|(limit, _)| *limit);
            return Self::V2 { root: root.into(), parent: parent.into(), limits: limits.collect() };
        }
        let is_empty = std::fs::read_dir(root).map_or(true, |mut entries| entries.next().is_none());
        if is_empty { Self::None } else { Self::V1 }
    }

    /// What is limited and what is not, for people.
    pub(super) fn describe(&self) -> String {
        let (limits, why_not) = match self {
            Self::V2 { limits, .. } => (limits.as_slice(), "its cgroup controller is missing"),
            Self::V1 => (&[][..], "the host has cgroup v1"),
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

    /// What the jailer makes for the microVM `id`.
    pub(super) fn holdings(&self, id: &str) -> Holdings {
        match self {
            Self::V2 { root, parent, limits } if !limits.is_empty() => {
                Holdings { cgroups: vec![root.join(parent).join(id)] }
            }
            _ => Holdings::default(),
        }
    }

    /// The jailer's flags for a guest on `machine`. Without a limit there are none: the
    /// jailer's default is version 1, and fails where that is missing.
    pub(super) fn args(&self, machine: &MachineShape) -> Vec<OsString> {
        let Self::V2 { parent, limits, .. } = self else { return Vec::new() };
        if limits.is_empty() {
            return Vec::new();
        }
        let mut args = vec!["--cgroup-version".into(), "2".into()];
        args.extend(["--parent-cgroup".into(), parent.into()]);
        for limit in limits {
            args.extend(["--cgroup".into(), limit.setting(machine).into()]);
        }
        args
    }
}

impl Limit {
    fn setting(self, machine: &MachineShape) -> String {
        match self {
            Self::Memory => format!("memory.max={}", machine.mem_bytes() + (OVERHEAD_MIB << 20)),
            Self::Cpu => {
                let quota_us = u32::from(machine.vcpu_count) * CPU_PERIOD_US;
                format!("cpu.max={quota_us} {CPU_PERIOD_US}")
            }
            Self::Pids => format!("pids.max={PIDS_MAX}"),
        }
    }
}

impl Drop for Cgroups {
    /// Removes the parent, which the jailer made, unless another daemon uses it.
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
            let machine = MachineShape { vcpu_count: 1, mem_size_mib: 1, kernel_args: Vec::new() };
            let limited = expect.starts_with("limited");
            assert_eq!(cgroups.args(&machine).is_empty(), !limited, "{expect}");
            assert_eq!(cgroups.holdings("x").cgroups.is_empty(), !limited, "{expect}");
        }
    }
}
