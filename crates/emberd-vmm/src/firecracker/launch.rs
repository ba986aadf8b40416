//! A Firecracker process from its spawn until its guest runs.

use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use tokio::time::timeout;

use super::api::types::{MemoryBackend, SnapshotLoad};
use super::api::{API_SOCKET, Api, ApiError};
use super::jail::Jail;
use super::ready::Ready;
use super::stage;
use super::{Facts, Firecracker, FirecrackerVm, exit, machine, microvm};
use crate::process::{TAIL_LINES, VmDir, VmmProcess, command};
use crate::root::Root;
use crate::sys::Confinement;
use crate::{BootError, ExitWatch, MachineShape};

/// Time between two looks for the API's socket: it takes Firecracker some milliseconds.
const SOCKET_RETRY: Duration = Duration::from_millis(1);

/// Time to wait for the end of a VMM whose API connection broke, to report its exit code. A VMM
/// that fails ends at once.
const END_WAIT: Duration = Duration::from_secs(1);

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
    facts: Arc<Facts>,
}

impl Firecracker {
    /// Starts a VMM in `dir` that finds `files` under their names, and waits for its API.
    pub(super) async fn launch(
        &self,
        dir: PathBuf,
        files: Vec<(PathBuf, PathBuf)>,
        shape: MachineShape,
    ) -> Result<Launched, BootError> {
        let dir = VmDir::create(&dir)?;
        let (mut command, dir, root, uid) = match &self.jail {
            None => {
                let id = machine::vm_id(dir.path());
                stage::link(dir.path(), &staged(&files))?;
                let mut command = command(&self.facts.binary);
                command.args(["--id", &id]);
                let root = Root::open(dir.path().into())?;
                (command, dir, root, None)
            }
            Some(jail) => self.jailed(jail, dir, files, &shape).await?,
        };
        self.add_args(&mut command);
        let process =
            VmmProcess::spawn_reading(command, dir, Confinement::default(), exit::reason)?;
        let root = Arc::new(root);
        let api = Api::new(Arc::clone(&root));
        let facts = Arc::clone(&self.facts);
        let launched = Launched { process, root, api, ready: None, uid, shape, facts };
        launched.wait_for_api().await?;
        Ok(launched)
    }

    /// The command that starts a VMM in a cell in `dir`, with the cell's root and user.
    async fn jailed(
        &self,
        jail: &Arc<Jail>,
        mut dir: VmDir,
        files: Vec<(PathBuf, PathBuf)>,
        shape: &MachineShape,
    ) -> Result<(Command, VmDir, Root, Option<u32>), BootError> {
        let (path, id) = (dir.path().to_owned(), machine::vm_id(dir.path()));
        let (jail, facts, shape) = (Arc::clone(jail), Arc::clone(&self.facts), shape.clone());
        let prepare = move || {
            let cell = jail.prepare(dir.path(), &id, &facts.binary, &staged(&files))?;
            let (root, uid) = (Root::open(cell.root.clone())?, cell.uid);
            let command = jail.command(&mut dir, &id, &facts.binary, cell, &shape);
            Ok((command, dir, root, Some(uid)))
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
        FirecrackerVm::new(self.process, self.root, self.api, self.ready, self.shape, self.facts)
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
