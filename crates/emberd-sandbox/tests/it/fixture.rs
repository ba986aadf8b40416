//! Sandboxes in a directory of their own, and what must be true when they are gone.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use emberd_image::{Digest, Images, KernelImage, PackImage, PackName};
use emberd_proto::message::READY_PORT;
use emberd_proto::{ExecOutcome, ExecSpec};
use emberd_sandbox::{ExecError, SandboxId, SandboxState, Sandboxes, SandboxesConfig};
use emberd_vmm::firecracker::{Firecracker, FirecrackerConfig, JailChoice, JailConfig};
use fake_firecracker::Double;
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

/// Longest wait for what must come about; only ever reached by a failing test.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Pause between two looks at a condition that has no event.
const LOOK_AGAIN: Duration = Duration::from_millis(2);

pub struct Fixture {
    pub sandboxes: Sandboxes<Firecracker>,
    pub run_dir: PathBuf,
    /// How the next microVMs behave.
    pub double: Double,
    temp: TempDir,
}

impl Fixture {
    pub fn new() -> Self {
        Self::with(|_| {})
    }

    pub fn with(edit: impl FnOnce(&mut SandboxesConfig)) -> Self {
        let temp = tempfile::Builder::new().prefix("sb").tempdir_in("/tmp").unwrap();
        let double = Double::new(temp.path());
        let rootfs = temp.path().join("shell.json");
        let pack = r#"{"name":"shell","run":["/bin/sh","{file}"],"file_name":"main.sh"}"#;
        std::fs::write(&rootfs, pack).unwrap();
        let image = PackImage { rootfs, sha256: Digest::of(b""), description: "a shell".into() };
        let images = Images {
            kernel: KernelImage { path: double.kernel(), release: "none".into(), hz: None },
            initramfs: double.initramfs(),
            packs: BTreeMap::from([(shell(), image)]),
        };
        let run_dir = temp.path().join("run");
        let mut config = SandboxesConfig {
            run_dir: run_dir.clone(),
            sandboxes_max: 4,
            boot_timeout: PATIENCE,
            exec_grace: PATIENCE,
            vcpu_count: 1,
            mem_size_mib: 64,
            kernel_args: Vec::new(),
        };
        edit(&mut config);
        let sandboxes = Sandboxes::open(config, images, driver(&double)).unwrap();
        Self { sandboxes, run_dir, double, temp }
    }

    pub async fn create(&self) -> SandboxId {
        self.sandboxes.create(&shell()).await.unwrap()
    }

    pub async fn exec(&self, id: SandboxId, code: &str) -> Result<ExecOutcome, ExecError> {
        self.sandboxes.exec(id, ExecSpec::new(code), b"").await
    }

    /// Process id of a sandbox that is ready.
    pub fn vmm_pid(&self, id: SandboxId) -> u32 {
        match self.sandboxes.get(id).unwrap().state {
            SandboxState::Ready { vmm_pid } => vmm_pid,
            state => panic!("{id} is {state:?}"),
        }
    }

    pub fn signal(&self, id: SandboxId, signal: Signal) {
        let pid = Pid::from_raw(self.vmm_pid(id).cast_signed()).unwrap();
        kill_process(pid, signal).unwrap();
    }

    /// What is in the run directory.
    pub fn left(&self) -> Vec<PathBuf> {
        self.run_dir.read_dir().unwrap().map(|entry| entry.unwrap().path()).collect()
    }

    /// Shuts down and looks for anything left behind.
    pub async fn close(self) {
        let views = self.sandboxes.list();
        self.sandboxes.shutdown().await;
        assert_eq!(self.left(), Vec::<PathBuf>::new());
        assert_eq!(self.sandboxes.count(), 0);
        for view in views {
            if let SandboxState::Ready { vmm_pid } = view.state {
                assert!(!is_running(vmm_pid), "{vmm_pid} still runs");
            }
        }
        until(|| Double::processes_in(&self.run_dir).is_empty()).await;
        self.temp.close().unwrap();
    }
}

/// The driver as the daemon makes it, over `double`.
pub fn driver(double: &Double) -> Firecracker {
    let config = FirecrackerConfig {
        binary: Some(double.binary()),
        ready_port: Some(READY_PORT),
        jail: JailConfig { choice: JailChoice::Off, ..JailConfig::default() },
        ..FirecrackerConfig::default()
    };
    Firecracker::find(config).unwrap()
}

pub fn shell() -> PackName {
    "shell".parse().unwrap()
}

pub fn is_running(pid: u32) -> bool {
    std::path::Path::new("/proc").join(pid.to_string()).exists()
}

/// Returns once `condition` holds.
pub async fn until(mut condition: impl FnMut() -> bool) {
    let waited = tokio::time::timeout(PATIENCE, async {
        while !condition() {
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    });
    waited.await.expect("it comes about");
}

/// A program that runs until its agent is gone, and leaves no orphan behind then.
pub const UNTIL_AGENT_DIES: &str =
    "echo running > running; while kill -0 $PPID 2>/dev/null; do sleep 0.02; done";
