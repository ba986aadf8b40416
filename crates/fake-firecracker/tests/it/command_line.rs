//! Flags, exit codes and what is printed.

use std::fs;
use std::process::{Command, Output};

use serde_json::json;

use crate::rig::{BINARY, Dir};

fn run(words: &[&str]) -> Output {
    Command::new(BINARY).args(words).output().unwrap()
}

#[test]
fn versions_print() {
    let printed = |words: &[&str]| String::from_utf8(run(words).stdout).unwrap();
    assert_eq!(printed(&["--version"]), "Firecracker v1.16.2\n\n");
    assert_eq!(printed(&["--fake-version", "1.17.0", "--version"]), "Firecracker v1.17.0\n\n");
    assert_eq!(printed(&["--fake-version", "1.16.1", "--snapshot-version"]), "v10.0.0\n");
    let environment =
        Command::new(BINARY).arg("--version").env("FAKE_FIRECRACKER_VERSION", "1.15.1").output();
    assert_eq!(environment.unwrap().stdout, b"Firecracker v1.15.1\n\n");
}

#[test]
fn wrong_words_have_exit_codes() {
    assert_eq!(run(&["--unknown"]).status.code(), Some(153));
    assert_eq!(run(&["--level", "Loud"]).status.code(), Some(152));
    assert_eq!(run(&["--describe-snapshot", "/nonexistent"]).status.code(), Some(1));
    assert_eq!(run(&["--id", "a_b"]).status.code(), None, "Firecracker aborts");
}

#[test]
fn a_state_file_is_described() {
    let dir = Dir::new();
    let vmm = dir.start(&[]);
    vmm.boot();
    vmm.pause();
    let create = json!({ "snapshot_path": "s", "mem_file_path": "m" });
    vmm.put("/snapshot/create", &create).done();
    let state = dir.path("s");
    let described = run(&["--describe-snapshot", state.to_str().unwrap()]);
    assert_eq!(described.stdout, b"v11.0.0\n");
}

#[test]
fn a_configuration_file_configures_and_starts() {
    let dir = Dir::new();
    let config = json!({
        "boot-source": { "kernel_image_path": "vmlinux", "boot_args": "reboot=k" },
        "drives": [
            { "drive_id": "rootfs", "is_root_device": false, "path_on_host": "pack.json" }
        ],
        "machine-config": { "vcpu_count": 2, "mem_size_mib": 64 },
        "vsock": { "guest_cid": 3, "uds_path": "v.sock" },
    });
    fs::write(dir.path("config.json"), config.to_string()).unwrap();
    let vmm = dir.start(&["--config-file", "config.json"]);
    assert_eq!(vmm.state(), "Running");
    assert_eq!(vmm.connect_agent().run("echo hi"), "hi\n");
}

#[test]
fn a_wrong_configuration_file_ends_the_process() {
    let dir = Dir::new();
    fs::write(dir.path("config.json"), r#"{"boot-source":{"kernel_image_path":"no"},"drives":[]}"#)
        .unwrap();
    let mut process = dir.spawn(&["--config-file", "config.json"]);
    assert_eq!(process.wait().unwrap().code(), Some(1));
}

#[test]
fn the_log_goes_to_its_file() {
    let dir = Dir::new();
    let vmm = dir.start(&["--log-path", "fc.log", "--level", "Error", "--show-level"]);
    vmm.put("/entropy", &json!({ "x": 1 })).fault_message();
    let log = fs::read_to_string(dir.path("fc.log")).unwrap();
    assert!(log.lines().all(|line| line.contains("[anonymous-instance:main:ERROR]")), "{log}");
    assert!(log.contains("Status code: 400"), "{log}");
}
