//! Lives and deaths of VMM processes: what every driver has from the shared process code.

use emberd_vmm::{
    BootError, ConnectError, ExitReason, LOG_BYTES_MAX, MicroVm as _, Vmm as _, console_tail,
};

use rustix::process::{Pid, Signal, getpgid, getsid, kill_process};

use crate::world::{World, process_exists};

/// Shell for a VMM that ends by itself once its guest is to start, with code 7.
const THEN_DIE: &str = "set -- \"$@\" --fault die-at-boot=7";

#[tokio::test]
async fn kill_leaves_neither_process_nor_directory() {
    let world = World::new();
    let vm = world.firecracker("").boot(world.spec("sb_1")).await.unwrap();
    let process_id = vm.process_id();
    assert!(process_exists(process_id));
    assert_eq!(world.vm_dirs(), ["sb_1"]);
    let mut exit = vm.exited();
    assert_eq!(exit.reason(), None);
    vm.kill().await.unwrap();
    assert_eq!(exit.wait().await, ExitReason::Signal(9));
    assert!(!process_exists(process_id));
    assert!(world.vm_dirs().is_empty());
}

#[tokio::test]
async fn a_vmm_has_a_session_of_its_own() {
    let world = World::new();
    let vm = world.firecracker("").boot(world.spec("sb_1")).await.unwrap();
    let pid = Pid::from_raw(vm.process_id().cast_signed());
    assert_eq!(Some(getsid(pid).unwrap()), pid);
    assert_eq!(Some(getpgid(pid).unwrap()), pid);
    vm.kill().await.unwrap();
}

#[tokio::test]
async fn drop_leaves_neither_process_nor_directory() {
    let world = World::new();
    let vm = world.firecracker("").boot(world.spec("sb_1")).await.unwrap();
    let (process_id, exit) = (vm.process_id(), vm.exited());
    drop(vm);
    assert_eq!(exit.reason(), Some(ExitReason::Signal(9)));
    assert!(!process_exists(process_id));
    assert!(world.vm_dirs().is_empty());
}

#[test]
fn drop_after_the_runtime_has_ended_leaves_nothing() {
    let world = World::new();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let vm = runtime.block_on(world.firecracker("").boot(world.spec("sb_1"))).unwrap();
    drop(runtime);
    let (process_id, exit) = (vm.process_id(), vm.exited());
    drop(vm);
    assert_eq!(exit.reason(), Some(ExitReason::Signal(9)));
    assert!(!process_exists(process_id));
    assert!(world.vm_dirs().is_empty());
}

#[test]
fn drop_during_a_panic_leaves_nothing() {
    let world = World::new();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let vm = runtime.block_on(world.firecracker("").boot(world.spec("sb_1"))).unwrap();
    let process_id = vm.process_id();
    let panicked = std::thread::spawn(move || {
        let _vm = vm;
        std::panic::resume_unwind(Box::new("on purpose"));
    });
    panicked.join().unwrap_err();
    assert!(!process_exists(process_id));
    assert!(world.vm_dirs().is_empty());
}

#[tokio::test]
async fn kill_that_nobody_awaits_any_more_is_carried_out() {
    let world = World::new();
    let vm = world.firecracker("").boot(world.spec("sb_1")).await.unwrap();
    let (process_id, mut exit) = (vm.process_id(), vm.exited());
    let mut kill = Box::pin(vm.kill());
    let polled = futures::poll!(&mut kill);
    drop(kill);
    assert!(polled.is_pending() || polled.is_ready());
    assert_eq!(exit.wait().await, ExitReason::Signal(9));
    assert!(!process_exists(process_id));
}

/// A directory stands for the cgroup of the VMM, and a signal for the kernel's.
#[tokio::test]
async fn a_vmm_that_its_cgroup_leaves_no_memory_says_so() {
    let world = World::new();
    let cgroup = tempfile::tempdir().unwrap();
    let events = cgroup.path().join("memory.events");
    for (kills, expect) in [(0, ExitReason::Signal(9)), (1, ExitReason::OutOfMemory)] {
        let vm = world.firecracker("").boot(world.spec("sb_1")).await.unwrap();
        let holdings = serde_json::json!({ "cgroups": [cgroup.path()] });
        let dir = vm.console_log().parent().unwrap();
        std::fs::write(dir.join("holdings.json"), holdings.to_string()).unwrap();
        std::fs::write(&events, format!("max 3\noom 1\noom_kill {kills}\n")).unwrap();
        let pid = Pid::from_raw(vm.process_id().cast_signed()).unwrap();
        kill_process(pid, Signal::KILL).unwrap();
        let reason = vm.exited().wait().await;
        assert_eq!(reason, expect);
        std::fs::write(dir.join("holdings.json"), "{\"cgroups\":[]}").unwrap();
        vm.kill().await.unwrap();
    }
    assert_eq!(ExitReason::OutOfMemory.to_string(), "ran out of the memory of its cgroup");
}

#[tokio::test]
async fn death_is_noticed_with_its_reason_and_its_last_words() {
    let world = World::new();
    let vmm = world.firecracker(&format!("echo out; echo err >&2; {THEN_DIE}"));
    let vm = vmm.boot(world.spec("sb_1")).await.unwrap();
    let process_id = vm.process_id();
    assert_eq!(vm.exited().wait().await, ExitReason::Code(7));
    assert!(!process_exists(process_id), "reaped before the end is reported");
    assert_eq!(console_tail(vm.console_log(), 9), "out\nerr");
    assert!(matches!(vm.connect(1024).await, Err(ConnectError::Closed)));
    assert_eq!(world.vm_dirs(), ["sb_1"], "its log is kept until somebody asks");
    vm.kill().await.unwrap();
    assert!(world.vm_dirs().is_empty());
}

#[tokio::test]
async fn endless_console_output_is_bounded_and_keeps_its_end() {
    let world = World::new();
    let script = "head -c 10485760 /dev/zero | tr '\\0' x; echo; printf '\\033[1mthe end\\007\\n'";
    let vmm = world.firecracker(&format!("{script}; {THEN_DIE}"));
    let vm = vmm.boot(world.spec("sb_1")).await.unwrap();
    assert_eq!(vm.exited().wait().await, ExitReason::Code(7));
    let dir = vm.console_log().parent().unwrap();
    let logs = ["vm.log", "vm.log.1"].map(|name| dir.join(name).metadata().unwrap().len());
    assert!(logs.iter().all(|bytes| *bytes <= LOG_BYTES_MAX), "{logs:?}");
    assert_eq!(console_tail(vm.console_log(), 1), "the end");
}

#[tokio::test]
async fn a_directory_that_exists_is_refused_and_left_alone() {
    let world = World::new();
    std::fs::create_dir(world.path().join("sb_1")).unwrap();
    let error = world.firecracker("").boot(world.spec("sb_1")).await.unwrap_err();
    assert!(matches!(error, BootError::Prepare { .. }), "{error}");
    assert_eq!(world.vm_dirs(), ["sb_1"]);
}

#[tokio::test]
async fn a_missing_program_leaves_no_directory() {
    let world = World::new();
    let vmm = world.firecracker("");
    let program = world.double.binary();
    std::fs::remove_file(&program).unwrap();
    let error = vmm.boot(world.spec("sb_1")).await.unwrap_err();
    assert_eq!(error.to_string(), format!("cannot start {}", program.display()));
    assert!(world.vm_dirs().is_empty());
}

#[tokio::test]
async fn the_daemons_environment_is_not_passed_on() {
    let world = World::new();
    let vm = world.firecracker(&format!("env; {THEN_DIE}")).boot(world.spec("sb_1")).await.unwrap();
    vm.exited().wait().await;
    let environment = console_tail(vm.console_log(), 100);
    assert!(!environment.contains("CARGO"), "{environment}");
}

#[tokio::test]
async fn the_child_is_confined() {
    let world = World::new();
    let script = "ulimit -n; ulimit -c; grep NoNewPrivs /proc/self/status; stat -c %a .";
    let vmm = world.firecracker(&format!("{script}; {THEN_DIE}"));
    let vm = vmm.boot(world.spec("sb_1")).await.unwrap();
    vm.exited().wait().await;
    assert_eq!(console_tail(vm.console_log(), 9), "2048\n0\nNoNewPrivs: 1\n700");
}
