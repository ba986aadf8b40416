//! What a killed daemon leaves, and what of it the next one may touch.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use emberd_vmm::{OrphanVmm, Removed, remove_orphans};

use crate::world::{World, process_exists};

fn is_vm(name: &str) -> bool {
    name.starts_with("sb_")
}

/// A process that stands for a VMM whose daemon is gone; killed at the end of the test.
struct Orphan(Child);

impl Orphan {
    fn start() -> Self {
        Self(Command::new("sleep").arg("inf").stdin(Stdio::null()).spawn().unwrap())
    }

    /// The record a daemon writes beside its VMM.
    fn record(&self) -> String {
        record(self.0.id(), start_time_ticks(self.0.id()))
    }

    fn wait(mut self) -> ExitStatus {
        self.0.wait().unwrap()
    }
}

impl Drop for Orphan {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

fn start_time_ticks(process_id: u32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{process_id}/stat")).unwrap();
    stat.split_whitespace().nth(21).unwrap().parse().unwrap()
}

fn record(process_id: u32, start_time_ticks: u64) -> String {
    let boot_id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    let boot_id = boot_id.trim();
    format!(r#"{{"pid":{process_id},"start_time_ticks":{start_time_ticks},"boot_id":"{boot_id}"}}"#)
}

/// Leaves a microVM's directory with this record in it.
fn leave(run_dir: &Path, name: &str, record: &str) -> PathBuf {
    let dir = run_dir.join(name);
    std::fs::create_dir(&dir).unwrap();
    std::fs::write(dir.join("vmm.json"), record).unwrap();
    std::fs::write(dir.join("vm.log"), "hello\n").unwrap();
    dir
}

#[test]
fn the_recorded_process_is_killed_and_its_directory_removed() {
    use std::os::unix::process::ExitStatusExt as _;
    let world = World::new();
    let orphan = Orphan::start();
    let dir = leave(world.path(), "sb_1", &orphan.record());
    let removed = remove_orphans(world.path(), is_vm).unwrap();
    let vmm = OrphanVmm::Killed { process_id: orphan.0.id() };
    assert_eq!(removed, [Removed { dir, vmm }]);
    assert_eq!(orphan.wait().signal(), Some(9));
    assert!(world.vm_dirs().is_empty());
}

#[test]
fn a_recycled_process_id_is_not_killed() {
    let world = World::new();
    let mut stranger = Orphan::start();
    let process_id = stranger.0.id();
    let dir = leave(world.path(), "sb_1", &record(process_id, start_time_ticks(process_id) - 1));
    let removed = remove_orphans(world.path(), is_vm).unwrap();
    assert_eq!(removed, [Removed { dir, vmm: OrphanVmm::Ended }]);
    assert!(stranger.0.try_wait().unwrap().is_none(), "killed");
}

#[test]
fn a_record_of_another_boot_kills_nobody() {
    let world = World::new();
    let mut stranger = Orphan::start();
    let record = stranger.record().replace(r#""boot_id":""#, r#""boot_id":"0"#);
    leave(world.path(), "sb_1", &record);
    remove_orphans(world.path(), is_vm).unwrap();
    assert!(stranger.0.try_wait().unwrap().is_none(), "killed");
    assert!(world.vm_dirs().is_empty());
}

#[test]
fn torn_and_hostile_records_kill_nobody() {
    let world = World::new();
    let records = [
        ("sb_0", String::new(), OrphanVmm::Unrecorded),
        ("sb_1", r#"{"pid":12"#.into(), OrphanVmm::Unrecorded),
        ("sb_2", r#"{"pid":-1,"start_time_ticks":0,"boot_id":""}"#.into(), OrphanVmm::Unrecorded),
        ("sb_3", "[".repeat(100_000), OrphanVmm::Unrecorded),
        ("sb_4", record(0, 0), OrphanVmm::Ended),
        ("sb_5", record(1, start_time_ticks(1)), OrphanVmm::Ended),
        ("sb_6", record(u32::MAX, 0), OrphanVmm::Ended),
    ];
    for (name, record, _) in &records {
        leave(world.path(), name, record);
    }
    let removed = remove_orphans(world.path(), is_vm).unwrap();
    let outcomes: Vec<_> = removed.iter().map(|removed| removed.vmm).collect();
    assert_eq!(outcomes, records.map(|(_, _, outcome)| outcome));
    assert!(process_exists(std::process::id()));
    assert!(world.vm_dirs().is_empty());
}

#[test]
fn a_vmm_without_a_record_is_known_by_where_it_works_and_whose_it_says_it_is() {
    let world = World::new();
    let work_dir = leave(world.path(), "sb_1", "").join("vm");
    std::fs::create_dir(&work_dir).unwrap();
    let start = |dir: &Path, name: &str| {
        let mut command = Command::new("sh");
        command.args(["-c", "read line", name]).current_dir(dir).stdin(Stdio::piped());
        Orphan(command.spawn().unwrap())
    };
    let vmm = start(&work_dir, "sb_1");
    let mut strangers = [start(&work_dir, "sb_2"), start(world.path(), "sb_1")];
    let removed = remove_orphans(world.path(), is_vm).unwrap();
    assert_eq!(removed[0].vmm, OrphanVmm::Killed { process_id: vmm.0.id() });
    for stranger in &mut strangers {
        assert!(stranger.0.try_wait().unwrap().is_none(), "killed");
    }
}

#[test]
fn what_is_no_microvm_is_left_alone() {
    let world = World::new();
    let elsewhere = tempfile::tempdir().unwrap();
    std::fs::write(elsewhere.path().join("precious"), "").unwrap();
    std::fs::create_dir(world.path().join("notes")).unwrap();
    std::fs::write(world.path().join("sb_file"), "").unwrap();
    std::os::unix::fs::symlink(elsewhere.path(), world.path().join("sb_link")).unwrap();
    assert_eq!(remove_orphans(world.path(), is_vm).unwrap(), []);
    assert!(elsewhere.path().join("precious").exists());
    assert_eq!(world.vm_dirs(), ["notes"]);
    assert!(world.path().join("sb_link").exists());
}

#[test]
fn no_run_directory_is_no_orphans() {
    let world = World::new();
    assert_eq!(remove_orphans(&world.path().join("absent"), is_vm).unwrap(), []);
}

#[tokio::test]
async fn a_forgotten_microvm_is_found_by_the_record_its_driver_wrote() {
    use emberd_vmm::{ExitReason, MicroVm as _, Vmm as _};
    let world = World::new();
    let vm = world.firecracker("").boot(world.spec("sb_1")).await.unwrap();
    let mut exit = vm.exited();
    let process_id = vm.process_id();
    std::mem::forget(vm);
    let removed = remove_orphans(world.path(), is_vm).unwrap();
    assert_eq!(removed[0].vmm, OrphanVmm::Killed { process_id });
    assert_eq!(exit.wait().await, ExitReason::Signal(9));
    assert!(world.vm_dirs().is_empty());
}
