//! Pause, resume, templates and restores over the double.

use std::collections::BTreeSet;
use std::fs::{self, Permissions};
use std::os::unix::fs::{FileExt as _, PermissionsExt as _};
use std::path::Path;
use std::time::Duration;

use emberd_proto::message::AGENT_PORT;
use emberd_vmm::firecracker::{Firecracker, FirecrackerVm};
use emberd_vmm::{
    BootError, BootSpec, DiskSpec, MicroVm as _, PauseError, RestoreError, RestoreSpec,
    SnapshotError, Template, TemplateError, Vmm as _,
};

use super::lab::{Lab, pass, restore};
use crate::agent::Agent;

/// A template made of a guest that has answered once.
async fn template(lab: &Lab, driver: &Firecracker) -> Template {
    let vm = driver.boot(lab.spec("sb_t")).await.unwrap();
    assert_eq!(Agent::connect(&vm).await.run("echo warm").await, "warm\n");
    let template = vm.snapshot(&lab.path("template"), Lab::images()).await.unwrap();
    vm.kill().await.unwrap();
    template
}

async fn answers(vm: &FirecrackerVm) -> bool {
    Agent::connect(vm).await.run("echo ok").await == "ok\n"
}

#[tokio::test]
async fn a_paused_guest_is_silent_until_it_is_resumed() {
    let lab = Lab::new();
    let vm = lab.driver(&[]).boot(lab.spec("sb_1")).await.unwrap();
    assert!(answers(&vm).await);
    vm.pause().await.unwrap();
    vm.pause().await.unwrap();
    let mut connect = Box::pin(vm.connect(AGENT_PORT));
    lab.marked("sb_1", ("waiting", 1), &mut connect).await;
    vm.resume().await.unwrap();
    vm.resume().await.unwrap();
    let stream = connect.await.unwrap();
    assert_eq!(Agent::greet(stream).await.run("echo awake").await, "awake\n");
}

#[tokio::test]
async fn one_template_gives_twenty_guests() {
    let lab = Lab::new();
    let driver = lab.driver(&[]);
    let template = template(&lab, &driver).await;
    assert_eq!(Template::open(template.dir()).unwrap(), template);
    let format = driver.describe_snapshot(&template).unwrap();
    assert_eq!(format.to_string(), template.key().snapshot_format);

    let mut clones = Vec::new();
    for number in 0..20 {
        let spec = lab.restore_spec(&format!("sb_{number}"));
        clones.push(restore(&driver, &template, spec).await.unwrap());
    }
    for clone in &clones {
        assert!(answers(clone).await);
    }
    let processes: BTreeSet<_> = clones.iter().map(FirecrackerVm::process_id).collect();
    assert_eq!(processes.len(), 20);
    drop(clones);
    lab.assert_empty();
}

#[tokio::test]
async fn a_guest_goes_on_after_its_snapshot_and_a_clone_makes_a_template_too() {
    let lab = Lab::new();
    let driver = lab.driver(&[]);
    let vm = driver.boot(lab.spec("sb_1")).await.unwrap();
    assert!(answers(&vm).await);
    let first = vm.snapshot(&lab.path("first"), Lab::images()).await.unwrap();
    vm.resume().await.unwrap();
    assert!(answers(&vm).await);
    let clone = restore(&driver, &first, lab.restore_spec("sb_2")).await.unwrap();
    assert!(answers(&clone).await);
    let second = clone.snapshot(&lab.path("second"), Lab::images()).await.unwrap();
    let grandchild = restore(&driver, &second, lab.restore_spec("sb_3")).await.unwrap();
    assert!(answers(&grandchild).await);
}

#[tokio::test]
async fn each_guest_has_a_disk_of_its_own() {
    let lab = Lab::new();
    let driver = lab.driver(&[]);
    let (image, disks) = (lab.path("empty.ext4"), lab.path("disks"));
    fs::create_dir(&disks).unwrap();
    let mut content = vec![0; 1 << 20];
    content[700_000] = 1;
    fs::write(&image, &content).unwrap();
    let disk = Some(DiskSpec { image, dir: disks.clone(), size_mib: 1 });
    let vm = driver.boot(BootSpec { disk, ..lab.spec("sb_t") }).await.unwrap();
    assert!(answers(&vm).await);
    let opened = |vm: &FirecrackerVm, name: &str| {
        let own = fs::read_link(lab.path("vms").join(name).join("disk.img")).unwrap();
        let own = own.strip_prefix("/proc/self").unwrap();
        let own = Path::new("/proc").join(vm.process_id().to_string()).join(own);
        fs::File::options().read(true).write(true).open(own).unwrap()
    };
    opened(&vm, "sb_t").write_all_at(b"guest", 0).unwrap();
    content[..5].copy_from_slice(b"guest");
    let template = vm.snapshot(&lab.path("template"), Lab::images()).await.unwrap();
    template.verify().unwrap();
    assert_eq!(fs::read(template.dir().join("disk")).unwrap(), content);

    let mut clones = Vec::new();
    for name in ["sb_1", "sb_2"] {
        let machine = template.key().machine.clone();
        let spec = RestoreSpec { disk_dir: Some(disks.clone()), machine, ..lab.restore_spec(name) };
        clones.push(restore(&driver, &template, spec).await.unwrap());
    }
    opened(&clones[0], "sb_1").write_all_at(b"first", 0).unwrap();
    let mut read = [0; 5];
    opened(&clones[1], "sb_2").read_exact_at(&mut read, 0).unwrap();
    assert_eq!(&read, b"guest");
    assert_eq!(fs::read_dir(&disks).unwrap().count(), 0, "no disk has a name");
    clones[0].grow_disk(3 << 20).await.unwrap();
    let length = |vm, name| opened(vm, name).metadata().unwrap().len();
    assert_eq!(length(&clones[0], "sb_1"), 3 << 20);
    assert_eq!(length(&clones[1], "sb_2"), 1 << 20, "each has a size of its own");
    opened(&clones[0], "sb_1").read_exact_at(&mut read, 0).unwrap();
    assert_eq!(&read, b"first");
    fs::remove_file(template.dir().join("disk")).unwrap();
    assert!(matches!(template.verify(), Err(TemplateError::Read { .. })));
}

#[tokio::test]
async fn a_template_is_never_replaced_and_a_failed_one_leaves_nothing() {
    let lab = Lab::new();
    let vm = lab.driver(&[]).boot(lab.spec("sb_1")).await.unwrap();
    fs::create_dir(lab.path("taken")).unwrap();
    let error = vm.snapshot(&lab.path("taken"), Lab::images()).await.unwrap_err();
    assert!(matches!(error, SnapshotError::Publish { .. }), "{error:?}");

    let driver = lab.driver(&["--fault refuse-at=PUT /snapshot/create"]);
    let vm = driver.boot(lab.spec("sb_2")).await.unwrap();
    let error = vm.snapshot(&lab.path("template"), Lab::images()).await.unwrap_err();
    assert!(matches!(error, SnapshotError::Create(_)), "{error:?}");
    let left = fs::read_dir(lab.path("")).unwrap();
    let left = left.filter(|entry| {
        entry.as_ref().unwrap().file_name().to_string_lossy().starts_with("template")
    });
    assert_eq!(left.count(), 0);
}

#[tokio::test]
async fn releases_that_break_what_they_pause_do_not() {
    let lab = Lab::new();
    for version in ["1.16.0", "1.16.1"] {
        let driver = lab.driver(&[&format!("--fake-version {version}")]);
        assert!(!driver.features().snapshots);
        let vm = driver.boot(lab.spec("sb_1")).await.unwrap();
        for outcome in [vm.pause().await, vm.resume().await] {
            assert!(matches!(outcome, Err(PauseError::Unsupported { .. })), "{outcome:?}");
        }
        let error = vm.snapshot(&lab.path("template"), Lab::images()).await.unwrap_err();
        assert!(matches!(error, SnapshotError::Pause(PauseError::Unsupported { .. })));
        vm.kill().await.unwrap();
    }
    let template = template(&lab, &lab.driver(&[])).await;
    let driver = lab.driver(&["--fake-version 1.16.1"]);
    let error = restore(&driver, &template, lab.restore_spec("sb_1")).await.unwrap_err();
    assert!(matches!(error, RestoreError::Unsupported { .. }), "{error:?}");
}

#[tokio::test]
async fn a_template_of_something_else_is_refused_before_anything_starts() {
    let lab = Lab::new();
    let template = template(&lab, &lab.driver(&[])).await;
    let other_release = lab.driver(&["--fake-version 1.17.0"]);
    let error = restore(&other_release, &template, lab.restore_spec("sb_1")).await.unwrap_err();
    assert!(
        matches!(&error, RestoreError::Template(TemplateError::Differs { aspect: "VMM", .. })),
        "{error:?}"
    );
    let mut spec = lab.restore_spec("sb_1");
    spec.images.rootfs = "another".into();
    let error = restore(&lab.driver(&[]), &template, spec).await.unwrap_err();
    assert!(
        matches!(
            &error,
            RestoreError::Template(TemplateError::Differs { aspect: "root image", .. })
        ),
        "{error:?}"
    );
    lab.assert_empty();
}

#[tokio::test]
async fn a_damaged_template_is_refused_and_leaves_nothing() {
    let lab = Lab::new();
    let driver = lab.driver(&[]);
    let template = template(&lab, &driver).await;
    let state = fs::read(template.state()).unwrap();
    fs::set_permissions(template.state(), Permissions::from_mode(0o644)).unwrap();
    fs::write(template.state(), b"garbage").unwrap();
    let error = restore(&driver, &template, lab.restore_spec("sb_1")).await.unwrap_err();
    assert!(
        matches!(&error, RestoreError::Start(BootError::Step { .. } | BootError::Exited { .. })),
        "{error:?}"
    );
    lab.assert_empty();
    driver.describe_snapshot(&template).unwrap_err();

    fs::write(template.state(), state).unwrap();
    fs::set_permissions(template.memory(), Permissions::from_mode(0o644)).unwrap();
    fs::File::options().write(true).open(template.memory()).unwrap().set_len(4096).unwrap();
    let error = restore(&driver, &template, lab.restore_spec("sb_1")).await.unwrap_err();
    assert!(
        matches!(&error, RestoreError::Template(TemplateError::Memory { bytes: 4096, .. })),
        "{error:?}"
    );
    lab.assert_empty();
}

#[tokio::test]
async fn a_load_that_fails_in_any_way_leaves_nothing() {
    let lab = Lab::new();
    let template = template(&lab, &lab.driver(&[])).await;
    for fault in ["die-at=PUT /snapshot/load=149", "refuse-at=PUT /snapshot/load"] {
        let driver = lab.driver(&[&format!("--fault {fault}")]);
        let error = restore(&driver, &template, lab.restore_spec("sb_1")).await.unwrap_err();
        assert!(matches!(&error, RestoreError::Start(_)), "{error:?}");
        lab.assert_empty();
    }
    let mut config = lab.config(&["--fault hang-at=PUT /snapshot/load"]);
    config.snapshot_timeout = Duration::from_secs(3600);
    let driver = Firecracker::find(config).unwrap();
    let mut restoring = Box::pin(restore(&driver, &template, lab.restore_spec("sb_1")));
    lab.marked("sb_1", ("hanging", 1), &mut restoring).await;
    pass(Duration::from_secs(3600)).await;
    let error = restoring.await.unwrap_err();
    assert!(matches!(&error, RestoreError::Start(BootError::Step { .. })), "{error:?}");
    lab.assert_empty();
}
