//! The QEMU driver with real guests: pauses, templates, clones, and what can go wrong.
//!
//! Needs QEMU and the images guests boot from; `EMBERD_E2E` and `EMBERD_DATA_DIR` mean what
//! they mean to the daemon's end-to-end tests. In software emulation everywhere.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use emberd_image::{DataDir, Images};
use emberd_vmm::{
    AccelChoice, BootError, BootSpec, ExitReason, ImageHashes, MachineShape, MicroVm as _,
    OrphanVmm, Qemu, QemuConfig, QemuMicroVm, QemuStandby, RestoreError, RestoreSpec,
    SnapshotError, Standby as _, Template, TemplateError, Vmm as _, remove_orphans,
};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::agent::Agent;
use crate::world::process_exists;

/// Memory of every guest, in MiB.
const MEM_SIZE_MIB: u32 = 192;

/// How often a guest that runs answers while one that is paused does not.
const ANSWERS: usize = 20;

/// A driver, images, and a place for microVMs and templates.
pub(super) struct Lab {
    pub(super) qemu: Qemu,
    images: Images,
    dir: TempDir,
}

impl Lab {
    /// All that is needed; nothing, which is a skip, where a part is not there.
    pub(super) fn new() -> Option<Self> {
        if !emberd_testing::microvms() {
            return None;
        }
        Self::find().map_err(emberd_testing::skip).ok()
    }

    fn find() -> Result<Self, String> {
        let config = QemuConfig { accel: AccelChoice::Tcg, ..QemuConfig::default() };
        let qemu = Qemu::find(config).map_err(|error| error.to_string())?;
        let data_dir = std::env::var_os("EMBERD_DATA_DIR").map(DataDir::new);
        let data_dir = data_dir.or_else(DataDir::default_path).ok_or("a user without a home")?;
        let images = Images::load(&data_dir).map_err(|error| error.to_string())?;
        // Short: a socket's path has 108 bytes.
        let dir = tempfile::Builder::new().prefix("vmm").tempdir_in("/tmp").unwrap();
        fs::create_dir(dir.path().join("vms")).unwrap();
        Ok(Self { qemu, images, dir })
    }

    pub(super) fn vm(&self, name: &str) -> PathBuf {
        self.dir.path().join("vms").join(name)
    }

    fn rootfs(&self) -> PathBuf {
        let shell = "shell".parse().unwrap();
        let pack = self.images.packs.get(&shell).or(self.images.packs.values().next());
        pack.unwrap().rootfs.clone()
    }

    /// A guest that can become a template, and has answered.
    pub(super) async fn boot(&self) -> QemuMicroVm {
        let vm = self.qemu.boot(BootSpec { for_template: true, ..self.spec() }).await.unwrap();
        assert!(answers(&vm).await);
        vm
    }

    pub(super) fn spec(&self) -> BootSpec {
        BootSpec {
            dir: self.vm("sb_0"),
            kernel: self.images.kernel.path.clone(),
            kernel_hz: self.images.kernel.hz,
            initramfs: self.images.initramfs.path.clone(),
            rootfs: self.rootfs(),
            disk: None,
            kernel_args: Vec::new(),
            vcpu_count: 1,
            mem_size_mib: MEM_SIZE_MIB,
            for_template: false,
        }
    }

    pub(super) async fn template(&self, vm: &QemuMicroVm) -> Result<Template, SnapshotError> {
        vm.snapshot(&self.dir.path().join("template"), hashes()).await
    }

    async fn stand_by(&self, template: &Template, name: &str) -> Result<QemuStandby, RestoreError> {
        let machine = template.key().machine.clone();
        let (dir, rootfs) = (self.vm(name), self.rootfs());
        self.qemu
            .stand_by(
                template,
                RestoreSpec { dir, rootfs, disk_dir: None, images: hashes(), machine },
            )
            .await
    }

    /// The same with another driver.
    pub(super) fn with(self, edit: impl FnOnce(&mut QemuConfig)) -> Self {
        let mut config = QemuConfig { accel: AccelChoice::Tcg, ..QemuConfig::default() };
        edit(&mut config);
        Self { qemu: Qemu::find(config).unwrap(), ..self }
    }

    pub(super) async fn clone_of(&self, template: &Template, name: &str) -> QemuMicroVm {
        self.stand_by(template, name).await.unwrap().load().await.unwrap()
    }

    /// Nothing of any microVM is left, and of templates only `templates`.
    pub(super) fn assert_left(&self, templates: usize) {
        assert_eq!(fs::read_dir(self.dir.path().join("vms")).unwrap().count(), 0);
        assert_eq!(fs::read_dir(self.dir.path()).unwrap().count(), 1 + templates);
    }
}

pub(super) fn hashes() -> ImageHashes {
    let [kernel, initramfs, rootfs, warm_up] = ["k", "i", "r", "w"].map(str::to_owned);
    ImageHashes { kernel, initramfs, rootfs, warm_up }
}

pub(super) async fn answers(vm: &QemuMicroVm) -> bool {
    Agent::connect(vm).await.run("echo $((6*7))").await == "42\n"
}

fn signal(process_id: u32, signal: Signal) {
    kill_process(Pid::from_raw(process_id.cast_signed()).unwrap(), signal).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_guest_is_silent_and_goes_on_where_it_was() {
    let Some(lab) = Lab::new() else { return };
    let vm = lab.qemu.boot(lab.spec()).await.unwrap();
    let witness = lab.qemu.boot(BootSpec { dir: lab.vm("sb_1"), ..lab.spec() }).await.unwrap();
    let (mut agent, mut other) = (Agent::connect(&vm).await, Agent::connect(&witness).await);
    vm.pause().await.unwrap();
    vm.pause().await.unwrap();
    let mut run = Box::pin(agent.run("echo awake"));
    let meanwhile = async {
        for _ in 0..ANSWERS {
            assert_eq!(other.run("echo here").await, "here\n");
        }
    };
    tokio::select! {
        said = &mut run => panic!("paused, and it says {said:?}"),
        () = meanwhile => {}
    }
    witness.kill().await.unwrap();
    vm.resume().await.unwrap();
    vm.resume().await.unwrap();
    assert_eq!(run.await, "awake\n");
    let error = lab.template(&vm).await.unwrap_err();
    assert!(matches!(error, SnapshotError::Create(_)), "not booted for it: {error}");
    vm.kill().await.unwrap();
    lab.assert_left(0);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_template_gives_guests_at_once_and_in_a_row_and_the_original_goes_on() {
    let Some(lab) = Lab::new() else { return };
    let vm = lab.boot().await;
    let mut agent = Agent::connect(&vm).await;
    assert_eq!(agent.run("echo kept > /tmp/note").await, "");
    let template = lab.template(&vm).await.unwrap();
    assert!(agent.has_ended().await, "streams do not survive");
    assert_eq!(Template::open(template.dir()).unwrap(), template);
    template.verify().unwrap();

    vm.resume().await.unwrap();
    assert_eq!(Agent::connect(&vm).await.run("echo changed > /tmp/note").await, "");
    template.verify().expect("the original's memory is not the template's");

    let at_once = futures::future::join_all((0..20).map(async |number| {
        let clone = lab.clone_of(&template, &format!("sb_a{number}")).await;
        let mut agent = Agent::connect(&clone).await;
        let said = agent.run(&format!("cat /tmp/note; echo {number} > /tmp/note")).await;
        (clone, said)
    }));
    for (number, (clone, said)) in at_once.await.into_iter().enumerate() {
        assert_eq!(said, "kept\n");
        let note = Agent::connect(&clone).await.run("cat /tmp/note").await;
        assert_eq!(note, format!("{number}\n"), "no other clone's");
    }
    for number in 0..30 {
        let clone = lab.clone_of(&template, &format!("sb_b{number}")).await;
        assert!(answers(&clone).await);
        clone.kill().await.unwrap();
    }
    template.verify().expect("no clone writes to its template");
    let error = lab.clone_of(&template, "sb_c").await.snapshot(&lab.vm("x"), hashes()).await;
    assert!(matches!(error, Err(SnapshotError::Create(_))), "{error:?}");
    drop(vm);
    lab.assert_left(1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_template_that_cannot_be_used_is_an_error_and_leaves_nothing() {
    let Some(lab) = Lab::new() else { return };
    let template = lab.template(&lab.boot().await).await.unwrap();

    // Killed while it stands by: reported by the watch, and again by the load.
    let standby = lab.stand_by(&template, "sb_1").await.unwrap();
    signal(standby.process_id(), Signal::KILL);
    assert_eq!(standby.exited().wait().await, ExitReason::Signal(9));
    let error = standby.load().await.unwrap_err();
    let RestoreError::Start(BootError::Exited { reason, .. }) = error else { panic!("{error:?}") };
    assert_eq!(reason, ExitReason::Signal(9));

    // Killed while it loads.
    let standby = lab.stand_by(&template, "sb_2").await.unwrap();
    let process_id = standby.process_id();
    signal(process_id, Signal::STOP);
    let mut load = Box::pin(standby.load());
    assert!(futures::poll!(&mut load).is_pending());
    signal(process_id, Signal::KILL);
    let error = load.await.unwrap_err();
    assert!(matches!(error, RestoreError::Start(BootError::Exited { .. })), "{error:?}");

    // Given up while it loads.
    let standby = lab.stand_by(&template, "sb_3").await.unwrap();
    let process_id = standby.process_id();
    let mut load = Box::pin(standby.load());
    assert!(futures::poll!(&mut load).is_pending());
    drop(load);
    assert!(!process_exists(process_id));

    // Left by a daemon that was killed.
    let standby = lab.stand_by(&template, "sb_4").await.unwrap();
    let process_id = standby.process_id();
    std::mem::forget(standby);
    let removed = remove_orphans(&lab.vm(""), |name| name.starts_with("sb_")).unwrap();
    assert_eq!((removed.len(), removed[0].vmm), (1, OrphanVmm::Killed { process_id }));

    // Cut short: what was started from it before has the whole still, and QEMU says it of the
    // file.
    let state = fs::read(template.state()).unwrap();
    fs::remove_file(template.state()).unwrap();
    fs::write(template.state(), &state[..20_000]).unwrap();
    assert!(answers(&lab.clone_of(&template, "sb_5").await).await);
    let template = Template::open(template.dir()).unwrap();
    let error = lab.stand_by(&template, "sb_5").await.unwrap_err();
    let RestoreError::Start(BootError::Exited { log_tail, .. }) = &error else {
        panic!("{error:?}")
    };
    assert!(log_tail.contains("load of migration failed"), "{log_tail}");
    assert!(matches!(template.verify(), Err(TemplateError::Damaged { .. })));

    // Another machine, then no memory.
    let machine = MachineShape { vcpu_count: 2, ..template.key().machine.clone() };
    let (dir, rootfs) = (lab.vm("sb_6"), lab.rootfs());
    let other = RestoreSpec { dir, rootfs, disk_dir: None, images: hashes(), machine };
    let error = lab.qemu.stand_by(&template, other).await.unwrap_err();
    assert!(matches!(error, RestoreError::Template(TemplateError::Differs { .. })), "{error:?}");
    fs::remove_file(template.memory()).unwrap();
    let error = lab.stand_by(&template, "sb_7").await.unwrap_err();
    assert!(matches!(error, RestoreError::Template(TemplateError::Read { .. })), "{error:?}");
    lab.assert_left(1);
}

/// A small file system; gone on drop.
struct SmallDisk<'a>(&'a Path);

impl<'a> SmallDisk<'a> {
    fn mount(path: &'a Path) -> Option<Self> {
        fs::create_dir(path).unwrap();
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", "size=1m", "tmpfs"]).arg(path);
        let mounted = mount.output().is_ok_and(|output| output.status.success());
        mounted.then(|| Self(path))
    }
}

impl Drop for SmallDisk<'_> {
    fn drop(&mut self) {
        let status = Command::new("umount").arg(self.0).status();
        assert!(status.is_ok_and(|status| status.success()), "cannot unmount");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_that_fails_leaves_a_guest_that_can_go_on() {
    let Some(lab) = Lab::new() else { return };
    let vm = lab.boot().await;
    let path = lab.dir.path().join("small");
    if let Some(disk) = SmallDisk::mount(&path) {
        let error = vm.snapshot(&path.join("template"), hashes()).await.unwrap_err();
        let full = std::io::ErrorKind::StorageFull;
        assert!(
            matches!(&error, SnapshotError::Publish { source, .. } if source.kind() == full),
            "{error:?}"
        );
        assert_eq!(fs::read_dir(disk.0).unwrap().count(), 0);
    } else {
        emberd_testing::skip("mounting a small disk needs root");
    }
    fs::remove_dir(&path).unwrap();
    vm.resume().await.unwrap();
    assert!(answers(&vm).await);

    // A second time, and now it works; a third time the name is taken.
    lab.template(&vm).await.unwrap();
    vm.resume().await.unwrap();
    let error = lab.template(&vm).await.unwrap_err();
    assert!(matches!(error, SnapshotError::Publish { .. }), "{error:?}");

    let mut exit = vm.exited();
    signal(vm.process_id(), Signal::KILL);
    exit.wait().await;
    vm.snapshot(&lab.dir.path().join("late"), hashes()).await.unwrap_err();
    drop(vm);
    lab.assert_left(1);
}
