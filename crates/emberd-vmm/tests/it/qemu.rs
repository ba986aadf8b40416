//! The QEMU driver against programs that are no QEMU: every way it can fail to start.
//! What it does with guests is in `guests`, and what its VMMs may do in `walls`.

mod adoption;
mod guests;
mod walls;

use std::os::unix::fs::PermissionsExt as _;

use emberd_vmm::{
    AccelChoice, BootError, CgroupChoice, CgroupConfig, ExitReason, FindQemuError, JailChoice,
    JailConfig, Qemu, QemuConfig, Vmm as _,
};

use crate::world::{World, process_exists};

/// A program that prints a version and otherwise does what `script` says.
fn qemu(world: &World, script: &str) -> Result<Qemu, FindQemuError> {
    let version = "[ \"$1\" = --version ] && echo QEMU emulator version 7.2.0 && exit";
    let binary = Some(world.program(&format!("{version}\n{script}")));
    Qemu::find(QemuConfig {
        binary,
        accel: AccelChoice::Tcg,
        console: true,
        reason: "qemu was requested".to_owned(),
        jail: JailConfig { choice: JailChoice::Off, ..JailConfig::default() },
        cgroups: CgroupConfig { choice: CgroupChoice::Off, ..CgroupConfig::default() },
        record: None,
    })
}

#[test]
fn missing_qemu_is_named_with_a_hint() {
    let binary = Some("/nonexistent/qemu".into());
    let error = Qemu::find(QemuConfig { binary, ..QemuConfig::default() }).unwrap_err();
    assert_eq!(error.to_string(), "/nonexistent/qemu does not exist");
    assert!(error.hint().unwrap().contains("apt install"));
}

#[test]
fn description_says_what_and_why() {
    let world = World::new();
    let qemu = qemu(&world, "").unwrap();
    let description = qemu.description();
    assert_eq!((description.driver, description.accelerator), ("qemu", "tcg"));
    assert_eq!(description.version, "7.2.0");
    let expect = "qemu was requested; software emulation was requested; not jailed (switched off): \
                  no user or root of its own; not limited: memory, cpu, pids (cgroups are \
                  switched off)";
    assert_eq!(description.reason, expect);
}

#[test]
fn old_qemu_is_refused() {
    let world = World::new();
    let binary = Some(world.program("echo QEMU emulator version 5.2.0"));
    let error = Qemu::find(QemuConfig { binary, ..QemuConfig::default() }).unwrap_err();
    assert!(matches!(error, FindQemuError::TooOld { .. }), "{error}");
}

#[tokio::test]
async fn qemu_that_exits_at_once_is_an_error_with_its_words() {
    let world = World::new();
    let qemu = qemu(&world, "echo 'could not load kernel' >&2; exit 1").unwrap();
    let error = qemu.boot(world.spec("sb_1")).await.unwrap_err();
    let BootError::Exited { reason, log_tail } = error else { panic!("{error}") };
    assert_eq!((reason, log_tail.as_str()), (ExitReason::Code(1), "could not load kernel"));
    assert!(world.vm_dirs().is_empty());
}

#[tokio::test(start_paused = true)]
async fn qemu_that_opens_no_channel_is_killed() {
    let world = World::new();
    let told = world.path().join("process_id");
    let script = format!("echo $$ > {0}.new; mv {0}.new {0}; exec sleep inf", told.display());
    let qemu = qemu(&world, &script).unwrap();
    let error = qemu.boot(world.spec("sb_1")).await.unwrap_err();
    assert!(matches!(error, BootError::NoChannel { .. }), "{error}");
    assert!(world.vm_dirs().is_empty());
    if let Ok(process_id) = std::fs::read_to_string(told) {
        assert!(!process_exists(process_id.trim().parse().unwrap()));
    }
}

#[tokio::test]
async fn boot_that_is_given_up_leaves_nothing() {
    let world = World::new();
    let qemu = qemu(&world, "exec sleep inf").unwrap();
    let mut boot = Box::pin(qemu.boot(world.spec("sb_1")));
    assert!(futures::poll!(&mut boot).is_pending());
    assert_eq!(world.vm_dirs(), ["sb_1"]);
    let record = std::fs::read_to_string(world.path().join("sb_1/vmm.json")).unwrap();
    let record: serde_json::Value = serde_json::from_str(&record).unwrap();
    let process_id = u32::try_from(record["pid"].as_u64().unwrap()).unwrap();
    assert!(process_exists(process_id));
    drop(boot);
    assert!(!process_exists(process_id));
    assert!(world.vm_dirs().is_empty());
}

#[tokio::test]
async fn directory_too_deep_for_a_socket_is_refused() {
    let world = World::new();
    let qemu = qemu(&world, "exec sleep inf").unwrap();
    let mut spec = world.spec("sb_1");
    let deep = world.path().join("d".repeat(120));
    std::fs::create_dir(&deep).unwrap();
    spec.dir = deep.join("sb_1");
    let error = qemu.boot(spec).await.unwrap_err();
    assert!(matches!(error, BootError::Prepare { .. }), "{error}");
    assert_eq!(std::fs::read_dir(deep).unwrap().count(), 0);
}

#[tokio::test]
async fn a_vmm_gets_no_descriptor_and_no_variable_of_the_daemons() {
    let world = World::new();
    let secret = tempfile::tempfile().unwrap();
    // As one this process had inherited: exec does not close it.
    rustix::io::fcntl_setfd(&secret, rustix::io::FdFlags::empty()).unwrap();
    let script = "ls -l /proc/self/fd >&2; env >&2; exit 1";
    let qemu = qemu(&world, &format!("PATH=/usr/bin:/bin\n{script}")).unwrap();
    let error = qemu.boot(world.spec("sb_1")).await.unwrap_err();
    drop(secret);
    let BootError::Exited { log_tail, .. } = error else { panic!("{error}") };
    let opened = log_tail.lines().filter(|line| line.contains(" -> ")).count();
    // Its standard streams, and the directory that `ls` reads.
    assert_eq!(opened, 4, "{log_tail}");
    assert!(!log_tail.contains("deleted"), "{log_tail}");
    assert!(!log_tail.contains("CARGO"), "{log_tail}");
}

#[test]
fn a_jail_that_cannot_be_is_an_error_if_demanded_and_a_reason_otherwise() {
    let world = World::new();
    let script = "[ \"$1\" = --version ] && echo QEMU emulator version 7.2.0 && exit\n\
                  echo no such board >&2; exit 1";
    let for_root_alone = world.program(script);
    let dir = world.path().join("installed");
    std::fs::create_dir(&dir).unwrap();
    let for_all = dir.join("qemu");
    std::fs::copy(&for_root_alone, &for_all).unwrap();
    for path in [&dir, &for_all] {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
    }
    let is_root = rustix::process::geteuid().is_root();
    for (binary, why) in [(for_root_alone, "Permission denied"), (for_all, "no such board")] {
        let why = if is_root { why } else { "the daemon is not root" };
        let binary = Some(binary);
        let mut config = QemuConfig { binary, accel: AccelChoice::Tcg, ..QemuConfig::default() };
        let qemu = Qemu::find(config.clone()).unwrap();
        let reason = &qemu.description().reason;
        assert!(reason.contains("not jailed (") && reason.contains(why), "{reason}");
        config.jail.choice = JailChoice::On;
        let error = Qemu::find(config).unwrap_err();
        let FindQemuError::Jail { reason } = &error else { panic!("{error}") };
        assert!(reason.contains(why), "{reason}");
        assert!(error.hint().is_some());
    }
    assert_eq!(world.vm_dirs(), ["installed"]);
}
