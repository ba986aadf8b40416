//! Guests whose daemon goes in the middle of whatever it did, and the next daemon's first words.

use std::time::Duration;

use emberd_vmm::{ExitReason, Left, MicroVm as _, Orphan, QemuMicroVm, Vmm as _, left_in};
use rustix::process::{Pid, Signal, kill_process};
use tokio::time::timeout;

use super::guests::Lab;
use crate::agent::Agent;

/// Rounds of leaving and returning.
const ROUNDS: usize = 12;

/// Writes more than the channel and the host's buffers hold, then stays.
const FLOOD: &str = "head -c 3000000 /dev/zero | tr '\\0' y; sleep 1000";

fn orphan(lab: &Lab) -> Orphan {
    match left_in(&lab.vm(""), |name| name.starts_with("sb_")).unwrap().pop() {
        Some(Left::Running(orphan)) => orphan,
        other => panic!("{other:?}"),
    }
}

fn adopt(lab: &Lab) -> QemuMicroVm {
    lab.qemu.adopt(orphan(lab)).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_left_in_mid_output_greets_every_next_host_at_its_first_attempt() {
    let Some(lab) = Lab::new() else { return };
    let mut vm = lab.boot().await;
    let mut agent = Agent::connect(&vm).await;
    assert_eq!(agent.run("echo kept > /tmp/kept").await, "");
    for round in 0..ROUNDS {
        let mut flooded = Agent::connect(&vm).await;
        let begun = timeout(Duration::from_millis(20 * (round as u64 % 4)), flooded.run(FLOOD));
        begun.await.unwrap_err();
        vm.detach();
        vm = adopt(&lab);
        let mut agent = Agent::connect(&vm).await;
        assert_eq!(agent.run("cat /tmp/kept").await, "kept\n");
        assert_eq!(agent.run("pgrep -x sleep || echo none").await, "none\n");
    }
    vm.kill().await.unwrap();
    lab.assert_left(0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_that_stands_still_is_adopted_and_answers_once_it_runs() {
    let Some(lab) = Lab::new() else { return };
    let vm = lab.boot().await;
    // QEMU does not tell a guest that stands still that its host leaves: it goes on writing.
    let mut flooded = Agent::connect(&vm).await;
    timeout(Duration::from_millis(20), flooded.run(FLOOD)).await.unwrap_err();
    vm.pause().await.unwrap();
    vm.detach();
    let vm = adopt(&lab);
    let given_up = timeout(Duration::from_millis(200), vm.connect(1024)).await;
    assert!(given_up.is_err(), "a guest that stands still answered");
    let connected = async {
        let mut agent = Agent::connect(&vm).await;
        agent.run("echo runs").await
    };
    let resumed = async { vm.resume().await.unwrap() };
    let (said, ()) = tokio::join!(connected, resumed);
    assert_eq!(said, "runs\n");
    let mut exit = vm.exited();
    let pid = Pid::from_raw(vm.process_id().cast_signed()).unwrap();
    kill_process(pid, Signal::TERM).unwrap();
    let reason = exit.wait().await;
    // QEMU ends in order at this signal. Older kernels than 6.15 do not tell.
    assert!(matches!(reason, ExitReason::Code(0) | ExitReason::Unknown), "{reason:?}");
    drop(vm);
    lab.assert_left(0);
}
