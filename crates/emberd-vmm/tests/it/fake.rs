//! Lives and deaths of fake microVMs: what every driver has from the shared process code.

use std::time::Duration;

use emberd_vmm::fake::{FakeVmm, Fault, Then};
use emberd_vmm::{
    BootError, ConnectError, ExitReason, LOG_BYTES_MAX, MicroVm as _, Vmm as _, console_tail,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::world::{World, open_files, process_exists};

/// A fake whose agent is a program of the test's own.
fn fake(world: &World, script: &str) -> FakeVmm {
    FakeVmm::new(world.program(script))
}

#[tokio::test]
async fn kill_leaves_neither_process_nor_directory() {
    let world = World::new();
    let vm = fake(&world, "exec sleep inf").boot(world.spec("sb_1")).await.unwrap();
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
async fn drop_leaves_neither_process_nor_directory() {
    let world = World::new();
    let vm = fake(&world, "exec sleep inf").boot(world.spec("sb_1")).await.unwrap();
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
    let vm = runtime.block_on(fake(&world, "exec sleep inf").boot(world.spec("sb_1"))).unwrap();
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
    let vm = runtime.block_on(fake(&world, "exec sleep inf").boot(world.spec("sb_1"))).unwrap();
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
    let vm = fake(&world, "exec sleep inf").boot(world.spec("sb_1")).await.unwrap();
    let (process_id, mut exit) = (vm.process_id(), vm.exited());
    let mut kill = Box::pin(vm.kill());
    let polled = futures::poll!(&mut kill);
    drop(kill);
    assert!(polled.is_pending() || polled.is_ready());
    assert_eq!(exit.wait().await, ExitReason::Signal(9));
    assert!(!process_exists(process_id));
}

#[tokio::test]
async fn what_the_agent_started_dies_with_it_even_in_a_session_of_its_own() {
    let world = World::new();
    let vmm = fake(&world, "setsid sh -c 'sleep inf & echo child $!; wait' & wait");
    let vm = vmm.boot(world.spec("sb_1")).await.unwrap();
    let child = loop {
        let log = console_tail(vm.console_log(), 1);
        if let Some(child) = log.strip_prefix("child ") {
            break child.parse().unwrap();
        }
        tokio::task::yield_now().await;
    };
    let pidfd = rustix::process::pidfd_open(
        rustix::process::Pid::from_raw(child).unwrap(),
        rustix::process::PidfdFlags::empty(),
    );
    let pidfd = pidfd.unwrap();
    vm.kill().await.unwrap();
    // Returns only when the child has ended: it is not ours to reap.
    let mut polled = [rustix::event::PollFd::new(&pidfd, rustix::event::PollFlags::IN)];
    assert_eq!(rustix::event::poll(&mut polled, None).unwrap(), 1);
}

#[tokio::test]
async fn death_is_noticed_with_its_reason_and_its_last_words() {
    let world = World::new();
    let vmm = fake(&world, "echo out; echo err >&2; exit 7");
    let vm = vmm.boot(world.spec("sb_1")).await.unwrap();
    let process_id = vm.process_id();
    assert_eq!(vm.exited().wait().await, ExitReason::Code(7));
    assert!(!process_exists(process_id), "reaped before it is told");
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
    let vm = fake(&world, script).boot(world.spec("sb_1")).await.unwrap();
    assert_eq!(vm.exited().wait().await, ExitReason::Code(0));
    let dir = vm.console_log().parent().unwrap();
    let logs = ["vm.log", "vm.log.1"].map(|name| dir.join(name).metadata().unwrap().len());
    assert!(logs.iter().all(|bytes| *bytes <= LOG_BYTES_MAX), "{logs:?}");
    assert_eq!(console_tail(vm.console_log(), 1), "the end");
}

#[tokio::test]
async fn a_directory_that_exists_is_refused_and_left_alone() {
    let world = World::new();
    std::fs::create_dir(world.path().join("sb_1")).unwrap();
    let error = fake(&world, "exec sleep inf").boot(world.spec("sb_1")).await.unwrap_err();
    assert!(matches!(error, BootError::Prepare { .. }), "{error}");
    assert_eq!(world.vm_dirs(), ["sb_1"]);
}

#[tokio::test]
async fn a_missing_program_leaves_no_directory() {
    let world = World::new();
    let vmm = FakeVmm::new("/nonexistent/agent");
    let error = vmm.boot(world.spec("sb_1")).await.unwrap_err();
    assert_eq!(error.to_string(), "cannot start /nonexistent/agent");
    assert!(world.vm_dirs().is_empty());
}

#[tokio::test]
async fn the_daemons_environment_is_not_passed_on() {
    let world = World::new();
    let vm = fake(&world, "exec env").boot(world.spec("sb_1")).await.unwrap();
    vm.exited().wait().await;
    let environment = console_tail(vm.console_log(), 100);
    assert!(!environment.contains("CARGO"), "{environment}");
}

#[tokio::test]
async fn the_child_is_confined() {
    let world = World::new();
    let script = "ulimit -n; ulimit -c; grep NoNewPrivs /proc/self/status; stat -c %a .";
    let vm = fake(&world, script).boot(world.spec("sb_1")).await.unwrap();
    vm.exited().wait().await;
    assert_eq!(console_tail(vm.console_log(), 9), "2048\n0\nNoNewPrivs: 1\n700");
}

#[tokio::test]
async fn two_hundred_lives_leak_nothing() {
    let world = World::new();
    let vmm = fake(&world, "exec sleep inf");
    vmm.boot(world.spec("sb_0")).await.unwrap().kill().await.unwrap();
    let files_before = open_files();
    for life in 0..200 {
        let vm = vmm.boot(world.spec(&format!("sb_{life}"))).await.unwrap();
        let (process_id, mut exit) = (vm.process_id(), vm.exited());
        match life % 2 {
            0 => vm.kill().await.unwrap(),
            _ => drop(vm),
        }
        exit.wait().await;
        assert!(!process_exists(process_id));
    }
    assert!(world.vm_dirs().is_empty());
    // The watches of the last lives end when they next run.
    while tokio::runtime::Handle::current().metrics().num_alive_tasks() > 0 {
        tokio::task::yield_now().await;
    }
    // Other tests open files beside this one, but not one for every life here.
    assert!(open_files() < files_before + 150, "{} open files", open_files());
}

#[tokio::test]
async fn faults_do_what_they_say() {
    let world = World::new();
    let vmm = fake(&world, "exec sleep inf").with_fault(Fault::FailBoot);
    let error = vmm.boot(world.spec("sb_1")).await.unwrap_err();
    let expect = "the VMM exited with code 1; its log ends: fake: cannot set up guest memory";
    assert_eq!(error.to_string(), expect);
    assert!(world.vm_dirs().is_empty());

    vmm.set_fault(Fault::PanicBooting);
    let vm = vmm.boot(world.spec("sb_1")).await.unwrap();
    assert!(matches!(vm.connect(1024).await, Err(ConnectError::Closed)));
    assert_eq!(vm.exited().wait().await, ExitReason::Code(3));
    drop(vm);

    vmm.set_fault(Fault::DieAfter(Duration::from_millis(1)));
    let vm = vmm.boot(world.spec("sb_1")).await.unwrap();
    assert_eq!(vm.exited().wait().await, ExitReason::Signal(9));
    drop(vm);

    vmm.set_fault(Fault::NeverReady);
    let vm = vmm.boot(world.spec("sb_1")).await.unwrap();
    assert!(futures::poll!(Box::pin(vm.connect(1024))).is_pending());
    drop(vm);

    for then in [Then::Close, Then::Silence] {
        vmm.set_fault(Fault::Answer { bytes: b"\xff\xff".into(), then });
        let vm = vmm.boot(world.spec("sb_1")).await.unwrap();
        let mut stream = vm.connect(1024).await.unwrap();
        stream.write_all(b"hello").await.unwrap();
        let mut answer = [0; 2];
        stream.read_exact(&mut answer).await.unwrap();
        assert_eq!(answer, [0xff, 0xff]);
        let mut rest = [0; 1];
        let next = futures::poll!(Box::pin(stream.read(&mut rest)));
        if then == Then::Silence {
            assert!(next.is_pending());
        } else {
            assert_eq!(stream.read(&mut rest).await.unwrap_or(0), 0);
        }
    }
    assert!(world.vm_dirs().is_empty());
}

/// Needs the guest agent: `cargo build -p emberd-init`.
#[tokio::test]
async fn the_real_agent_is_reached_while_it_starts_and_gone_when_killed() {
    let world = World::new();
    let vmm = FakeVmm::beside_current_exe();
    let vm = vmm.boot(world.spec("sb_1")).await.unwrap();
    let (process_id, first) = (vm.process_id(), vm.connect(1024).await.unwrap());
    let second = vm.connect(1024).await.unwrap();
    assert_eq!(vm.exited().reason(), None);
    drop((first, second));
    vm.kill().await.unwrap();
    assert!(!process_exists(process_id));
    assert!(world.vm_dirs().is_empty());
}
