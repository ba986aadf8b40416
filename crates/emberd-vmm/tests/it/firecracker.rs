//! The Firecracker driver over `fake-firecracker`, with the real agent behind it.

mod faults;
mod jail;
pub mod lab;
mod lives;
mod snapshots;

use emberd_proto::message::AGENT_PORT;
use emberd_vmm::firecracker::{FindError, Firecracker, VersionRefusal, vmconfig};
use emberd_vmm::{ConnectError, ExitReason, MicroVm as _, Vmm as _};

use crate::agent::Agent;
use lab::Lab;

#[tokio::test]
async fn a_guest_boots_runs_code_and_is_gone() {
    let lab = Lab::new();
    let vm = lab.driver(&[]).boot(lab.spec("sb_1")).await.unwrap();
    let mut agent = Agent::connect(&vm).await;
    assert_eq!(agent.run("echo $((6*7)); cat /proc/$PPID/comm").await, "42\nemberd-init\n");
    let cwd = std::fs::read_link(format!("/proc/{}/cwd", vm.process_id())).unwrap();
    assert_eq!(cwd, lab.spec("sb_1").dir);
    let mut exit = vm.exited();
    vm.kill().await.unwrap();
    assert_eq!(exit.wait().await, ExitReason::Signal(9));
    lab.assert_empty();
}

#[tokio::test]
async fn streams_are_many() {
    let lab = Lab::new();
    let vm = lab.driver(&[]).boot(lab.spec("sb_1")).await.unwrap();
    let mut first = Agent::connect(&vm).await;
    let mut second = Agent::connect(&vm).await;
    assert_eq!(second.run("echo 2").await, "2\n");
    assert_eq!(first.run("echo 1").await, "1\n");
}

#[tokio::test]
async fn a_port_nobody_listens_on_is_told_once_the_guest_has_answered() {
    let lab = Lab::new();
    let vm = lab.driver(&[]).boot(lab.spec("sb_1")).await.unwrap();
    drop(vm.connect(AGENT_PORT).await.unwrap());
    let error = vm.connect(7).await.unwrap_err();
    let refused = std::io::ErrorKind::ConnectionRefused;
    assert!(matches!(&error, ConnectError::Channel(source) if source.kind() == refused));
}

#[test]
fn releases_are_refused_by_name() {
    let lab = Lab::new();
    let find = |version: &str| {
        Firecracker::find(lab.config(&[&format!("--fake-version {version}")])).map(drop)
    };
    for version in ["1.14.4", "1.15.1", "1.16.0", "1.16.1", "1.16.2", "1.17.0"] {
        find(version).unwrap();
    }
    for version in ["1.13.1", "1.14.3", "1.15.0"] {
        let error = find(version).unwrap_err();
        assert!(matches!(error, FindError::Version(VersionRefusal::Vulnerable(_))), "{error}");
        assert!(error.hint().is_some());
    }
    let error = find("1.12.0").unwrap_err();
    assert_eq!(error.to_string(), "Firecracker 1.12.0 is too old");
}

#[test]
fn what_is_not_firecracker_is_not_used() {
    let lab = Lab::new();
    let find = |binary: &str| {
        let mut config = lab.config(&[]);
        config.binary = Some(binary.into());
        Firecracker::find(config).map(drop).unwrap_err()
    };
    assert!(matches!(find("/nonexistent/firecracker"), FindError::Missing));
    assert!(matches!(find("/bin/true"), FindError::Unreadable { .. }));
    assert!(matches!(find("/etc/passwd"), FindError::Run { .. }));
}

#[tokio::test]
async fn every_release_takes_the_calls_meant_for_it() {
    let lab = Lab::new();
    for version in ["1.14.4", "1.15.1", "1.16.2", "1.17.0"] {
        let driver = lab.driver(&[&format!("--fake-version {version}")]);
        assert_eq!(driver.description().version, version);
        let vm = driver.boot(lab.spec("sb_1")).await.unwrap();
        assert_eq!(Agent::connect(&vm).await.run("echo ok").await, "ok\n");
        vm.kill().await.unwrap();
    }
}

#[tokio::test]
async fn the_configuration_file_boots_without_an_api() {
    let lab = Lab::new();
    let dir = lab.path("by-hand");
    std::fs::create_dir(&dir).unwrap();
    std::fs::write(dir.join("vm.json"), vmconfig(&lab.spec("x"), true).unwrap()).unwrap();
    let mut firecracker = std::process::Command::new(Lab::double())
        .args(["--no-api", "--config-file", "vm.json"])
        .current_dir(&dir)
        .spawn()
        .unwrap();
    let stream = lab::dial_by_hand(&dir.join("v.sock"), AGENT_PORT).await;
    assert_eq!(Agent::greet(stream).await.run("echo ok").await, "ok\n");
    firecracker.kill().unwrap();
    firecracker.wait().unwrap();
}
