//! A QEMU process from its spawn until its guest runs.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::UnixStream;
use tokio::time::timeout;

use super::arguments::{Arguments, CHANNEL, CONTROL};
use super::microvm::{Control, QemuMicroVm};
use super::mux::Mux;
use super::qmp::Qmp;
use super::{Facts, Qemu};
use crate::dial::dial;
use crate::process::{TAIL_LINES, VmDir, VmmProcess, command};
use crate::{BootError, MachineShape};

/// Longest wait for QEMU to open its sockets; 20 ms are usual, and 5 s were seen on a host
/// with thirty times the work it could do.
const CHANNEL_WAIT_MAX: Duration = Duration::from_secs(30);

/// How long a QEMU that did not carry out a step is given to end, so that its exit code and
/// its last words can be told instead: it ends at once, or it is not going to.
const END_WAIT: Duration = Duration::from_secs(1);

/// A VMM without a guest yet. Dropping it ends it.
#[derive(Debug)]
pub(super) struct Launched {
    pub(super) process: VmmProcess,
    /// The connection to the agent's port, before anything was said on it.
    channel: UnixStream,
    facts: Arc<Facts>,
}

impl Qemu {
    /// Starts a VMM in `dir` and connects to its channel, which it opens once it has
    /// understood its arguments.
    pub(super) async fn launch(
        &self,
        dir: &Path,
        arguments: &Arguments<'_>,
    ) -> Result<Launched, BootError> {
        let mut command = command(&self.binary);
        command.args(arguments.words()?);
        let process = VmmProcess::spawn(command, VmDir::create(dir)?)?;
        let channel = connect(&process, CHANNEL).await?;
        Ok(Launched { process, channel, facts: Arc::clone(&self.facts) })
    }
}

impl Launched {
    /// Connects to the VMM's control socket.
    pub(super) async fn control(&self) -> Result<Qmp, BootError> {
        let stream = connect(&self.process, CONTROL).await?;
        match Qmp::open(stream).await {
            Ok(qmp) => Ok(qmp),
            Err(error) => Err(self.failed("the negotiation", error).await),
        }
    }

    /// A VMM that ended is better explained by its exit than by what that broke.
    pub(super) async fn failed(
        &self,
        step: &str,
        source: impl std::error::Error + Send + Sync + 'static,
    ) -> BootError {
        if let Ok(reason) = timeout(END_WAIT, self.process.exited().wait()).await {
            return self.process.exited_early(reason);
        }
        let log_tail = crate::log::tail(self.process.console_log(), TAIL_LINES);
        BootError::Step { step: step.to_owned(), log_tail, source: source.into() }
    }

    /// Now a guest runs. `shape` is that of a guest a template can be made of.
    pub(super) fn into_microvm(self, qmp: Option<Qmp>, shape: Option<MachineShape>) -> QemuMicroVm {
        let control = Control::new(self.process.dir().join(CONTROL), qmp);
        QemuMicroVm::new(Mux::over(self.channel), control, self.process, shape, self.facts)
    }
}

/// Connects to the socket `name` of `process` as soon as it listens.
async fn connect(process: &VmmProcess, name: &str) -> Result<UnixStream, BootError> {
    let path: PathBuf = process.dir().join(name);
    let mut exit = process.exited();
    let stream: Result<io::Result<UnixStream>, _> = tokio::select! {
        stream = timeout(CHANNEL_WAIT_MAX, dial(&path)) => stream,
        reason = exit.wait() => return Err(process.exited_early(reason)),
    };
    stream
        .map_err(|_| BootError::NoChannel { waited: CHANNEL_WAIT_MAX })?
        .map_err(|source| BootError::Prepare { path, source })
}
