//! `image` and `doctor`: what a host has to run guests with.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

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
        (&["build", "pack", "python", "--compression", "rar"], "unknown compression"),
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
    for what in
        ["vmm", "kvm", "memory", "swap", "run directory", "disk", "templates", "pool memory"]
    {
        assert_ne!(check(what)["seen"], "", "{what}");
    }
}

/// A Firecracker of the release `version`, as far as doctor asks.
fn firecracker(dir: &Path, version: &str) {
    for name in ["firecracker", "jailer"] {
        let script = format!(
            "#!/bin/sh\ncase $1 in --version) echo Program v{version};; *) echo v10.0.0;; esac\n"
        );
        let path = dir.join(name);
        fs::write(&path, script).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }
}

#[test]
fn doctor_looks_at_the_driver_that_is_asked_for() {
    let data_dir = tempfile::tempdir().unwrap();
    let current = data_dir.path().join("firecracker/current");
    fs::create_dir_all(&current).unwrap();
    let diagnose = |vmm: &str, jail: &str| -> Value {
        let args = ["doctor", "--json", "--vmm", vmm, "--jail", jail, "--data-dir"];
        let output = emberctl(ADDR_DEAD, &args).arg(data_dir.path()).output().unwrap();
        serde_json::from_slice(&output.stdout).unwrap()
    };
    let row = |diagnosis: &Value, what: &str| {
        let mut checks = diagnosis["checks"].as_array().unwrap().iter();
        checks.find(|check| check["what"] == what).cloned()
    };
    firecracker(&current, "1.16.2");
    let sound = diagnose("firecracker", "off");
    let release = row(&sound, "firecracker").unwrap();
    assert_eq!(release["verdict"], "ok", "{release}");
    assert!(release["seen"].as_str().unwrap().starts_with("1.16.2, "), "{release}");
    assert_eq!(row(&sound, "snapshots").unwrap()["verdict"], "ok");
    assert_eq!(row(&sound, "jail").unwrap()["verdict"], "warn");
    assert!(row(&sound, "cgroups").is_some(), "{sound}");
    assert_eq!(row(&sound, "qemu"), None);
    firecracker(&current, "1.15.0");
    let release = row(&diagnose("firecracker", "auto"), "firecracker").unwrap();
    assert_eq!(release["verdict"], "fail", "{release}");
    assert!(release["seen"].as_str().unwrap().contains("CVE-2026-5747"), "{release}");
    let qemu = diagnose("qemu", "auto");
    assert!(row(&qemu, "qemu").is_some() && row(&qemu, "firecracker").is_none());
}

/// The checks of a diagnosis by `command`.
fn diagnosis(mut command: Command) -> impl Fn(&str) -> Value {
    let output = command.output().unwrap();
    let diagnosis: Value = serde_json::from_slice(&output.stdout).unwrap();
    move |what| {
        let mut checks = diagnosis["checks"].as_array().unwrap().iter();
        checks.find(|check| check["what"] == what).cloned().unwrap_or_default()
    }
}

#[test]
fn doctor_judges_the_daemon_of_the_configuration_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).display().to_string();
    firecracker(dir.path(), "1.16.2");
    let daemon = FakeDaemon::start(Flaws::default());
    let options = [
        format!("run-dir = '{}'", path("here")),
        format!("data-dir = '{}'", path("data")),
        format!("template-dir = '{}'", path("moulds")),
        format!("firecracker = '{}'", path("firecracker")),
        format!("addr = '{}'", daemon.addr),
        "vmm = 'firecracker'\njail = 'off'\npool-memory-mib = '8TiB'".to_owned(),
        // No host holds one such guest, and no process so many files.
        "guest-ram-mib = '1TiB'\nmax-sandboxes = 4096".to_owned(),
    ];
    let file = path("emberd.toml");
    fs::write(&file, options.join("\n")).unwrap();
    let doctor = |args: &[&str]| {
        let mut command = emberctl("", &[&["doctor", "--json", "--config", &file], args].concat());
        command.env_remove("EMBERD_ADDR");
        command
    };
    let check = diagnosis(doctor(&[]));
    let seen = |what: &str| check(what)["seen"].as_str().unwrap_or_default().to_owned();
    assert!(seen("configuration").starts_with(&file), "{}", seen("configuration"));
    assert!(seen("run directory").contains(&path("here")), "{}", seen("run directory"));
    assert!(seen("disk").ends_with(&path("data")), "{}", seen("disk"));
    assert!(seen("templates").contains(&path("moulds")), "{}", seen("templates"));
    assert!(seen("firecracker").starts_with("1.16.2, "), "{}", seen("firecracker"));
    assert_eq!(check("qemu"), Value::Null);
    assert_eq!(check("memory")["verdict"], "fail");
    assert_eq!(check("pool memory")["verdict"], "warn");
    assert!(seen("pool memory").starts_with("up to 8.0 TiB"), "{}", seen("pool memory"));
    assert!(seen("daemon").contains(&daemon.addr), "{}", seen("daemon"));
    // A flag wins over the file.
    let check = diagnosis(doctor(&["--vmm", "qemu", "--pool-size", "off"]));
    assert_eq!((check("firecracker"), check("pool memory")), (Value::Null, Value::Null));
    assert!(check("qemu")["verdict"].is_string());
}

#[test]
fn doctor_says_what_is_wrong_with_the_configuration() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("emberd.toml");
    fs::write(&file, "gest-ram-mib = 1\n").unwrap();
    let mut command = emberctl(ADDR_DEAD, &["doctor", "--json"]);
    command.env("EMBERD_CONFIG", &file).env("EMBERD_VMM", "xen");
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", complaint(&output));
    let diagnosis: Value = serde_json::from_slice(&output.stdout).unwrap();
    let checks = diagnosis["checks"].as_array().unwrap();
    assert_eq!(checks.len(), 2, "{diagnosis}");
    let rows = checks.iter().map(|check| {
        assert_eq!((&check["what"], &check["verdict"]), (&"configuration".into(), &"fail".into()));
        format!("{}: {}", check["seen"].as_str().unwrap(), check["advice"].as_str().unwrap())
    });
    let rows: Vec<_> = rows.collect();
    assert!(rows[0].contains("unknown option `gest-ram-mib`: did you mean `guest-ram-mib`?"));
    assert!(rows[1].starts_with("EMBERD_VMM is `xen`"), "{rows:?}");
    // Other commands that work in the data directory read the file too.
    let mut command = emberctl(ADDR_DEAD, &["image", "ls"]);
    let output = command.env("EMBERD_CONFIG", &file).output().unwrap();
    assert_eq!(output.status.code(), Some(125));
    assert!(complaint(&output).contains("hint: did you mean"), "{}", complaint(&output));
}

#[test]
fn doctor_finds_the_daemon() {
    let daemon = FakeDaemon::start(Flaws::default());
    let output = run(&daemon.addr, &["doctor", "--data-dir", "/nonexistent"]);
    let text = String::from_utf8(output.stdout).unwrap();
    let row = text.lines().find(|line| line.contains(" daemon ")).unwrap();
    assert!(row.starts_with("ok ") && row.ends_with("fake on none: a test"), "{row}");
}
