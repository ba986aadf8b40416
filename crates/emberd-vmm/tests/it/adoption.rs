//! What a daemon lets be, and how the next one takes it over.

use emberd_vmm::{
    AdoptError, ExitReason, Left, MicroVm as _, Orphan, OrphanVmm, SnapshotError, Vmm as _, left_in,
};
use rustix::process::{Pid, Signal, kill_process};

use crate::agent::Agent;
use crate::firecracker::lab::Lab;

fn is_vm(name: &str) -> bool {
    name.starts_with("sb_")
}

/// Whether the process runs. A zombie does not.
fn is_running(process_id: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{process_id}/stat")).unwrap_or_default();
    stat.rsplit(") ").next().is_some_and(|rest| !rest.is_empty() && !rest.starts_with(['Z', 'X']))
}

/// The only orphan.
fn orphan(lab: &Lab) -> Orphan {
    match left_in(&lab.path("vms"), is_vm).unwrap().pop() {
        Some(Left::Running(orphan)) => orphan,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_microvm_outlives_its_drivers_and_is_killed_by_the_last() {
    let lab = Lab::new();
    let vm = lab.driver(&[]).boot(lab.spec("sb_1")).await.unwrap();
    let process_id = vm.process_id();
    let mut agent = Agent::connect(&vm).await;
    assert_eq!(agent.run("echo kept > /tmp/$PPID").await, "");
    vm.detach();
    for _ in 0..2 {
        let adopted = lab.driver(&[]).adopt(orphan(&lab)).unwrap();
        assert_eq!(adopted.process_id(), process_id);
        assert_eq!(Agent::connect(&adopted).await.run("cat /tmp/$PPID").await, "kept\n");
        adopted.pause().await.unwrap();
        adopted.resume().await.unwrap();
        assert!(adopted.exited().is_running());
        adopted.detach();
    }
    let adopted = lab.driver(&[]).adopt(orphan(&lab)).unwrap();
    assert_eq!(Agent::connect(&adopted).await.run("rm /tmp/$PPID; echo gone").await, "gone\n");
    let images = Lab::images();
    let refused = adopted.snapshot(&lab.path("template"), images).await.unwrap_err();
    assert!(matches!(refused, SnapshotError::Create(_)), "{refused}");
    let exit = adopted.exited();
    adopted.kill().await.unwrap();
    assert_eq!(exit.reason(), Some(ExitReason::Signal(9)));
    assert!(!exit.is_running() && !is_running(process_id));
    lab.assert_empty();
}

#[tokio::test]
async fn the_end_of_an_adopted_vmm_is_noticed() {
    let lab = Lab::new();
    let vm = lab.driver(&[]).boot(lab.spec("sb_1")).await.unwrap();
    vm.detach();
    let adopted = lab.driver(&[]).adopt(orphan(&lab)).unwrap();
    let pid = Pid::from_raw(adopted.process_id().cast_signed()).unwrap();
    kill_process(pid, Signal::TERM).unwrap();
    let reason = adopted.exited().wait().await;
    // Older kernels than 6.15 do not tell.
    assert!(matches!(reason, ExitReason::Signal(15) | ExitReason::Unknown), "{reason:?}");
    adopted.kill().await.unwrap();
    lab.assert_empty();
}

#[tokio::test]
async fn dropping_an_adopted_microvm_ends_it_and_dropping_an_orphan_does_not() {
    let lab = Lab::new();
    let vm = lab.driver(&[]).boot(lab.spec("sb_1")).await.unwrap();
    let process_id = vm.process_id();
    vm.detach();
    drop(orphan(&lab));
    assert!(is_running(process_id));
    drop(lab.driver(&[]).adopt(orphan(&lab)).unwrap());
    assert!(!is_running(process_id));
    lab.assert_empty();
}

#[tokio::test]
async fn what_no_driver_knows_is_given_back_and_lives() {
    let lab = Lab::new();
    let vm = lab.driver(&[]).boot(lab.spec("sb_1")).await.unwrap();
    let record = lab.spec("sb_1").dir.join("vmm.json");
    vm.detach();
    let text = std::fs::read_to_string(&record).unwrap();
    let refused = |text: String| {
        std::fs::write(&record, text).unwrap();
        let refused = lab.driver(&[]).adopt(orphan(&lab)).unwrap_err();
        assert!(is_running(refused.orphan.process_id()));
        refused.why
    };
    let other = refused(text.replace(r#""firecracker""#, r#""other""#));
    assert!(matches!(other, AdoptError::OtherDriver(name) if name == "other"));
    let outside = refused(text.replace(r#""sockets":"""#, r#""sockets":"../..""#));
    assert!(matches!(outside, AdoptError::Unrecorded), "{outside}");
    let elsewhere = refused(text.replace(r#""sockets":"""#, r#""sockets":"gone""#));
    assert!(matches!(elsewhere, AdoptError::Use(_)), "{elsewhere}");
    // Found by where it works and what it is called.
    let torn = refused(r#"{"pid":"#.to_owned());
    assert!(matches!(torn, AdoptError::Unrecorded), "{torn}");
    let process_id = orphan(&lab).process_id();
    let removed = Left::Running(orphan(&lab)).remove().unwrap();
    assert_eq!(removed.vmm, OrphanVmm::Killed { process_id });
    assert!(!is_running(process_id));
    lab.assert_empty();
}

#[tokio::test]
async fn a_record_of_another_start_is_of_another_process() {
    let lab = Lab::new();
    let vm = lab.driver(&[]).boot(lab.spec("sb_1")).await.unwrap();
    let record = lab.spec("sb_1").dir.join("vmm.json");
    let mut document: serde_json::Value =
        serde_json::from_slice(&std::fs::read(&record).unwrap()).unwrap();
    document["start_time_ticks"] = 1.into();
    std::fs::write(&record, document.to_string()).unwrap();
    let left = left_in(&lab.path("vms"), is_vm).unwrap();
    let [Left::Ended { dir, is_of_this_boot: true }] = &left[..] else { panic!("{left:?}") };
    assert_eq!(*dir, lab.spec("sb_1").dir);
    vm.kill().await.unwrap();
}
