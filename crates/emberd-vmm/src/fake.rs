//! A test double: the real guest agent as a host process, in place of a microVM.
//!
//! There is no kernel and no isolation, but everything else is as it is in life: a
//! process to kill, a directory to remove, a log, a byte stream to the agent. The
//! "root image" is the pack file the agent is to use. [`Fault`]s make it misbehave.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::io::AsyncWriteExt as _;
use tokio::net::UnixStream;
use tokio::time::Instant;

use crate::process::{VmDir, VmmProcess, command};
use crate::{
    BootError, BootSpec, ConnectError, ExitWatch, KillError, MicroVm, Vmm, VmmDescription,
};

mod offspring;

use offspring::Offspring;

/// Where the agent listens, in the microVM's directory.
const SOCKET: &str = "agent.sock";

/// Time between two attempts to reach an agent that does not listen yet.
const RETRY: Duration = Duration::from_millis(1);

/// How a fake microVM misbehaves.
#[derive(Debug, Clone, Default)]
pub enum Fault {
    /// It behaves.
    #[default]
    None,
    /// The VMM ends at once and boot fails: [`BootError::Exited`].
    FailBoot,
    /// Boot succeeds, then the guest panics: the process ends with code 3 before anything
    /// could connect.
    PanicBooting,
    /// The guest never becomes ready: connect waits for ever.
    NeverReady,
    /// The guest is ready so long after boot.
    ReadyAfter(Duration),
    /// Every stream yields these bytes, whatever is written to it, and then does as told.
    Answer {
        /// What the host reads.
        bytes: Vec<u8>,
        /// What follows.
        then: Then,
    },
    /// The agent is killed so long after boot.
    DieAfter(Duration),
}

/// What a stream does after its [`Fault::Answer`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Then {
    /// Nothing ever more.
    Silence,
    /// It closes.
    Close,
}

/// Makes [`FakeMicroVm`]s.
#[derive(Debug)]
pub struct FakeVmm {
    agent: PathBuf,
    fault: Mutex<Fault>,
    description: VmmDescription,
}

impl FakeVmm {
    /// A fake whose guests run the agent binary `agent`.
    pub fn new(agent: impl Into<PathBuf>) -> Self {
        let description = VmmDescription {
            driver: "fake",
            version: env!("CARGO_PKG_VERSION").to_owned(),
            accelerator: "none",
            reason: "tests run the agent as a host process".to_owned(),
        };
        Self { agent: agent.into(), fault: Mutex::default(), description }
    }

    /// A fake whose guests run the `emberd-init` built beside the running test.
    ///
    /// # Panics
    /// When it is not there.
    pub fn beside_current_exe() -> Self {
        let exe = std::env::current_exe().expect("a test knows its own path");
        let profile_dirs = exe.ancestors().skip(1).take(2);
        let agent = profile_dirs.map(|dir| dir.join("emberd-init")).find(|path| path.exists());
        Self::new(agent.unwrap_or_else(|| {
            panic!("no agent near {}: run `cargo build -p emberd-init` first", exe.display())
        }))
    }

    /// The same fake, misbehaving.
    #[must_use]
    pub fn with_fault(self, fault: Fault) -> Self {
        self.set_fault(fault);
        self
    }

    /// Makes later boots misbehave, or behave again.
    pub fn set_fault(&self, fault: Fault) {
        *self.fault.lock().unwrap_or_else(PoisonError::into_inner) = fault;
    }

    fn command(&self, fault: &Fault, dir: &Path, pack: &Path) -> Command {
        let shell = |script: &str| {
            let mut command = command(Path::new("/bin/sh"));
            command.args(["-c", script]);
            command
        };
        let mut command = match fault {
            Fault::FailBoot => shell("echo 'fake: cannot set up guest memory'; exit 1"),
            Fault::PanicBooting => shell("echo 'Kernel panic - not syncing: fake'; exit 3"),
            Fault::NeverReady | Fault::Answer { .. } => shell("echo 'fake guest'; exec sleep inf"),
            Fault::None | Fault::ReadyAfter(_) | Fault::DieAfter(_) => {
                let mut command = command(&self.agent);
                command.arg("--listen").arg(dir.join(SOCKET)).arg("--pack").arg(pack);
                command
            }
        };
        command.env("PATH", "/usr/local/bin:/usr/bin:/bin");
        command
    }
}

impl Vmm for FakeVmm {
    type MicroVm = FakeMicroVm;

    fn description(&self) -> &VmmDescription {
        &self.description
    }

    async fn boot(&self, spec: BootSpec) -> Result<FakeMicroVm, BootError> {
        let fault = self.fault.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let dir = VmDir::create(&absolute(&spec.dir)?)?;
        let command = self.command(&fault, dir.path(), &absolute(&spec.rootfs)?);
        let process = VmmProcess::spawn(command, dir)?;
        match fault {
            Fault::FailBoot => {
                let reason = process.exited().wait().await;
                return Err(process.exited_early(reason));
            }
            Fault::DieAfter(delay) => process.kill_after(delay),
            _ => {}
        }
        let offspring = Offspring::of(process.process_id());
        Ok(FakeMicroVm { offspring, process, fault, booted: Instant::now() })
    }
}

/// `path` as it is seen from any directory: the agent runs in the microVM's.
fn absolute(path: &Path) -> Result<PathBuf, BootError> {
    std::path::absolute(path).map_err(|source| BootError::Prepare { path: path.into(), source })
}

/// An agent on the host, dressed as a microVM.
#[derive(Debug)]
pub struct FakeMicroVm {
    // Dropped while the agent still lives.
    offspring: Offspring,
    process: VmmProcess,
    fault: Fault,
    booted: Instant,
}

impl FakeMicroVm {
    async fn dial(&self) -> Result<UnixStream, ConnectError> {
        match &self.fault {
            Fault::NeverReady | Fault::PanicBooting => std::future::pending().await,
            Fault::ReadyAfter(delay) => tokio::time::sleep_until(self.booted + *delay).await,
            Fault::Answer { bytes, then } => return answering(bytes.clone(), *then),
            _ => {}
        }
        let path = self.process.dir().join(SOCKET);
        loop {
            match UnixStream::connect(&path).await {
                Ok(stream) => return Ok(stream),
                Err(error) if not_listening_yet(&error) => tokio::time::sleep(RETRY).await,
                Err(error) => return Err(ConnectError::Channel(error)),
            }
        }
    }
}

fn not_listening_yet(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{ConnectionRefused, NotFound};
    matches!(error.kind(), NotFound | ConnectionRefused)
}

/// A stream whose other end answers `bytes` and swallows what it is sent.
fn answering(bytes: Vec<u8>, then: Then) -> Result<UnixStream, ConnectError> {
    let (host, mut guest) = UnixStream::pair().map_err(ConnectError::Channel)?;
    tokio::spawn(async move {
        let answered = guest.write_all(&bytes).await;
        if answered.is_ok() && then == Then::Silence {
            let swallowed = tokio::io::copy(&mut guest, &mut tokio::io::sink()).await;
            tracing::trace!(?swallowed, "host closed the stream");
        }
    });
    Ok(host)
}

impl MicroVm for FakeMicroVm {
    type Stream = UnixStream;

    /// As [`MicroVm::connect`]; the agent serves one socket, whatever the port.
    async fn connect(&self, _port: u32) -> Result<UnixStream, ConnectError> {
        let mut exit = self.process.exited();
        tokio::select! {
            stream = self.dial() => stream,
            _ = exit.wait() => Err(ConnectError::Closed),
        }
    }

    fn exited(&self) -> ExitWatch {
        self.process.exited()
    }

    fn process_id(&self) -> u32 {
        self.process.process_id()
    }

    fn console_log(&self) -> &Path {
        self.process.console_log()
    }

    async fn kill(self) -> Result<(), KillError> {
        drop(self.offspring);
        self.process.kill().await
    }
}
