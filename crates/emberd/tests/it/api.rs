//! Every route over fake microVMs, driven by the client and by raw requests.

use std::path::PathBuf;
use std::time::Duration;

use emberd_api::{ErrorBody, ExecBody, ExecOutcome, SandboxState};
use emberd_client::{Client, ClientError};
use emberd_proto::ExecSpec;
use emberd_sandbox::{Sandboxes, SandboxesConfig};
use emberd_vmm::fake::{FakeVmm, Fault};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use crate::{packs, raw, wait};

mod bad_input;
mod openapi;
mod routes;

/// The API on a port of its own.
pub struct Api {
    pub client: Client,
    pub authority: String,
    pub sandboxes: Sandboxes<FakeVmm>,
    pub run_dir: PathBuf,
    server: JoinHandle<std::io::Result<()>>,
    temp: TempDir,
}

impl Api {
    pub async fn start() -> Self {
        Self::with(|_| {}).await
    }

    pub async fn with(edit: impl FnOnce(&mut SandboxesConfig)) -> Self {
        let temp = tempfile::Builder::new().prefix("api").tempdir_in("/tmp").unwrap();
        packs::write(temp.path());
        let run_dir = temp.path().join("run");
        let mut config = SandboxesConfig {
            run_dir: run_dir.clone(),
            sandboxes_max: 4,
            boot_timeout: Duration::from_secs(60),
            exec_grace: Duration::from_secs(60),
            vcpu_count: 1,
            mem_size_mib: 64,
            kernel_args: Vec::new(),
        };
        edit(&mut config);
        let images = packs::images(temp.path());
        let vmm = FakeVmm::beside_current_exe();
        let sandboxes = Sandboxes::open(config, images, vmm).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let authority = listener.local_addr().unwrap().to_string();
        let client = Client::new(&authority).unwrap();
        let router = emberd::http::router(sandboxes.clone());
        let server = tokio::spawn(async { axum::serve(listener, router).await });
        Self { client, authority, sandboxes, run_dir, server, temp }
    }

    pub fn misbehave(&self, fault: Fault) {
        self.sandboxes.vmm().set_fault(fault);
    }

    /// A sandbox of the pack `shell`.
    pub async fn create(&self) -> String {
        self.client.create(Some("shell")).await.unwrap().id
    }

    pub async fn exec(&self, id: &str, code: &str) -> Result<ExecOutcome, ClientError> {
        self.client.exec(id, &body(code)).await
    }

    pub async fn raw(&self, method: &str, path: &str, body: &str) -> raw::Answer {
        raw::request(&self.authority, method, path, body).await
    }

    /// Stops, and looks for anything left behind.
    pub async fn stop(self) {
        let sandboxes = self.client.list().await.unwrap().sandboxes;
        self.sandboxes.shutdown().await;
        self.server.abort();
        assert_eq!(wait::left_in(&self.run_dir), Vec::<PathBuf>::new());
        for sandbox in sandboxes.iter().filter(|sandbox| sandbox.state == SandboxState::Ready) {
            assert!(!wait::is_running(sandbox.vmm_pid.unwrap()), "{sandbox:?}");
        }
        self.temp.close().unwrap();
    }
}

pub fn body(code: &str) -> ExecBody {
    ExecBody { spec: ExecSpec::new(code), stdin: None, stdin_base64: None }
}

/// Status and body of the error a call ended with.
pub fn refusal<T: std::fmt::Debug>(outcome: Result<T, ClientError>) -> (u16, ErrorBody) {
    match outcome {
        Err(ClientError::Api { status, body }) => (status, body),
        other => panic!("expected an error of the API, got {other:?}"),
    }
}
