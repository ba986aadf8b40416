//! `image` and `doctor`: what a host has to run guests with.

use std::fs;

use serde_json::Value;

use crate::fake_daemon::{FakeDaemon, Flaws};
use crate::{ADDR_DEAD, complaint, emberctl, printed, run};

#[test]
fn an_empty_data_directory_lists_nothing_and_prunes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let data_dir = dir.path().to_str().unwrap();
    let json = |args: &[&str]| -> Value {
        let args = [args, &["--json", "--data-dir", data_dir]].concat();
        serde_json::from_str(printed(&run(ADDR_DEAD, &args))).unwrap()
    };
    assert_eq!(json(&["image", "ls"]), Value::Array(Vec::new()));
    assert_eq!(json(&["image", "prune"])["files"], 0);
}

#[test]
fn builds_that_cannot_be_are_refused_with_a_hint() {
    let dir = tempfile::tempdir().unwrap();
    let agent = dir.path().join("agent");
    fs::write(&agent, "#!/bin/sh\n").unwrap();
    let agent = agent.to_str().unwrap();
    let cases = [
        (&["build"][..], "Usage:"),
        (&["build", "--from-rootfs", "/"], "--name"),
        (&["build", "pack"], "required"),
        (&["build", "pack", "cobol"], "python"),
        (&["build", "pack", "Python"], "1 to 32 of"),
        (&["build", "pack", "python", "--compression", "rar"], "no compression"),
        (&["build", "kernel", "--kernel", "/nonexistent"], "/nonexistent"),
        (&["build", "initramfs", "--agent", agent], "rootfs/build.sh"),
        (&["check", agent], "cannot check"),
    ];
    for (args, said) in cases {
        let args = [&["--data-dir", dir.path().to_str().unwrap(), "image"], args].concat();
        let output = run(ADDR_DEAD, &args);
        assert_eq!(output.status.code(), Some(125), "{args:?}");
        assert!(complaint(&output).contains(said), "{args:?}: {}", complaint(&output));
    }
}

#[test]
fn doctor_says_what_is_wrong_and_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let mut command = emberctl(ADDR_DEAD, &["doctor", "--json", "--data-dir"]);
    let command = command.arg(dir.path()).env("EMBERD_QEMU", "/nonexistent/qemu");
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", complaint(&output));
    let diagnosis: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(diagnosis["healthy"], false);
    let check = |what: &str| {
        let checks = diagnosis["checks"].as_array().unwrap();
        checks.iter().find(|check| check["what"] == what).unwrap().clone()
    };
    assert_eq!(check("qemu")["verdict"], "fail");
    assert!(check("qemu")["advice"].as_str().unwrap().contains("apt-get install"));
    assert_eq!(check("images")["verdict"], "fail");
    assert!(check("images")["seen"].as_str().unwrap().contains("emberctl image build kernel"));
    assert_eq!(check("daemon")["verdict"], "warn");
    for what in ["kvm", "memory", "disk"] {
        assert_ne!(check(what)["seen"], "", "{what}");
    }
}

#[test]
fn doctor_finds_the_daemon() {
    let daemon = FakeDaemon::start(Flaws::default());
    let output = run(&daemon.addr, &["doctor", "--data-dir", "/nonexistent"]);
    let text = String::from_utf8(output.stdout).unwrap();
    let row = text.lines().find(|line| line.contains(" daemon ")).unwrap();
    assert!(row.starts_with("ok ") && row.ends_with("fake on none: a test"), "{row}");
}
