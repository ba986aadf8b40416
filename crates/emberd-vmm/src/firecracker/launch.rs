//! A Firecracker process from its spawn until its guest runs.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use tokio::time::timeout;

use super::api::types::{MemoryBackend, SnapshotLoad};
use super::api::{API_SOCKET, Api, ApiError};
use super::jail::Jail;
use super::machine::DISK_STAGED;
use super::ready::Ready;
use super::stage;
use super::{DRIVER, Facts, Firecracker, FirecrackerVm, exit, machine, microvm};
use crate::cgroup::Overhead;
use crate::disk::{self, Disk, Source};
use crate::process::{Start, TAIL_LINES, VmDir, VmmProcess, command};
use crate::record::Site;
use crate::root::Root;
use crate::sys::Confinement;
use crate::{BootError, ExitWatch, MachineShape};

/// Time between two looks for the API's socket: it takes Firecracker some milliseconds.
const SOCKET_RETRY: Duration = Duration::from_millis(1);

/// Time to wait for the end of a VMM whose API connection broke, to report its exit code. A VMM
/// that fails ends at once.
const END_WAIT: Duration = Duration::from_secs(1);

/// Firecracker's own resources: its memory (about 5 MiB), page tables and the page cache of files
/// that it alone reads; its threads, one per processor (at most 32), with the kernel's threads
/// for it.
const OVERHEAD: Overhead = Overhead { mem_mib: 128, tasks: 64 };

/// A VMM without a guest yet. Dropping it ends it.
#[derive(Debug)]
pub(super) struct Launched {
    process: VmmProcess,
    root: Arc<Root>,
    api: Api,
    ready: Option<Ready>,
    /// The jail's user.
    uid: Option<u32>,
    shape: MachineShape,
    /// The guest's own disk.
    disk: Option<File>,
    facts: Arc<Facts>,
}

/// How a VMM will be started.
struct Plan {
    command: Command,
    dir: VmDir,
    root: Root,
    /// The jail's user.
    uid: Option<u32>,
    disk: Option<File>,
    inherits: Vec<OwnedFd>,
}

impl Firecracker {
    /// Starts a VMM in `dir` that finds `files` under their names, and a copy of `disk` under its
    /// own, and waits for its API.
    pub(super) async fn launch(
        &self,
        dir: PathBuf,
        files: Vec<(PathBuf, PathBuf)>,
        disk: Option<Source>,
        shape: MachineShape,
    ) -> Result<Launched, BootError> {
        let dir = VmDir::create(&dir)?;
        let cgroup = self.cgroups.make(dir.path(), &shape, OVERHEAD);
        let prepare = |source| BootError::Prepare { path: dir.path().into(), source };
        let cgroup = cgroup.map_err(prepare)?;
        let plan = match &self.jail {
            Err(_) => self.free(dir, files, disk).await?,
            Ok(jail) => self.jailed(jail, dir, files, disk).await?,
        };
        let Plan { mut command, dir, root, uid, disk, inherits } = plan;
        let confinement = Confinement { inherits, jail: None, cgroup };
        self.add_args(&mut command);
        let site = Site {
            driver: DRIVER.to_owned(),
            version: self.facts.version.to_string(),
            sockets: root.path().strip_prefix(dir.path()).unwrap_or(root.path()).into(),
            uid,
        };
        let start = Start { command, confinement, site, read_code: exit::reason };
        let process = VmmProcess::spawn(start, dir)?;
        let root = Arc::new(root);
        let api = Api::new(Arc::clone(&root));
        let facts = Arc::clone(&self.facts);
        let launched = Launched { process, root, api, ready: None, uid, shape, disk, facts };
        launched.wait_for_api().await?;
        Ok(launched)
    }

    /// Prepares `dir` for a VMM that follows links.
    async fn free(
        &self,
        dir: VmDir,
        files: Vec<(PathBuf, PathBuf)>,
        disk: Option<Source>,
    ) -> Result<Plan, BootError> {
        stage::link(dir.path(), &staged(&files))?;
        let mut inherits = Vec::new();
        let disk = match disk {
            Some(source) => {
                let path = source.dir.clone();
                let disk = Disk::make(source, None).await;
                let disk = disk.map_err(|source| BootError::Prepare { path, source })?;
                stage::link(dir.path(), &[(&disk.name(), Path::new(DISK_STAGED))])?;
                inherits.push(disk.descriptor);
                Some(disk.file)
            }
            None => None,
        };
        let mut command = command(&self.facts.binary);
        command.args(["--id", &machine::vm_id(dir.path())]);
        let root = Root::open(dir.path().into())?;
        Ok(Plan { command, dir, root, uid: None, disk, inherits })
    }

    /// Prepares a cell in `dir`.
    async fn jailed(
        &self,
        jail: &Arc<Jail>,
        mut dir: VmDir,
        files: Vec<(PathBuf, PathBuf)>,
        disk: Option<Source>,
    ) -> Result<Plan, BootError> {
        let (path, id) = (dir.path().to_owned(), machine::vm_id(dir.path()));
        let (jail, facts) = (Arc::clone(jail), Arc::clone(&self.facts));
        let prepare = move || {
            let cell = jail.prepare(dir.path(), &id, &facts.binary, &staged(&files))?;
            let (root, uid) = (Root::open(cell.root.clone())?, cell.uid);
            let staged = cell.root.join(DISK_STAGED);
            let disk = disk.map(|source| disk::place(&source, &staged, uid)).transpose();
            let disk = disk.map_err(|source| BootError::Prepare { path: staged, source })?;
            let command = jail.command(&mut dir, &id, &facts.binary, cell);
            Ok(Plan { command, dir, root, uid: Some(uid), disk, inherits: Vec::new() })
        };
        // A file that can be neither linked nor mounted is copied, which takes its time.
        let prepared = tokio::task::spawn_blocking(prepare).await;
        prepared.map_err(|error| BootError::Prepare { path, source: error.into() })?
    }

    /// Without `--log-path` Firecracker logs where the console goes, which is the VM's log.
    fn add_args(&self, command: &mut Command) {
        command.args(["--api-sock", API_SOCKET, "--level", "Warning"]);
        if self.facts.config.no_seccomp {
            command.arg("--no-seccomp");
        }
    }
}

impl Launched {
    async fn wait_for_api(&self) -> Result<(), BootError> {
        let mut exit = self.process.exited();
        let open = async {
            while self.api.open().await.is_err() {
                tokio::time::sleep(SOCKET_RETRY).await;
            }
        };
        let waited = self.facts.config.call_timeout;
        tokio::select! {
            biased;
            reason = exit.wait() => Err(self.process.exited_early(reason)),
            opened = timeout(waited, open) => opened.map_err(|_| BootError::NoChannel { waited }),
        }
    }

    /// Listens for the guest's dial to `port`.
    pub(super) fn listen_for_readiness(&mut self, port: Option<u32>) -> Result<(), BootError> {
        if let Some(port) = port {
            let ready = Ready::listen(&self.root, port, self.uid);
            self.ready =
                Some(ready.map_err(|source| BootError::Prepare {
                    path: self.root.path().into(),
                    source,
                })?);
        }
        Ok(())
    }

    /// Sends one step of the boot.
    pub(super) async fn put(&self, path: &str, body: &impl Serialize) -> Result<(), BootError> {
        self.put_within(path, body, self.facts.config.call_timeout).await
    }

    /// Loads the staged template and lets its guest run.
    pub(super) async fn load(&self) -> Result<(), BootError> {
        let load = SnapshotLoad {
            snapshot_path: microvm::STATE_STAGED,
            mem_backend: MemoryBackend {
                backend_type: "File",
                backend_path: microvm::MEMORY_STAGED,
            },
            resume_vm: true,
        };
        self.put_within("/snapshot/load", &load, self.facts.config.snapshot_timeout).await
    }

    async fn put_within(
        &self,
        path: &str,
        body: &impl Serialize,
        deadline: Duration,
    ) -> Result<(), BootError> {
        match self.api.put(path, body, deadline).await {
            Ok(()) => Ok(()),
            Err(error) => Err(self.failed(path, error).await),
        }
    }

    /// Returns the error of a failed call: the exit of the VMM, if it ended, else `error`.
    async fn failed(&self, path: &str, error: ApiError) -> BootError {
        if let ApiError::Closed(_) = &error
            && let Ok(reason) = timeout(END_WAIT, self.process.exited().wait()).await
        {
            return self.process.exited_early(reason);
        }
        let log_tail = crate::log::tail(self.process.console_log(), TAIL_LINES);
        BootError::Step { step: format!("PUT {path}"), log_tail, source: error.into() }
    }

    pub(super) fn exited(&self) -> ExitWatch {
        self.process.exited()
    }

    pub(super) fn process_id(&self) -> u32 {
        self.process.process_id()
    }

    /// Returns the microVM, now that its guest runs.
    pub(super) fn into_microvm(self) -> FirecrackerVm {
        let Self { process, root, api, ready, uid: _, shape, disk, facts } = self;
        FirecrackerVm::new(process, root, api, ready, shape, disk, facts)
    }
}

fn staged(files: &[(PathBuf, PathBuf)]) -> Vec<stage::Staged<'_>> {
    files.iter().map(|(file, name)| (&**file, &**name)).collect()
}

/// A step that failed before there was a VMM.
pub(super) fn step_failed(
    step: &str,
    source: impl std::error::Error + Send + Sync + 'static,
) -> BootError {
    BootError::Step { step: step.to_owned(), log_tail: String::new(), source: source.into() }
}
