//! Every route over the double of Firecracker, driven by the client and by raw requests.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use documented::Undocumented;
use emberd::access::{Access, OverTcp};
use emberd::audit::Audit;
use emberd::egress_file::EgressFile;
use emberd::http::{Front, Hosts, Limits, Pages};
use emberd_api::{ErrorBody, ExecBody, ExecOutcome, SandboxState};
use emberd_client::{Client, ClientError};
use emberd_config::{AuditChoice, AuditOptions, Authentication};
use emberd_egress::Egress;
use emberd_image::Images;
use emberd_keys::{KeyRecord, KeysFile, NewKey, Role, Scope};
use emberd_proto::ExecSpec;
use emberd_proto::message::READY_PORT;
use emberd_sandbox::{NodeKey, Sandboxes, SandboxesConfig, Size};
use emberd_vmm::firecracker::{Firecracker, FirecrackerConfig};
use emberd_vmm::{AnyVmm, CgroupChoice, CgroupConfig, JailChoice, JailConfig};
use fake_firecracker::Double;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use crate::{packs, raw, wait};

mod access;
mod bad_input;
mod contexts;
mod documented;
mod egress;
mod env;
mod events;
mod expiry;
mod files;
mod freezing;
mod idempotency;
mod listing;
mod openapi;
mod operations;
mod original;
mod owners;
mod pages;
mod ports;
mod processes;
mod promtool;
mod quota;
mod routes;
mod scopes;
pub mod scrape;
mod sizes;
mod templates;
mod terms;
mod traceparent;
mod urls;

/// Name of the operator's egress file.
pub const EGRESS_FILE: &str = "egress.toml";

/// The API on a port of its own.
pub struct Api {
    pub client: Client,
    pub authority: String,
    pub sandboxes: Sandboxes,
    /// The operator's egress file, beside the run directory.
    pub egress: EgressFile,
    pub run_dir: PathBuf,
    pub access: Access,
    /// The keys, of which there are none at first.
    pub keys: KeysFile,
    /// How the next microVMs behave.
    pub double: Double,
    undocumented: Undocumented,
    audit: Audit,
    server: JoinHandle<std::io::Result<()>>,
    temp: TempDir,
}

impl Api {
    pub async fn start() -> Self {
        Self::with(|_| {}).await
    }

    /// With templates and no pool.
    pub async fn with_templates(misbehave: impl FnOnce(&Double)) -> Self {
        let in_temp = |config: &mut SandboxesConfig| {
            config.template_dir = Some(config.run_dir.with_file_name("templates"));
        };
        Self::start_over(misbehave, in_temp, None).await
    }

    /// With all that metrics tell of: templates and egress.
    pub async fn with_all_metrics() -> Self {
        let all = |config: &mut SandboxesConfig| {
            config.template_dir = Some(config.run_dir.with_file_name("templates"));
            config.egress = Some(Arc::new(Egress::new(16).unwrap()));
        };
        Self::start_over(|_| {}, all, None).await
    }

    pub async fn with(edit: impl FnOnce(&mut SandboxesConfig)) -> Self {
        Self::start_over(|_| {}, edit, None).await
    }

    /// With egress, within the operator's file `operator`.
    pub async fn with_egress(operator: &str) -> Self {
        let on = |config: &mut SandboxesConfig| {
            config.egress = Some(Arc::new(Egress::new(16).unwrap()));
        };
        Self::start_over(|_| {}, on, Some(operator)).await
    }

    /// With pages of other origins.
    pub async fn with_pages(origins: &[&str]) -> Self {
        let origins: Vec<_> = origins.iter().map(|origin| origin.parse().unwrap()).collect();
        Self::start_for(Pages::new(&origins), |_| {}, |_| {}, None).await
    }

    async fn start_over(
        misbehave: impl FnOnce(&Double),
        edit: impl FnOnce(&mut SandboxesConfig),
        operator: Option<&str>,
    ) -> Self {
        Self::start_for(Pages::default(), misbehave, edit, operator).await
    }

    async fn start_for(
        pages: Pages,
        misbehave: impl FnOnce(&Double),
        edit: impl FnOnce(&mut SandboxesConfig),
        operator: Option<&str>,
    ) -> Self {
        let temp = tempfile::Builder::new().prefix("api").tempdir_in("/tmp").unwrap();
        let double = Double::new(temp.path());
        misbehave(&double);
        let data_dir = packs::write(&temp.path().join("data"));
        let run_dir = temp.path().join("run");
        let mut config = SandboxesConfig {
            run_dir: run_dir.clone(),
            node_key: NodeKey::default(),
            adopt: true,
            sandboxes_max: 4,
            memory_mib_total: 1024,
            boot_timeout: Duration::from_secs(60),
            exec_grace: Duration::from_secs(60),
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
        let access = Access::new(data_dir.path(), &[], Authentication::Keys);
        let keys = KeysFile::new(data_dir.path());
        let images = Images::load(&data_dir).unwrap();
        let sandboxes = Sandboxes::open(config, images, driver(&double)).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let authority = listener.local_addr().unwrap().to_string();
        let client = Client::new(&authority).unwrap();
        // `x` is what the tests call it.
        let file = temp.path().join(EGRESS_FILE);
        let file = operator.map(|text| {
            std::fs::write(&file, text).unwrap();
            file.as_path()
        });
        let egress = EgressFile::open(file).unwrap();
        let hosts = Hosts::new(&authority.parse().unwrap(), &["x".to_owned()]);
        let address = authority.parse().unwrap();
        let front = Front::new(&address, &address).with_mcp(true).with_pages(pages);
        let audit = journal(temp.path());
        let limits = Limits::default().recording(audit.clone());
        let router = emberd::http::router(
            sandboxes.clone(),
            hosts,
            limits,
            egress.clone(),
            access.clone(),
            front,
        );
        let undocumented = Undocumented::default();
        let router = undocumented.watch(router);
        let keeping = access.clone();
        let server = tokio::spawn(async move {
            tokio::select! {
                served = axum::serve(listener, router) => served,
                never = keeping.keep() => never,
            }
        });
        Self {
            client,
            authority,
            sandboxes,
            egress,
            run_dir,
            access,
            keys,
            double,
            undocumented,
            audit,
            server,
            temp,
        }
    }

    /// Creates a key with `role` and `scopes`, and returns its secret. TCP needs one from then on.
    pub async fn secret(&self, role: Option<Role>, scopes: &[Scope]) -> (KeyRecord, String) {
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("key-{number}").parse().unwrap();
        let scopes = scopes.to_vec();
        let new = NewKey { role, scopes, ..NewKey::of_role(name, Role::User) };
        let (record, secret) = emberd_keys::create(&self.keys, new).unwrap();
        wait::until(async || self.access.over_tcp() == OverTcp::NeedsKey).await;
        (record, secret.expose().to_owned())
    }

    /// As [`Self::secret`], with a client that sends it.
    pub async fn key(&self, role: Role) -> (KeyRecord, Client) {
        let (record, secret) = self.secret(Some(role), &[]).await;
        (record, Client::new(&self.authority).unwrap().with_key(&secret).unwrap())
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
        let client = match self.access.over_tcp() {
            OverTcp::NeedsKey => self.key(Role::Admin).await.1,
            _ => self.client.clone(),
        };
        let sandboxes = client.list().await.unwrap().sandboxes;
        self.sandboxes.shutdown().await;
        self.server.abort();
        self.audit.close().await;
        emberd_audit::verify(&self.temp.path().join("audit")).unwrap();
        emberd_testing::keep_files(&self.temp.path().join("audit"), "audit");
        assert_eq!(self.undocumented.all(), Vec::<String>::new(), "responses without a document");
        assert_eq!(wait::left_in(&self.run_dir), Vec::<PathBuf>::new());
        wait::until(async || Double::processes_in(&self.run_dir).is_empty()).await;
        for sandbox in sandboxes.iter().filter(|sandbox| sandbox.state == SandboxState::Ready) {
            assert!(!wait::is_running(sandbox.vmm_pid.unwrap()), "{sandbox:?}");
        }
        self.temp.close().unwrap();
    }
}

/// A journal in `dir`.
fn journal(dir: &Path) -> Audit {
    let options = AuditOptions {
        choice: AuditChoice::On,
        dir: dir.join("audit"),
        file_mib: 1,
        keep: Duration::from_hours(24),
        keep_mib: 16,
    };
    Audit::open(&options).unwrap()
}

/// The driver as the daemon's binary makes it, over `double`.
fn driver(double: &Double) -> AnyVmm {
    let config = FirecrackerConfig {
        binary: Some(double.binary()),
        reason: "tests ask for it".to_owned(),
        ready_port: Some(READY_PORT),
        jail: JailConfig { choice: JailChoice::Off, ..JailConfig::default() },
        cgroups: CgroupConfig { choice: CgroupChoice::Off, ..CgroupConfig::default() },
        ..FirecrackerConfig::default()
    };
    AnyVmm::Firecracker(Firecracker::find(config).unwrap())
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
