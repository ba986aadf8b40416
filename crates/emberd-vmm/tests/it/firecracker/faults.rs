//! Everything that can go wrong while a guest boots and after, by the double's faults.

use std::time::Duration;

use emberd_proto::message::AGENT_PORT;
use emberd_vmm::firecracker::{ApiError, Firecracker};
use emberd_vmm::{BootError, ConnectError, ExitReason, MicroVm as _, Vmm as _, console_tail};

use super::lab::{Lab, pass};
use crate::agent::Agent;

/// A time limit that no call reaches by itself.
const LONG: Duration = Duration::from_secs(3600);

const CALLS: [&str; 7] = [
    "PUT /serial",
    "PUT /machine-config",
    "PUT /boot-source",
    "PUT /drives/rootfs",
    "PUT /vsock",
    "PUT /entropy",
    "PUT /actions",
];

#[tokio::test]
async fn a_vmm_that_dies_at_any_call_is_told_by_its_exit_code() {
    let lab = Lab::new();
    for call in CALLS {
        let driver = lab.driver(&[&format!("--fault die-at={call}=152")]);
        let error = driver.boot(lab.spec("sb_1")).await.unwrap_err();
        let BootError::Exited { reason, .. } = &error else { panic!("{call}: {error:?}") };
        assert!(matches!(reason, ExitReason::Named { code: 152, .. }), "{reason}");
        lab.assert_empty();
    }
}

#[tokio::test]
async fn a_refused_call_is_told_in_firecrackers_words() {
    let lab = Lab::new();
    for call in CALLS {
        let driver = lab.driver(&[&format!("--fault refuse-at={call}")]);
        let error = driver.boot(lab.spec("sb_1")).await.unwrap_err();
        let BootError::Step { step, source, .. } = &error else { panic!("{call}: {error:?}") };
        assert_eq!(step, call);
        let source = source.downcast_ref::<ApiError>().unwrap();
        assert!(matches!(source, ApiError::Fault { status: 400, .. }), "{source:?}");
        lab.assert_empty();
    }
}

#[tokio::test]
async fn a_call_that_hangs_ends_at_its_deadline() {
    let lab = Lab::new();
    for call in CALLS {
        let mut config = lab.config(&[&format!("--fault hang-at={call}")]);
        config.call_timeout = LONG;
        let driver = Firecracker::find(config).unwrap();
        let mut boot = Box::pin(driver.boot(lab.spec("sb_1")));
        lab.marked("sb_1", ("hanging", 1), &mut boot).await;
        pass(LONG).await;
        let error = boot.await.unwrap_err();
        let BootError::Step { step, source, .. } = &error else { panic!("{call}: {error:?}") };
        assert_eq!(step, call);
        let source = source.downcast_ref::<ApiError>().unwrap();
        assert!(matches!(source, ApiError::TimedOut(after) if *after == LONG), "{source:?}");
        lab.assert_empty();
    }
}

#[tokio::test]
async fn a_boot_given_up_half_way_leaves_nothing() {
    let lab = Lab::new();
    let driver = lab.driver(&["--fault hang-at=PUT /entropy"]);
    let mut boot = Box::pin(driver.boot(lab.spec("sb_1")));
    lab.marked("sb_1", ("hanging", 1), &mut boot).await;
    drop(boot);
    lab.assert_empty();
}

#[tokio::test]
async fn an_api_connection_that_breaks_fails_the_boot() {
    let lab = Lab::new();
    let driver = lab.driver(&["--fault cut-api=40"]);
    let error = driver.boot(lab.spec("sb_1")).await.unwrap_err();
    let BootError::Step { source, .. } = &error else { panic!("{error:?}") };
    assert!(matches!(source.downcast_ref(), Some(ApiError::Closed(_))), "{source:?}");
    lab.assert_empty();
}

#[tokio::test]
async fn a_vmm_without_an_api_ends_at_its_deadline() {
    let lab = Lab::new();
    let mut config = lab.config(&[]);
    let answers = r"case $1 in --version) echo Firecracker v1.16.2;; --snap*) echo v10.0.0;; *) exec sleep inf;; esac";
    let script = format!("#!/bin/sh\nPATH=/usr/bin:/bin\n{answers}\n");
    std::fs::write(config.binary.as_ref().unwrap(), script).unwrap();
    config.call_timeout = Duration::from_millis(50);
    let error = Firecracker::find(config).unwrap().boot(lab.spec("sb_1")).await.unwrap_err();
    assert!(matches!(error, BootError::NoChannel { .. }), "{error:?}");
    lab.assert_empty();
}

#[tokio::test]
async fn a_guest_that_dies_booting_closes_its_channel() {
    let lab = Lab::new();
    for (code, expect) in [
        (0, "exited with code 0 (the guest rebooted or panicked)"),
        (148, "exited with code 148 (seccomp violation)"),
        (149, "exited with code 149 (SIGBUS: a memory file was cut, or huge pages ran out)"),
    ] {
        let faults = format!("--fault die-at-boot={code}");
        let vm =
            lab.driver(&[&faults, "--fault never-ready"]).boot(lab.spec("sb_1")).await.unwrap();
        let error = vm.connect(AGENT_PORT).await.unwrap_err();
        assert!(matches!(error, ConnectError::Closed), "{error:?}");
        assert!(vm.exited().wait().await.to_string().starts_with(&expect[..expect.len() - 1]));
        vm.kill().await.unwrap();
        lab.assert_empty();
    }
}

#[tokio::test]
async fn a_silent_guest_is_waited_for_until_the_caller_has_enough() {
    let lab = Lab::new();
    for (fault, seen) in [("never-ready", ("waiting", 1)), ("no-listener", ("turned-away", 5))] {
        let vm = lab.driver(&[&format!("--fault {fault}")]).boot(lab.spec("sb_1")).await.unwrap();
        lab.marked("sb_1", seen, vm.connect(AGENT_PORT)).await;
        drop(vm);
        lab.assert_empty();
    }
}

#[tokio::test]
async fn a_slow_guest_is_reached() {
    let lab = Lab::new();
    let vm = lab.driver(&["--fault slow-boot=900"]).boot(lab.spec("sb_1")).await.unwrap();
    assert_eq!(Agent::connect(&vm).await.run("echo ok").await, "ok\n");
}

#[tokio::test]
async fn a_stream_that_breaks_off_ends() {
    let lab = Lab::new();
    let vm = lab.driver(&["--fault cut-vsock=3"]).boot(lab.spec("sb_1")).await.unwrap();
    let mut stream = vm.connect(AGENT_PORT).await.unwrap();
    let mut hello = bytes::BytesMut::new();
    let message = emberd_proto::HostMessage::hello();
    emberd_proto::frame::encode_message(&message, &mut hello);
    tokio::io::AsyncWriteExt::write_all(&mut stream, &hello).await.unwrap();
    let mut answer = Vec::new();
    // Whether the end shows as end or as reset depends on what was in flight.
    let end = tokio::io::AsyncReadExt::read_to_end(&mut stream, &mut answer).await;
    assert!(answer.len() <= 3, "{answer:?} {end:?}");
}

#[tokio::test]
async fn a_vmm_killed_from_outside_is_noticed() {
    let lab = Lab::new();
    let vm = lab.driver(&[]).boot(lab.spec("sb_1")).await.unwrap();
    let mut agent = Agent::connect(&vm).await;
    let pid = rustix::process::Pid::from_raw(vm.process_id().try_into().unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    assert_eq!(vm.exited().wait().await, ExitReason::Signal(15));
    assert!(agent.has_ended().await);
    assert!(matches!(vm.connect(AGENT_PORT).await, Err(ConnectError::Closed)));
    vm.kill().await.unwrap();
    lab.assert_empty();
}

#[tokio::test]
async fn the_log_holds_what_firecracker_says() {
    let lab = Lab::new();
    let driver = lab.driver(&["--fault refuse-at=PUT /vsock"]);
    let vm = lab.driver(&[]).boot(lab.spec("sb_1")).await.unwrap();
    assert!(vm.console_log().exists(), "{}", console_tail(vm.console_log(), 5));
    let mut spec = lab.spec("sb_2");
    spec.kernel = lab.path("missing");
    let error = driver.boot(spec).await.unwrap_err();
    assert!(matches!(&error, BootError::Step { step, .. } if step == "PUT /boot-source"));
    assert!(vm.exited().reason().is_none(), "one microVM's end is not another's");
}
