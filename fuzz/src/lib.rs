//! A daemon whose guests are scripts: the API over a VMM that boots nothing.
//!
//! What such a guest says is up to the fuzzer; the host's side is the daemon's own, from the
//! connection to the answer of the API. Its clock stands still but for waiting, so that time
//! limits cost no time.

use std::collections::{BTreeMap, VecDeque};
use std::convert::Infallible;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderMap, Request, StatusCode};
use bytes::BytesMut;
use emberd::http::{Hosts, Limits, router};
use emberd_image::{Digest, Images, InitramfsImage, KernelImage, PackImage};
use emberd_proto::message::GENERATION;
use emberd_proto::{Decoder, Frame, GuestMessage, HostMessage, Kind, Welcome, frame};
use emberd_sandbox::{NodeKey, SandboxId, Sandboxes, SandboxesConfig};
use emberd_vmm::{
    BootError, BootSpec, ConnectError, ExitReason, ExitWatch, ImageHashes, KillError, MachineShape,
    MicroVm, PauseError, RestoreError, RestoreSpec, SnapshotError, SnapshotMicroVm, SnapshotVmm,
    Standby, Template, TemplateKey, Vmm, VmmDescription,
};
use http_body_util::BodyExt as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};
use tokio::runtime::Runtime;
use tokio::sync::watch;
use tower::ServiceExt as _;

/// Longest wait for an answer, of a clock that does not run.
const ANSWER_MAX: Duration = Duration::from_secs(4000);

/// Most bytes that are read of an answer.
const BODY_BYTES_MAX: usize = 64 << 20;

/// Stands in a path for the context that was made last.
pub const LAST_CONTEXT: &str = "LAST_CONTEXT";

/// What a guest says, once for each frame of its host that wants to be answered.
pub type Script = Arc<Mutex<VecDeque<Vec<u8>>>>;

/// A VMM that boots nothing.
pub struct Scripted {
    description: VmmDescription,
    script: Script,
}

/// A guest that answers with the next of its script.
pub struct Guest {
    dir: PathBuf,
    console: PathBuf,
    script: Script,
    exit: ExitWatch,
    ended: watch::Sender<Option<ExitReason>>,
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.ended.send(Some(ExitReason::Code(0))).ok();
        fs::remove_dir_all(&self.dir).ok();
    }
}

impl Vmm for Scripted {
    type MicroVm = Guest;

    fn description(&self) -> &VmmDescription {
        &self.description
    }

    async fn boot(&self, spec: BootSpec) -> Result<Guest, BootError> {
        let console = spec.dir.join("console.log");
        let prepare = || {
            fs::create_dir_all(&spec.dir)?;
            fs::write(&console, "")
        };
        prepare().map_err(|source| BootError::Prepare { path: spec.dir.clone(), source })?;
        let (ended, exit) = ExitWatch::channel();
        Ok(Guest { dir: spec.dir, console, script: Arc::clone(&self.script), exit, ended })
    }
}

impl MicroVm for Guest {
    type Stream = DuplexStream;

    async fn connect(&self, _port: u32) -> Result<DuplexStream, ConnectError> {
        let (host, guest) = tokio::io::duplex(256 << 10);
        tokio::spawn(speak(guest, Arc::clone(&self.script)));
        Ok(host)
    }

    fn exited(&self) -> ExitWatch {
        self.exit.clone()
    }

    fn process_id(&self) -> u32 {
        std::process::id()
    }

    fn console_log(&self) -> &Path {
        &self.console
    }

    async fn kill(self) -> Result<(), KillError> {
        Ok(())
    }
}

impl SnapshotVmm for Scripted {
    type Standby = Never;

    fn template_key(
        &self,
        _images: ImageHashes,
        _machine: MachineShape,
    ) -> Result<TemplateKey, RestoreError> {
        Err(unsupported())
    }

    async fn stand_by(
        &self,
        _template: &Template,
        _spec: RestoreSpec,
    ) -> Result<Never, RestoreError> {
        Err(unsupported())
    }
}

fn unsupported() -> RestoreError {
    RestoreError::Unsupported { vmm: "a script".to_owned() }
}

impl SnapshotMicroVm for Guest {
    async fn pause(&self) -> Result<(), PauseError> {
        Err(PauseError::Unsupported { vmm: "a script".to_owned() })
    }

    async fn resume(&self) -> Result<(), PauseError> {
        Err(PauseError::Unsupported { vmm: "a script".to_owned() })
    }

    async fn snapshot(&self, _: &Path, _: ImageHashes) -> Result<Template, SnapshotError> {
        Err(PauseError::Unsupported { vmm: "a script".to_owned() }.into())
    }
}

/// There is none.
pub struct Never(Infallible);

impl Standby for Never {
    type MicroVm = Guest;

    async fn load(self) -> Result<Guest, RestoreError> {
        match self.0 {}
    }

    fn exited(&self) -> ExitWatch {
        match self.0 {}
    }

    fn process_id(&self) -> u32 {
        match self.0 {}
    }
}

/// Greets, and says the next of the script whenever the host has said something.
async fn speak(mut stream: DuplexStream, script: Script) {
    let mut decoder = Decoder::default();
    loop {
        while let Ok(Some(heard)) = decoder.next_frame() {
            let said = match answer(&heard) {
                Some(said) => said,
                None => script.lock().unwrap().pop_front().unwrap_or_default(),
            };
            if stream.write_all(&said).await.is_err() {
                return;
            }
        }
        if stream.read_buf(decoder.buffer()).await.unwrap_or(0) == 0 {
            return;
        }
    }
}

/// What every guest says, and the fuzzer is not asked about.
fn answer(heard: &Frame) -> Option<Vec<u8>> {
    match heard.message() {
        Ok(HostMessage::Hello { .. }) => {
            let agent_version = "script".to_owned();
            let welcome = Welcome {
                generation: GENERATION,
                agent_version,
                init_started_us: None,
                serving_us: None,
            };
            let mut out = BytesMut::new();
            frame::encode_message(&GuestMessage::Welcome(welcome), &mut out);
            Some(out.to_vec())
        }
        // Most of what is streamed to a guest is not answered.
        _ if heard.kind == Kind::Stdin => Some(Vec::new()),
        _ => None,
    }
}

/// A daemon without a socket.
pub struct Daemon {
    runtime: Runtime,
    router: Router,
    sandboxes: Sandboxes<Scripted>,
    script: Script,
    _dir: tempfile::TempDir,
}

impl Daemon {
    /// Starts one, in a directory of its own.
    pub fn start() -> Self {
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = runtime.enable_time().start_paused(true).build().unwrap();
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("image");
        fs::write(&file, "image").unwrap();
        let pack = PackImage {
            rootfs: file.clone(),
            sha256: Digest::of(b""),
            description: "a script".to_owned(),
            warm_up: None,
        };
        let images = Images {
            kernel: KernelImage::given(file.clone()).unwrap(),
            initramfs: InitramfsImage::given(file).unwrap(),
            packs: BTreeMap::from([("python".parse().unwrap(), pack)]),
        };
        let config = SandboxesConfig {
            run_dir: dir.path().join("run"),
            node_key: NodeKey::default(),
            sandboxes_max: 4,
            boot_timeout: Duration::from_secs(60),
            exec_grace: Duration::from_secs(1),
            vcpu_count: 1,
            mem_size_mib: 64,
            kernel_args: Vec::new(),
            template_dir: None,
            pool: None,
        };
        let script = Script::default();
        let vmm = Scripted {
            description: VmmDescription {
                driver: "script",
                version: String::new(),
                accelerator: "none",
                reason: String::new(),
            },
            script: Arc::clone(&script),
        };
        let sandboxes = {
            let _inside = runtime.enter();
            Sandboxes::open(config, images, vmm).unwrap()
        };
        let hosts = Hosts::new(&"127.0.0.1:1".parse().unwrap(), &[]);
        let router = router(sandboxes.clone(), hosts, Limits::default());
        Self { runtime, router, sandboxes, script, _dir: dir }
    }

    /// Lets a new sandbox's guest say `script` while `requests` are made, one after the other,
    /// and returns their answers. The sandbox is gone afterwards, and the daemon is well.
    pub fn run(
        &self,
        script: VecDeque<Vec<u8>>,
        requests: impl FnOnce(SandboxId) -> Vec<Request<Body>>,
    ) -> Vec<(StatusCode, HeaderMap, Vec<u8>)> {
        self.runtime.block_on(async {
            self.script.lock().unwrap().clear();
            let id = self.sandboxes.create(&"python".parse().unwrap()).await.unwrap().id;
            *self.script.lock().unwrap() = script;
            let mut answers = Vec::new();
            let mut context = "ctx_000000000000".to_owned();
            for mut request in requests(id) {
                let uri = request.uri().to_string().replace(LAST_CONTEXT, &context);
                *request.uri_mut() = uri.parse().unwrap();
                let answer = self.ask(request).await;
                let made = serde_json::from_slice::<serde_json::Value>(&answer.2);
                let made = made.ok().and_then(|made| Some(made.get("id")?.as_str()?.to_owned()));
                context = made.filter(|id| id.starts_with("ctx_")).unwrap_or(context);
                answers.push(answer);
            }
            self.script.lock().unwrap().clear();
            // It may have been ended for what it said, but it is there.
            self.sandboxes.delete(id).await.unwrap();
            let health = Request::get("/healthz").body(Body::empty()).unwrap();
            assert_eq!(self.ask(health).await.0, StatusCode::OK);
            answers
        })
    }

    async fn ask(&self, request: Request<Body>) -> (StatusCode, HeaderMap, Vec<u8>) {
        let answer = async {
            let answer = self.router.clone().oneshot(request).await.unwrap();
            let (head, mut body) = answer.into_parts();
            let mut read = Vec::new();
            while let Some(Ok(piece)) = body.frame().await {
                if let Ok(piece) = piece.into_data() {
                    read.extend_from_slice(&piece);
                }
                assert!(read.len() <= BODY_BYTES_MAX);
            }
            (head.status, head.headers, read)
        };
        // Some answers, such as events, go on for as long as somebody listens.
        let waited = tokio::time::timeout(ANSWER_MAX, answer).await;
        waited.unwrap_or((StatusCode::REQUEST_TIMEOUT, HeaderMap::new(), Vec::new()))
    }
}
