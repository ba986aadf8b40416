//! A plain directory stands for a hierarchy: what was written can be read back, and no directory
//! has `cgroup.procs` at first.

use super::*;
use crate::sys::{self, Confinement};

const OVERHEAD: Overhead = Overhead { mem_mib: 1, tasks: 2 };

const MACHINE: MachineShape =
    MachineShape { vcpu_count: 2, mem_size_mib: 3, disk_size_mib: 0, kernel_args: Vec::new() };

const HALF: CpuLimits = CpuLimits { percent: 50, weight: 100 };

/// A hierarchy with these controllers.
fn hierarchy(controllers: &str) -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    fs::write(root.path().join("cgroup.controllers"), controllers).unwrap();
    root
}

fn config(hierarchy: &Path, choice: CgroupChoice) -> CgroupConfig {
    CgroupConfig { choice, hierarchy: hierarchy.into(), own: hierarchy.join("own") }
}

/// Cgroups that a root daemon chooses by itself.
fn chosen(hierarchy: &Path) -> Cgroups {
    let dir = hierarchy.join(SHARED);
    Cgroups::found_in(Base { dir, is_made: true }, &config(hierarchy, CgroupChoice::Auto))
        .unwrap_or_else(|reason| Cgroups::None { reason })
}

#[test]
fn every_kind_of_host_says_what_it_limits() {
    let parent = tempfile::tempdir().unwrap();
    let host = |name: &str, file: Option<(&str, &str)>| {
        let root = parent.path().join(name);
        fs::create_dir(&root).unwrap();
        if let Some((file, text)) = file {
            fs::write(root.join(file), text).unwrap();
        }
        chosen(&root)
    };
    let controllers = |text| Some(("cgroup.controllers", text));
    let cases = [
        (host("full", controllers("cpuset cpu io memory pids\n")), "limited: memory, cpu, pids"),
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
        assert_eq!(cgroups.limited().is_empty(), expect.starts_with("not limited"), "{expect}");
    }
}

#[test]
fn controllers_are_passed_down_to_the_cgroup_of_all() {
    let root = hierarchy("cpu io memory pids\n");
    let cgroups = chosen(root.path());
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
    let (root, vms) = (hierarchy("memory\n"), tempfile::tempdir().unwrap());
    // A directory cannot be written to, even by root.
    fs::create_dir(root.path().join("cgroup.subtree_control")).unwrap();
    let cgroups = chosen(root.path());
    let described = cgroups.describe();
    assert!(described.starts_with("not limited: memory, cpu, pids ("), "{described}");
    assert!(described.contains("Is a directory"), "{described}");
    assert!(cgroups.make(&vms.path().join("sb_1"), &MACHINE, OVERHEAD).unwrap().is_none());
    assert!(!root.path().join("emberd").exists(), "nothing is left of the attempt");
}

#[test]
fn without_a_controller_nothing_is_made() {
    let (root, vms) = (hierarchy("io\n"), tempfile::tempdir().unwrap());
    let cgroups = chosen(root.path());
    assert!(cgroups.make(&vms.path().join("sb_1"), &MACHINE, OVERHEAD).unwrap().is_none());
    let refused = cgroups.limit_cpu("sb_1", HALF).unwrap_err().to_string();
    assert!(refused.contains("cpu, pids (its cgroup controller is missing)"), "{refused}");
    assert_eq!(fs::read_dir(root.path()).unwrap().count(), 1);
}

#[test]
fn a_microvm_has_a_cgroup_with_its_limits() {
    let (root, vms) = (hierarchy("cpu pids memory\n"), tempfile::tempdir().unwrap());
    let cgroups = chosen(root.path());
    let vm = vms.path().join("sb_1");
    fs::create_dir(&vm).unwrap();
    let made = cgroups.make(&vm, &MACHINE, OVERHEAD);
    assert_eq!(made.unwrap_err().kind(), io::ErrorKind::NotFound, "no real cgroup");
    let dir = root.path().join("emberd/sb_1");
    for (file, value) in [
        ("memory.max", "4194304"),
        ("memory.oom.group", "1"),
        ("cpu.max", "200000 100000"),
        ("pids.max", "2"),
    ] {
        assert_eq!(fs::read_to_string(dir.join(file)).unwrap(), value, "{file}");
    }
    cgroups.limit_cpu("sb_1", CpuLimits { percent: 150, weight: 20 }).unwrap();
    for (file, value) in [("cpu.max", "150000 100000"), ("cpu.weight", "20")] {
        assert_eq!(fs::read_to_string(dir.join(file)).unwrap(), value, "{file}");
    }
    let gone = cgroups.limit_cpu("sb_2", HALF).unwrap_err();
    assert!(matches!(gone, LimitError::Refused { .. }), "{gone}");
    let twice = cgroups.make(&vm, &MACHINE, OVERHEAD).unwrap_err();
    assert_eq!(twice.kind(), io::ErrorKind::AlreadyExists, "one microVM each");
    for file in ["memory.max", "memory.oom.group", "cpu.max", "cpu.weight", "pids.max"] {
        fs::remove_file(dir.join(file)).unwrap();
    }
    crate::holdings::release(&vm).unwrap();
    assert!(!dir.exists(), "it is removed with the microVM's directory");
}

#[test]
fn the_cgroup_of_all_is_made_again_after_another_daemon_removed_it() {
    let (root, vms) = (hierarchy("cpu\n"), tempfile::tempdir().unwrap());
    let cgroups = chosen(root.path());
    fs::remove_dir_all(root.path().join("emberd")).unwrap();
    let vm = vms.path().join("sb_1");
    fs::create_dir(&vm).unwrap();
    cgroups.make(&vm, &MACHINE, OVERHEAD).unwrap_err();
    assert!(root.path().join("emberd/sb_1/cpu.max").exists());
}

#[test]
fn a_given_cgroup_is_used_as_it_is_or_is_an_error() {
    let root = hierarchy("cpu io memory pids\n");
    let given = root.path().join("vms.service");
    let config = config(root.path(), CgroupChoice::In(given.clone()));
    let refused = Cgroups::find(&config).unwrap_err();
    assert!(refused.contains("vms.service is not a cgroup: No such file"), "{refused}");

    fs::create_dir(&given).unwrap();
    fs::write(given.join("cgroup.controllers"), "memory pids\n").unwrap();
    let cgroups = Cgroups::find(&config).unwrap();
    assert_eq!(cgroups.limited(), ["memory", "pids"]);
    let enabled = fs::read_to_string(given.join("cgroup.subtree_control")).unwrap();
    assert_eq!(enabled, "+memory +pids");
    assert!(!root.path().join("cgroup.subtree_control").exists(), "the others are systemd's");
    drop(cgroups);
    assert!(given.exists(), "and so is this one");
}

#[test]
fn a_daemon_leaves_the_cgroup_that_passes_controllers_down() {
    let root = hierarchy("memory\n");
    fs::write(root.path().join("own"), "0::/a.service\n").unwrap();
    let given = root.path().join("a.service");
    fs::create_dir(&given).unwrap();
    fs::write(given.join("cgroup.controllers"), "memory\n").unwrap();
    Cgroups::find(&config(root.path(), CgroupChoice::In(given.clone()))).unwrap();
    let moved = fs::read_to_string(given.join("daemon/cgroup.procs")).unwrap();
    assert_eq!(moved, std::process::id().to_string());
}

#[test]
fn only_a_delegated_cgroup_is_used_unasked() {
    let root = hierarchy("memory\n");
    let own = root.path().join("a.service");
    fs::create_dir(&own).unwrap();
    let refused = delegated(own.clone()).unwrap_err();
    assert_eq!(refused, "no cgroup was delegated to the daemon");
    let flags = rustix::fs::XattrFlags::empty();
    match rustix::fs::setxattr(&own, "user.delegate", b"1", flags) {
        // Not every file system has attributes.
        Err(rustix::io::Errno::NOTSUP) => return,
        set => set.unwrap(),
    }
    assert_eq!(delegated(own.clone()), Ok(own.clone()));
    assert_eq!(delegated(own.join("daemon")), Ok(own));
}

#[test]
fn a_process_enters_its_cgroup_before_it_becomes_the_vmm() {
    let procs = tempfile::NamedTempFile::new().unwrap();
    let cgroup = Some(procs.reopen().unwrap().into());
    let mut command = std::process::Command::new("/bin/cat");
    command.arg(procs.path());
    sys::confine(&mut command, Confinement { cgroup, ..Confinement::default() });
    let output = command.output().unwrap();
    assert_eq!(output.stdout, b"0", "itself, as cgroup.procs understands it: {output:?}");
}
