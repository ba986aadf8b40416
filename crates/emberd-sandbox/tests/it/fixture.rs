//! Sandboxes in a directory of their own, and what must be true when they are gone.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::BytesMut;
use emberd_image::{
    Digest, Images, InitramfsImage, KernelImage, PackDefinition, PackImage, PackName, SHELL_CONTEXT,
};
use emberd_proto::frame::{encode, encode_message};
use emberd_proto::message::{GENERATION, READY_PORT};
use emberd_proto::{ExecOutcome, ExecSpec, GuestMessage, Kind, Welcome};
use emberd_sandbox::{
    BootPath, Contexts, Cpu, CreateError, Created, Executed, Files, GuestError, Handle, NodeKey,
    OperationError, Pace, PoolConfig, PoolView, Ports, Processes, Resources, SandboxId,
    SandboxSpec, SandboxState, Sandboxes, SandboxesConfig, Size, TemplateView,
};
use emberd_vmm::firecracker::{Firecracker, FirecrackerConfig};
use emberd_vmm::{AnyVmm, CgroupChoice, CgroupConfig, JailChoice, JailConfig};
use fake_firecracker::{Double, Then};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;
use tempfile::TempDir;

/// Longest wait for what must come about; only ever reached by a failing test.
pub const WAIT_MAX: Duration = Duration::from_secs(60);

/// The daemon's default size.
pub const SAME: Resources = Resources {
    vcpus: None,
    memory_mib: None,
    cpu: Cpu { percent: None, weight: None },
    pids: None,
    disk_mib: None,
};

/// Pause between two looks at a condition that has no event.
const LOOK_AGAIN: Duration = Duration::from_millis(2);

pub struct Fixture {
    pub sandboxes: Sandboxes,
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
        Self::prepared(|_| {}, edit, driver)
    }

    /// Sandboxes that are restored, once their template is ready.
    pub fn restored() -> Self {
        Self::restored_by(|_| {})
    }

    /// As [`Self::restored`], over a double that misbehaves from the start.
    pub fn restored_by(prepare: impl FnOnce(&Double)) -> Self {
        Self::prepared(prepare, with_templates, driver)
    }

    /// Sandboxes that come from a pool of `size`, once it is full.
    pub fn pooled(size: usize) -> Self {
        Self::pooled_with(size, |_| {})
    }

    pub fn pooled_with(size: usize, edit: impl FnOnce(&mut SandboxesConfig)) -> Self {
        let edit = |config: &mut SandboxesConfig| {
            with_pool(config, size);
            edit(config);
        };
        Self::with(edit)
    }

    /// As [`Self::pooled`], over a double that misbehaves from the start.
    pub fn pooled_by(size: usize, prepare: impl FnOnce(&Double)) -> Self {
        Self::prepared(prepare, |config| with_pool(config, size), driver)
    }

    /// The `driver` is found after the double was prepared.
    pub fn prepared(
        prepare: impl FnOnce(&Double),
        edit: impl FnOnce(&mut SandboxesConfig),
        driver: impl FnOnce(&Double) -> AnyVmm,
    ) -> Self {
        let temp = tempfile::Builder::new().prefix("sb").tempdir_in("/tmp").unwrap();
        let double = Double::new(temp.path());
        prepare(&double);
        let rootfs = temp.path().join("shell.json");
        std::fs::write(&rootfs, pack(temp.path()).to_string()).unwrap();
        let image = PackImage {
            rootfs,
            sha256: Digest::of(b""),
            description: "a shell".into(),
            warm_up: Some(WARM_UP.into()),
            profiles: emberd_image::Profiles::new(),
        };
        let images = Images {
            kernel: KernelImage::given(double.kernel()).unwrap(),
            initramfs: InitramfsImage::given(double.initramfs()).unwrap(),
            packs: BTreeMap::from([(shell(), image)]),
        };
        let run_dir = temp.path().join("run");
        let mut config = SandboxesConfig {
            run_dir: run_dir.clone(),
            node_key: NodeKey::default(),
            adopt: true,
            sandboxes_max: 64,
            memory_mib_total: 1 << 20,
            boot_timeout: WAIT_MAX,
            exec_grace: WAIT_MAX,
            size: Size { vcpus: 1, memory_mib: 64 },
            memory_mib_max: 1024,
            timeout: None,
            timeout_max: Duration::from_hours(720),
            idle_freeze: None,
            kernel_args: Vec::new(),
            template_dir: None,
            template_disk_bytes: 1 << 40,
            disk: None,
            pool: None,
            egress: None,
        };
        edit(&mut config);
        let sandboxes = Sandboxes::open(config, images, driver(&double)).unwrap();
        Self { sandboxes, run_dir, double, temp }
    }

    /// Shuts down, lets somebody `meddle`, and starts again.
    pub async fn restart(self, meddle: impl FnOnce()) -> Self {
        self.sandboxes.shutdown().await;
        self.start_again(meddle)
    }

    /// As [`Self::restart`]; what runs is adopted.
    pub async fn succeed(self, meddle: impl FnOnce()) -> Self {
        self.sandboxes.detach().await;
        self.start_again(meddle)
    }

    fn start_again(self, meddle: impl FnOnce()) -> Self {
        let Self { sandboxes, run_dir, double, temp } = self;
        let (config, images) = (sandboxes.config().clone(), sandboxes.images().clone());
        // The locks go with the last of them.
        drop(sandboxes);
        meddle();
        let sandboxes = Sandboxes::open(config, images, driver(&double)).unwrap();
        Self { sandboxes, run_dir, double, temp }
    }

    pub async fn create(&self) -> SandboxId {
        self.sandboxes.create(&shell()).await.unwrap().id
    }

    pub async fn create_as(&self, spec: SandboxSpec) -> Result<Created, CreateError> {
        self.sandboxes.create_with(&shell(), spec).await.map(|(created, _)| created)
    }

    pub async fn exec(&self, id: SandboxId, code: &str) -> Result<ExecOutcome, GuestError> {
        self.sandboxes.exec(id, ExecSpec::new(code), b"").await.map(|executed| executed.outcome)
    }

    /// Programs started from now on hang, or not.
    pub fn hang_programs(&self, hang: bool) {
        let path = self.run_dir.with_file_name("hang");
        if hang { std::fs::write(path, "") } else { std::fs::remove_file(path) }.unwrap();
    }

    /// The template of the only pack.
    pub fn template(&self) -> TemplateView {
        self.sandboxes.templates().remove(0)
    }

    /// Waits until the template is ready.
    pub async fn build(&self) -> TemplateView {
        self.sandboxes.build_template(&shell(), &SAME, None).await.unwrap()
    }

    /// Gives the pack, for microVMs that boot from now on, a zygote that cannot live, or none.
    pub fn have_broken_zygote(&self, broken: bool) {
        let dir = self.run_dir.parent().unwrap();
        let mut pack = pack(dir);
        if broken {
            pack["zygote"] = json!({"run": ["/bin/false"]});
        }
        std::fs::write(dir.join("shell.json"), pack.to_string()).unwrap();
    }

    /// The pool of the only pack.
    pub fn pool(&self) -> PoolView {
        self.sandboxes.pools().remove(0)
    }

    /// Waits until as many microVMs are ready as are to be, and VMMs stand by.
    pub async fn filled(&self) {
        until(|| {
            let pool = self.pool();
            pool.ready >= pool.target && pool.standing_by > 0
        })
        .await;
    }

    pub fn boot_path(&self, id: SandboxId) -> BootPath {
        self.sandboxes.get(id).unwrap().view().boot_path.unwrap()
    }

    /// Process id of a sandbox that is ready.
    pub fn vmm_pid(&self, id: SandboxId) -> u32 {
        match self.sandboxes.get(id).unwrap().view().state {
            SandboxState::Ready { vmm_pid } => vmm_pid,
            state => panic!("{id} is {state:?}"),
        }
    }

    pub fn signal(&self, id: SandboxId, signal: Signal) {
        let pid = Pid::from_raw(self.vmm_pid(id).cast_signed()).unwrap();
        kill_process(pid, signal).unwrap();
    }

    /// Whether the VM of some sandbox has started: that is recorded before its guest is
    /// waited for.
    pub fn some_vm_started(&self) -> bool {
        self.left().iter().any(|dir| dir.join("sandbox.jsonl").exists())
    }

    /// The directories in the run directory.
    pub fn left(&self) -> Vec<PathBuf> {
        let entries = self.run_dir.read_dir().unwrap().map(|entry| entry.unwrap().path());
        entries.filter(|path| path.is_dir()).collect()
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

/// Pools that lose no time, and notice nothing by themselves.
pub const PACE: Pace = Pace {
    idle_before_refill: Duration::from_millis(1),
    refill_wait_max: Duration::from_millis(50),
    idle_before_shrink: NEVER,
    health_period: NEVER,
    health_timeout: WAIT_MAX,
    health_trust: NEVER,
    pressure_period: NEVER,
};

/// Longer than any test.
pub const NEVER: Duration = Duration::from_secs(3600);

/// Shell scripts, and contexts: Bash, Python where this machine has one, and some that misbehave.
fn pack(dir: &Path) -> serde_json::Value {
    let packs = concat!(env!("CARGO_MANIFEST_DIR"), "/../../rootfs/packs");
    let context = |languages: &[&str], run: &[&str]| json!({"languages": languages, "run": run});
    let library = dir.join("context.so");
    std::fs::write(&library, SHELL_CONTEXT).unwrap();
    let library = library.to_str().unwrap();
    let shell = PackDefinition::built_in(&shell()).unwrap().contexts.remove(0).run;
    let shell: Vec<&str> =
        shell.iter().map(|word| if word == "{program}" { library } else { word }).collect();
    let says = |script: &str| format!("{READY}; read -r line; {script}; sleep 1000");
    json!({
        "name": "shell",
        "run": ["/bin/sh", "-c", RUN, "{file}"],
        "file_name": "main.sh",
        "contexts": [
            context(&["shell"], &shell),
            context(&["python"], &["/usr/bin/python3", &format!("{packs}/python/context.py")]),
            context(&["nonsense"], &["/bin/sh", "-c", &says("echo nonsense >&0")]),
            context(&["endless"], &["/bin/sh", "-c", &says("tr '\\0' x >&0 < /dev/zero")]),
            context(&["stillborn"], &["/bin/sh", "-c", "echo no such library >&2; exit 3"]),
        ],
    })
}

/// The line with which a shell reports itself as a ready context.
const READY: &str = r#"echo '{"event":"ready"}' >&0"#;

/// Runs a file; but where there is a file `hang` beside the run directory, it leaves a file
/// `warming` in the VM's directory and goes on.
const RUN: &str = r#"cd=/proc/$PPID/cwd
test -e $cd/../../hang && echo > $cd/warming && exec sleep 1000
exec /bin/sh "$0" "$@""#;

const WARM_UP: &str = ":";

/// Gives the fixture templates that go with it.
pub fn with_templates(config: &mut SandboxesConfig) {
    config.template_dir = Some(config.run_dir.with_file_name("templates"));
}

fn with_pool(config: &mut SandboxesConfig, size: usize) {
    with_templates(config);
    let pressure = config.run_dir.with_file_name("pressure");
    config.pool = Some(PoolConfig { size, memory_mib_max: 1 << 20, pace: PACE, pressure });
}

/// Edits the pool's configuration.
pub fn pool(config: &mut SandboxesConfig) -> &mut PoolConfig {
    config.pool.as_mut().unwrap()
}

/// The driver as the daemon makes it, over `double`.
pub fn driver(double: &Double) -> AnyVmm {
    driver_of(double.binary())
}

pub fn driver_of(binary: PathBuf) -> AnyVmm {
    let config = FirecrackerConfig {
        binary: Some(binary),
        ready_port: Some(READY_PORT),
        jail: JailConfig { choice: JailChoice::Off, ..JailConfig::default() },
        cgroups: CgroupConfig { choice: CgroupChoice::Off, ..CgroupConfig::default() },
        ..FirecrackerConfig::default()
    };
    AnyVmm::Firecracker(Firecracker::find(config).unwrap())
}

pub fn shell() -> PackName {
    "shell".parse().unwrap()
}

pub fn is_running(pid: u32) -> bool {
    std::path::Path::new("/proc").join(pid.to_string()).exists()
}

/// Returns once `condition` holds.
pub async fn until(mut condition: impl FnMut() -> bool) {
    let waited = tokio::time::timeout(WAIT_MAX, async {
        while !condition() {
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    });
    waited.await.expect("it comes about");
}

/// Lets `time` pass at once, for this runtime's timers alone.
pub async fn pass(time: Duration) {
    tokio::time::pause();
    tokio::time::advance(time).await;
    tokio::time::resume();
}

/// A program that runs until its agent is gone, and leaves no orphan behind then.
pub const UNTIL_AGENT_DIES: &str =
    "echo running > running; while kill -0 $PPID 2>/dev/null; do sleep 0.02; done";

/// A guest that sends a welcome and then `frames`, whatever the request.
pub async fn violating(frames: &[(Kind, Vec<u8>)]) -> (Fixture, SandboxId) {
    let mut script = BytesMut::new();
    let welcome = Welcome {
        generation: GENERATION,
        agent_version: String::new(),
        init_started_us: None,
        serving_us: None,
    };
    encode_message(&GuestMessage::Welcome(welcome), &mut script);
    for (kind, payload) in frames {
        encode(*kind, payload, &mut script);
    }
    let script: &'static [u8] = script.to_vec().leak();
    let fixture = Fixture::new();
    fixture.double.answer(script, Then::Silence);
    let id = fixture.create().await;
    (fixture, id)
}

/// A message as a frame.
pub fn said(message: &GuestMessage) -> (Kind, Vec<u8>) {
    (Kind::Control, serde_json::to_vec(message).unwrap())
}

/// Operations by a sandbox's id, which is there and ready.
pub trait ById {
    fn handle(&self, id: SandboxId) -> Handle;

    fn exec(
        &self,
        id: SandboxId,
        spec: ExecSpec,
        stdin: &[u8],
    ) -> impl Future<Output = Result<Executed, GuestError>> + Send {
        let handle = self.handle(id);
        async move {
            handle.exec(spec, stdin).await.map_err(|error| match error {
                OperationError::Guest(error) => error,
                other => panic!("{other}"),
            })
        }
    }

    fn files(&self, id: SandboxId) -> Files {
        self.handle(id).files().unwrap()
    }

    fn processes(&self, id: SandboxId) -> Processes {
        self.handle(id).processes().unwrap()
    }

    fn contexts(&self, id: SandboxId) -> Contexts {
        self.handle(id).contexts().unwrap()
    }

    fn ports(&self, id: SandboxId) -> Ports {
        self.handle(id).ports().unwrap()
    }
}

impl ById for Sandboxes {
    fn handle(&self, id: SandboxId) -> Handle {
        self.get(id).unwrap()
    }
}
