//! What the tests share: a directory of images, and the double.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use emberd_vmm::firecracker::{Firecracker, FirecrackerConfig};
use emberd_vmm::{
    BootSpec, ImageHashes, MachineShape, RestoreError, RestoreSpec, Standby as _, Template, Vmm,
};
use emberd_vmm::{CgroupChoice, JailChoice};
use fake_firecracker::write_program;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;

/// Memory of every guest, in MiB.
pub const MEM_SIZE_MIB: u32 = 16;

/// How often, and how far apart, a process that must end is looked at.
const LOOKS_MAX: u32 = 10_000;
const LOOK_AGAIN: Duration = Duration::from_millis(1);

/// Starts a microVM from `template`.
pub async fn restore<V: Vmm>(
    driver: &V,
    template: &Template,
    spec: RestoreSpec,
) -> Result<V::MicroVm, RestoreError> {
    driver.stand_by(template, spec).await?.load().await
}

/// Images, and a place for microVMs.
pub struct Lab {
    dir: TempDir,
}

impl Lab {
    pub fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("vms")).unwrap();
        let pack = r#"{"name":"shell","run":["/bin/sh","{file}"],"file_name":"main.sh"}"#;
        for (name, text) in [("kernel", "\x7fELF"), ("initramfs", "070701"), ("pack.json", pack)] {
            fs::write(dir.path().join(name), text).unwrap();
        }
        Self { dir }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn spec(&self, name: &str) -> BootSpec {
        BootSpec {
            dir: self.path("vms").join(name),
            kernel: self.path("kernel"),
            kernel_hz: None,
            initramfs: self.path("initramfs"),
            rootfs: self.path("pack.json"),
            disk: None,
            kernel_args: Vec::new(),
            vcpu_count: 1,
            mem_size_mib: MEM_SIZE_MIB,
            for_template: false,
        }
    }

    pub fn images() -> ImageHashes {
        ImageHashes {
            kernel: "k".into(),
            initramfs: "i".into(),
            rootfs: "r".into(),
            warm_up: "w".into(),
        }
    }

    pub fn restore_spec(&self, name: &str) -> RestoreSpec {
        RestoreSpec {
            dir: self.path("vms").join(name),
            rootfs: self.path("pack.json"),
            disk_dir: None,
            images: Self::images(),
            machine: MachineShape {
                vcpu_count: 1,
                mem_size_mib: MEM_SIZE_MIB,
                disk_size_mib: 0,
                kernel_args: Vec::new(),
            },
        }
    }

    /// The double, found beside the test.
    pub fn double() -> PathBuf {
        let exe = std::env::current_exe().unwrap();
        let mut beside = exe.ancestors().skip(1).take(2).map(|dir| dir.join("fake-firecracker"));
        beside.find(|path| path.exists()).unwrap_or_else(|| {
            panic!(
                "no double near {}: run `cargo build -p fake-firecracker -p emberd-init` first",
                exe.display()
            )
        })
    }

    /// A Firecracker that is the double with `flags`; its environment is empty, so they
    /// stand in a script.
    pub fn config(&self, flags: &[&str]) -> FirecrackerConfig {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let binary = self.path(&format!("firecracker-{number}"));
        let quoted: Vec<_> = flags
            .iter()
            .map(|flag| match flag.split_once(' ') {
                Some((name, value)) => format!("{name} '{value}'"),
                None => (*flag).to_owned(),
            })
            .collect();
        let double = Self::double();
        let (double, flags) = (double.display(), quoted.join(" "));
        write_program(&binary, &format!("PATH=/usr/bin:/bin exec {double} \"$@\" {flags}"));
        let mut config = FirecrackerConfig { binary: Some(binary), ..Default::default() };
        config.jail.choice = JailChoice::Off;
        config.cgroups.choice = CgroupChoice::Off;
        config
    }

    /// The driver over the double with `flags`.
    pub fn driver(&self, flags: &[&str]) -> Firecracker {
        Firecracker::find(self.config(flags)).unwrap()
    }

    /// Waits until the double of the microVM `name` has made `mark` so many `times`, while
    /// `meanwhile` does not end.
    pub async fn marked<T: std::fmt::Debug>(
        &self,
        name: &str,
        (mark, times): (&str, u64),
        meanwhile: impl Future<Output = T>,
    ) {
        let path = self.spec(name).dir.join(mark);
        let made = async {
            while !fs::metadata(&path).is_ok_and(|made| made.len() >= times) {
                tokio::time::sleep(LOOK_AGAIN).await;
            }
        };
        tokio::select! {
            biased;
            () = made => {}
            outcome = meanwhile => panic!("before {}: {outcome:?}", path.display()),
        }
    }

    /// Nothing of any microVM is left: no directory, no process in one.
    pub fn assert_empty(&self) {
        let vms = self.path("vms");
        let left: Vec<_> = fs::read_dir(&vms).unwrap().map(|entry| entry.unwrap().path()).collect();
        assert!(left.is_empty(), "left: {left:?}");
        // The double's guest is killed with it, but the kernel ends it in its own time.
        let mut looks = 0;
        while let Some(process) = process_in(&vms) {
            looks += 1;
            assert!(looks < LOOKS_MAX, "left: {process:?}");
            std::thread::sleep(LOOK_AGAIN);
        }
    }
}

/// A process whose working directory is in `dir`.
fn process_in(dir: &Path) -> Option<PathBuf> {
    let mut processes = fs::read_dir("/proc").unwrap().filter_map(|entry| Some(entry.ok()?.path()));
    let inside = |cwd: PathBuf| cwd.starts_with(dir);
    processes.find(|process| fs::read_link(process.join("cwd")).is_ok_and(inside))
}

/// Lets `time` pass at once, for this runtime's timers alone.
pub async fn pass(time: Duration) {
    tokio::time::pause();
    tokio::time::advance(time).await;
    tokio::time::resume();
}

/// Dials like a person with a terminal.
pub async fn dial_by_hand(socket: &Path, port: u32) -> UnixStream {
    loop {
        if let Ok(mut stream) = UnixStream::connect(socket).await {
            stream.write_all(format!("CONNECT {port}\n").as_bytes()).await.unwrap();
            let mut answer = [0; 14];
            if stream.read_exact(&mut answer).await.is_ok() {
                assert!(answer.starts_with(b"OK "), "{answer:?}");
                return stream;
            }
        }
        tokio::task::yield_now().await;
    }
}
