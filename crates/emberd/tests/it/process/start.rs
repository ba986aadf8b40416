//! How the daemon starts, and how it does not.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Command, Stdio};

use fake_firecracker::write_program;
use rustix::process::Signal;

use super::{Daemon, Room};
use crate::wait;

/// The binary that is shipped, with nothing set up.
fn shipped() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_emberd"));
    command.env_clear().env("PATH", "/usr/bin:/bin").env("EMBERD_ADDR", "127.0.0.1:0");
    command.stdin(Stdio::null());
    command
}

#[tokio::test]
async fn options_come_from_flags_then_variables_then_the_file() {
    let room = Room::new();
    let file = room.path("emberd.toml");
    let options = "guest-ram-mib = 100\nguest-vcpus = 2\nmax-sandboxes = 3\nlog-format = 'json'\n";
    fs::write(&file, options).unwrap();
    let mut command = room.command();
    command.arg("--config").arg(&file).args(["--guest-vcpus", "4"]);
    command.env("EMBERD_GUEST_VCPUS", "3").env("EMBERD_MAX_SANDBOXES", "5");
    let daemon = Daemon::spawn(command);
    let info = daemon.client.info().await.unwrap();
    assert_eq!((info.guest_ram_mib, info.guest_vcpus, info.sandboxes_max), (100, 4, 5));
    daemon.stop(Signal::TERM).await;
    room.close().await;
}

#[test]
fn options_that_cannot_be_meant() {
    let room = Room::new();
    let file = room.path("emberd.toml");
    fs::write(&file, "adress = 'x'\n").unwrap();
    let file = file.to_str().unwrap();
    let cases: [(&[&str], &str); 14] = [
        (&["--addr", "nowhere"], "--addr is `nowhere`, not an address"),
        (&["--guest-ram-mib", "1"], "--guest-ram-mib is `1`, not between 64 and"),
        (&["--guest-ram-mib=-5"], "--guest-ram-mib is `-5`, not a size"),
        (&["--allowed-host", "http://a"], "--allowed-host is `http://a`, not the name of a host"),
        (&["--vmm", "xen"], "--vmm is `xen`, not one of auto, firecracker, qemu"),
        (&["--vmm", "firecracker", "--accel", "tcg"], "Firecracker needs KVM"),
        (&["--boot-timeout", "soon"], "--boot-timeout is `soon`, not a duration"),
        (&["--jail-uids", "0-9"], "--jail-uids is `0-9`, not a range"),
        (&["--pool-size", "many"], "--pool-size is `many`, not a whole number or `off`"),
        (&["--pool-size", "257"], "--pool-size is `257`, not between 0 and 256"),
        (&["--pool-memory-mib", "1"], "--pool-memory-mib is `1`, not between 64 and"),
        (&["--templates", "perhaps"], "--templates is `perhaps`, not one of on, off"),
        (&["--config", "/nonexistent"], "cannot read /nonexistent"),
        (&["--config", file], "emberd.toml:1: unknown option `adress`"),
    ];
    for (flags, expect) in cases {
        let mut command = shipped();
        command.args(flags);
        let errors = Room::refused(command);
        assert!(errors.contains(expect), "{flags:?}: {errors}");
        assert!(errors.contains("\nhint: "), "{flags:?}: {errors}");
    }
}

/// What `emberd` with `args` exits with, prints and complains of.
fn ended(command: &mut Command, args: &[&str]) -> (Option<i32>, String, String) {
    let output = command.args(args).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

#[test]
fn the_configuration_is_shown_with_where_it_comes_from() {
    let room = Room::new();
    let file = room.path("emberd.toml");
    fs::write(&file, "guest-vcpus = 2\nmax-sandboxes = 3\n").unwrap();
    let file = file.to_str().unwrap();
    let args = ["config", "print", "--json", "--config", file, "--data-dir", "/d", "--vmm", "qemu"];
    let (code, printed, errors) = ended(shipped().env("EMBERD_MAX_SANDBOXES", "5"), &args);
    assert_eq!((code, errors.as_str()), (Some(0), ""));
    let document: serde_json::Value = serde_json::from_str(&printed).unwrap();
    assert_eq!(document["file"], file);
    let options = document["options"].as_array().unwrap();
    assert_eq!(options.len(), emberd_config::DEFINITIONS.len());
    let option = |name: &str| {
        let option = options.iter().find(|option| option["option"] == name).unwrap();
        (option["value"].clone(), option["origin"].clone(), option["place"].clone())
    };
    let in_file = format!("{file}:1");
    assert_eq!(option("guest-vcpus"), (2.into(), "file".into(), in_file.into()));
    let variable = (5.into(), "environment".into(), "EMBERD_MAX_SANDBOXES".into());
    assert_eq!(option("max-sandboxes"), variable);
    assert_eq!(option("vmm"), ("qemu".into(), "flag".into(), "--vmm".into()));
    assert_eq!(option("template-dir").0, "/d/templates");
    assert_eq!(option("jailer").0, serde_json::Value::Null);
    // Flags go before the command as well.
    let (code, printed, _) = ended(&mut shipped(), &["--data-dir", "/d", "config", "print"]);
    assert_eq!(code, Some(0));
    let line = printed.lines().find(|line| line.starts_with("data-dir ")).unwrap();
    assert!(line.contains(" /d ") && line.ends_with("flag (--data-dir)"), "{line}");
}

#[test]
fn the_configuration_is_checked_without_a_start() {
    let room = Room::new();
    let file = room.path("emberd.toml");
    fs::write(&file, "guest-vcpus = 2\ndata-dir = '/d'\n").unwrap();
    let named = file.to_str().unwrap();
    let (code, printed, _) = ended(&mut shipped(), &["config", "check", named]);
    assert_eq!((code, printed), (Some(0), format!("the configuration is valid: {named}\n")));
    fs::write(&file, "guest-vcpu = 2\ndata-dir = '/d'\nvmm = 'xen'\n").unwrap();
    let mut command = shipped();
    command.env("EMBERD_BOOT_TIMEOUT", "soon");
    let (code, printed, errors) = ended(&mut command, &["config", "check", named]);
    assert_eq!((code, printed.as_str()), (Some(1), ""));
    for (error, hint) in [
        (format!("error: {named}:1: unknown option `guest-vcpu`"), "did you mean `guest-vcpus`?"),
        (format!("error: {named}:3: vmm is `xen`, not one of auto"), "values: auto, firecracker"),
        ("error: EMBERD_BOOT_TIMEOUT is `soon`, not a duration".to_owned(), "1ms to 1h"),
    ] {
        let mut lines = errors.lines().skip_while(|line| !line.starts_with(&error));
        assert!(lines.next().is_some(), "{error} not in {errors}");
        let next = lines.next().unwrap();
        assert!(next.starts_with("hint: ") && next.contains(hint), "{errors}");
    }
    assert_eq!(errors.lines().count(), 6, "{errors}");
}

#[test]
fn missing_qemu_is_named_with_what_to_do() {
    let mut command = shipped();
    command.args(["--vmm", "qemu", "--qemu", "/nonexistent/qemu"]);
    let errors = Room::refused(command);
    assert!(errors.contains("/nonexistent/qemu does not exist"), "{errors}");
    assert!(errors.contains("hint: "), "{errors}");
}

#[test]
fn firecracker_that_cannot_be_used_is_named_with_what_to_do() {
    let room = Room::new();
    let vulnerable = room.path("firecracker-1.15.0");
    write_program(&vulnerable, "echo Firecracker v1.15.0");
    let vulnerable = vulnerable.to_str().unwrap();
    let binary = room.double.binary();
    let binary = binary.to_str().unwrap();
    let cases: [(&[&str], &str, &str); 3] = [
        (&["--firecracker", "/nonexistent"], "no firecracker binary found", "--vmm qemu"),
        (&["--firecracker", vulnerable], "CVE-2026-5747", "1.16.2 or newer"),
        (
            &["--firecracker", binary, "--jail", "on", "--jailer", "/nonexistent"],
            "cannot jail microVMs",
            "--jail off",
        ),
    ];
    for (flags, expect, hint) in cases {
        let mut command = shipped();
        command.args(["--vmm", "firecracker", "--accel", "kvm"]).args(flags);
        let errors = Room::refused(command);
        assert!(errors.contains(expect), "{flags:?}: {errors}");
        let mut hints = errors.lines().filter_map(|line| line.strip_prefix("hint: "));
        assert!(hints.next().is_some_and(|line| line.contains(hint)), "{flags:?}: {errors}");
    }
}

#[tokio::test]
async fn firecracker_of_the_data_directory_is_found_and_the_choice_is_explained() {
    let room = Room::new();
    let installed = room.path("data/firecracker/current");
    fs::create_dir_all(&installed).unwrap();
    std::os::unix::fs::symlink(room.double.binary(), installed.join("firecracker")).unwrap();
    let mut command = shipped();
    command.args(["--vmm", "firecracker", "--accel", "kvm", "--jail", "off"]);
    command.args(["--templates", "off"]);
    command.arg("--data-dir").arg(room.path("data")).arg("--run-dir").arg(room.run_dir());
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let daemon = Daemon::spawn(command);
    let vmm = daemon.client.info().await.unwrap().vmm;
    assert_eq!((vmm.driver.as_str(), vmm.accelerator.as_str()), ("firecracker", "kvm"));
    assert!(vmm.reason.starts_with("firecracker was requested; "), "{}", vmm.reason);
    assert!(vmm.reason.contains("not jailed (switched off)"), "{}", vmm.reason);
    daemon.create().await;
    daemon.stop(Signal::TERM).await;
    room.close().await;
}

#[test]
fn missing_artifact_is_named_with_the_command_that_makes_it() {
    let room = Room::new();
    let qemu = room.path("qemu");
    write_program(&qemu, "echo 'QEMU emulator version 7.2.0'");
    let mut command = shipped();
    command.arg("--qemu").arg(qemu).args(["--accel", "tcg"]);
    command.arg("--data-dir").arg(room.path("nothing"));
    let errors = Room::refused(command);
    assert!(errors.contains("emberctl image build kernel"), "{errors}");
}

#[tokio::test]
async fn second_daemon_on_one_run_directory() {
    let room = Room::new();
    let daemon = room.start();
    let (_, pid) = daemon.create().await;
    let mut second = room.command();
    second.arg("--audit-dir").arg(room.path("audit"));
    let errors = Room::refused(second);
    assert!(errors.contains("another daemon uses"), "{errors}");
    assert!(errors.contains("hint: ") && errors.contains("--run-dir"), "{errors}");
    assert!(wait::is_running(pid), "the second daemon touched the first one's sandboxes");
    daemon.stop(Signal::TERM).await;
    room.close().await;
}

#[tokio::test]
async fn port_in_use() {
    let (room, other) = (Room::new(), Room::new());
    let daemon = room.start();
    let authority = daemon.addr.strip_prefix("http://").unwrap();
    let errors = Room::refused(other.command_on(authority));
    assert!(errors.contains("is in use by another program"), "{errors}");
    assert!(errors.contains("hint: ") && errors.contains("--addr"), "{errors}");
    assert!(!other.run_dir().exists(), "nothing is touched before the port is had");
    daemon.stop(Signal::TERM).await;
    room.close().await;
}

#[tokio::test]
async fn unix_socket_is_private_and_goes_with_the_daemon() {
    let room = Room::new();
    let socket = room.path("emberd.sock");
    let addr = format!("unix:{}", socket.display());
    let mut daemon = Daemon::spawn(room.command_on(&addr));
    assert_eq!(daemon.addr, addr);
    assert_eq!(fs::metadata(&socket).unwrap().permissions().mode() & 0o777, 0o600);
    let (id, _) = daemon.create().await;
    daemon.client.delete(&id).await.unwrap();
    daemon.signal(Signal::INT);
    assert_eq!(daemon.exit_code().await, Some(0));
    assert!(!socket.exists());
    room.close().await;
}

#[tokio::test]
async fn the_egress_policy_is_read_at_the_start_and_on_hangup() {
    let room = Room::new();
    let file = room.path("egress.toml");
    let command = || {
        let mut command = room.command();
        command.arg("--egress-policy").arg(&file);
        command
    };
    let errors = Room::refused(command());
    assert!(errors.contains("cannot read the egress policy"), "{errors}");
    fs::write(&file, "ceiling = ['a..example']\n").unwrap();
    let errors = Room::refused(command());
    assert!(errors.contains("`ceiling` of the egress policy: `a..example`"), "{errors}");

    fs::write(&file, "ceiling = ['a.example', 'pop']\n").unwrap();
    let daemon = Daemon::spawn(command());
    let ceiling =
        async |daemon: &Daemon| daemon.client.info().await.unwrap().egress.unwrap().ceiling;
    assert_eq!(ceiling(&daemon).await, ["a.example", "pop"]);
    fs::write(&file, "ceiling = ['b.example']\n").unwrap();
    daemon.signal(Signal::HUP);
    wait::until(async || ceiling(&daemon).await == ["b.example"]).await;
    // An invalid file ends nothing, and the one after it is read.
    fs::write(&file, "ceiling = [").unwrap();
    daemon.signal(Signal::HUP);
    assert_eq!(ceiling(&daemon).await, ["b.example"]);
    fs::write(room.path("next.toml"), "ceiling = ['c.example']\n").unwrap();
    fs::rename(room.path("next.toml"), &file).unwrap();
    daemon.signal(Signal::HUP);
    wait::until(async || ceiling(&daemon).await == ["c.example"]).await;
    let log = daemon.stop(Signal::TERM).await;
    assert!(log.contains("names profiles that nothing defines"), "{log}");
    room.close().await;
}

#[tokio::test]
async fn egress_can_be_switched_off() {
    let room = Room::new();
    let mut command = room.command();
    command.args(["--egress", "off"]);
    let daemon = Daemon::spawn(command);
    assert_eq!(daemon.client.info().await.unwrap().egress, None);
    daemon.stop(Signal::TERM).await;
    let daemon = room.start();
    let egress = daemon.client.info().await.unwrap().egress.unwrap();
    assert_eq!((egress.default, egress.ceiling), (Vec::new(), vec!["public".to_owned()]));
    daemon.stop(Signal::TERM).await;
    room.close().await;
}
