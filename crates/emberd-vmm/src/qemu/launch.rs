//! A QEMU process from its spawn until its guest runs.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::UnixStream;
use tokio::time::timeout;

use super::arguments::{Arguments, CHANNEL, CONTROL};
use super::jail::Cell;
use super::microvm::{Control, Origin, QemuMicroVm};
use super::mux::{Mux, Stand};
use super::qmp::Qmp;
use super::{DRIVER, Facts, OVERHEAD, Qemu};
use crate::dial::dial;
use crate::disk::{Disk, Source};
use crate::jail::Plan;
use crate::process::{Start, TAIL_LINES, VmDir, VmmProcess, command, plain_code};
use crate::record;
use crate::root::Root;
use crate::sys::Confinement;
use crate::{BootError, MachineShape};

/// Longest wait for QEMU to open its sockets; 20 ms are usual, and 5 s were seen on a host
/// with thirty times the work it could do.
const CHANNEL_WAIT_MAX: Duration = Duration::from_secs(30);

/// The C library grows the heap that a thread has of its own page by page, with a system call for
/// each: a third of all calls between the load of a template and the guest's answer. The one
/// heap of the process grows in larger steps.
const MALLOC_ARENAS: (&str, &str) = ("MALLOC_ARENA_MAX", "1");

/// Time to wait for the end of a QEMU that failed a step, to report its exit code and its last
/// output. A QEMU that fails ends at once.
const END_WAIT: Duration = Duration::from_secs(1);

/// A VMM without a guest yet. Dropping it ends it.
#[derive(Debug)]
pub(super) struct Launched {
    pub(super) process: VmmProcess,
    sockets: Sockets,
    /// The connection to the agent's port, before anything was said on it.
    channel: UnixStream,
    facts: Arc<Facts>,
}

/// Where a VMM will run: its directory, and its jail if it has one.
#[derive(Debug)]
pub(super) struct Site {
    dir: VmDir,
    sockets: Sockets,
    plan: Option<Plan>,
    /// `cgroup.procs` of its cgroup, if it has one.
    cgroup: Option<OwnedFd>,
    /// The jail's user.
    uid: Option<u32>,
}

/// The directory with a VMM's sockets.
#[derive(Debug, Clone)]
pub(super) enum Sockets {
    /// The microVM's own.
    Own(PathBuf),
    /// One that belongs to the jail's user, who may put links there.
    Jailed(Arc<Root>),
}

impl Sockets {
    /// Connects to the socket `name`.
    pub(super) async fn connect(&self, name: &str) -> io::Result<UnixStream> {
        match self {
            Self::Own(dir) => UnixStream::connect(dir.join(name)).await,
            Self::Jailed(root) => root.connect(name).await,
        }
    }

    pub(super) fn path(&self) -> &Path {
        match self {
            Self::Own(dir) => dir,
            Self::Jailed(root) => root.path(),
        }
    }
}

impl Site {
    /// Makes the guest's own disk, for the VMM's user.
    pub(super) async fn disk(&self, source: Source) -> Result<Disk, BootError> {
        let path = source.dir.clone();
        Disk::make(source, self.uid).await.map_err(|source| BootError::Prepare { path, source })
    }

    /// Returns the VMM's name of the host's `file`, which is `inside` in a jail.
    pub(super) fn name(&self, file: &Path, inside: &str) -> PathBuf {
        if self.plan.is_some() { inside.into() } else { file.into() }
    }
}

impl Qemu {
    /// Makes `dir` for a guest on `machine`, with its cgroup, and a jail in it that contains
    /// `images`, where VMMs have one.
    pub(super) fn site(
        &self,
        dir: &Path,
        images: &[(&Path, &str)],
        machine: &MachineShape,
    ) -> Result<Site, BootError> {
        let mut dir = VmDir::create(dir)?;
        let cgroup = self.cgroups.make(dir.path(), machine, OVERHEAD);
        let prepare = |source| BootError::Prepare { path: dir.path().into(), source };
        let cgroup = cgroup.map_err(prepare)?;
        let Ok(jail) = &self.jail else {
            let sockets = Sockets::Own(dir.path().into());
            return Ok(Site { dir, sockets, plan: None, cgroup, uid: None });
        };
        let Cell { work_dir, uid, plan } = jail.prepare(&mut dir, images)?;
        let sockets = Sockets::Jailed(Arc::new(Root::open(work_dir)?));
        Ok(Site { dir, sockets, plan: Some(plan), cgroup, uid: Some(uid) })
    }

    /// Starts a VMM that inherits the descriptors `inherits`, and connects to its channel,
    /// which it opens once it has understood its arguments.
    pub(super) async fn launch(
        &self,
        site: Site,
        arguments: &Arguments<'_>,
        inherits: Vec<OwnedFd>,
    ) -> Result<Launched, BootError> {
        let mut command = command(&self.binary);
        command.args(arguments.words()?);
        command.env(MALLOC_ARENAS.0, MALLOC_ARENAS.1);
        let Site { dir, sockets, plan, cgroup, uid } = site;
        let record = record::Site {
            driver: DRIVER.to_owned(),
            version: self.facts.version.clone(),
            sockets: sockets.path().strip_prefix(dir.path()).unwrap_or(sockets.path()).into(),
            uid,
        };
        let confinement = Confinement { inherits, jail: plan, cgroup };
        let start = Start { command, confinement, site: record, read_code: plain_code };
        let process = VmmProcess::spawn(start, dir)?;
        let channel = connect(&process, &sockets, CHANNEL).await?;
        Ok(Launched { process, sockets, channel, facts: Arc::clone(&self.facts) })
    }
}

impl Launched {
    /// Connects to the VMM's control socket.
    pub(super) async fn control(&self) -> Result<Qmp, BootError> {
        let stream = connect(&self.process, &self.sockets, CONTROL).await?;
        match Qmp::open(stream).await {
            Ok(qmp) => Ok(qmp),
            Err(error) => Err(self.failed("the negotiation", error).await),
        }
    }

    /// Returns the error of a failed step: the exit of the VMM, if it ended, else `error`.
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

    /// Returns the microVM, now that its `guest` runs. `origin` is set if it can become a template.
    pub(super) fn into_microvm(
        self,
        guest: Stand,
        qmp: Option<Qmp>,
        origin: Option<Origin>,
    ) -> QemuMicroVm {
        let control = Control::new(self.sockets, qmp);
        let mux = Mux::over(self.channel, guest);
        QemuMicroVm::new(mux, control, self.process, origin, self.facts)
    }
}

/// Connects to the socket `name` of `process` as soon as it listens.
async fn connect(
    process: &VmmProcess,
    sockets: &Sockets,
    name: &str,
) -> Result<UnixStream, BootError> {
    let mut exit = process.exited();
    let dialled = dial(|| sockets.connect(name));
    let stream: Result<io::Result<UnixStream>, _> = tokio::select! {
        stream = timeout(CHANNEL_WAIT_MAX, dialled) => stream,
        reason = exit.wait() => return Err(process.exited_early(reason)),
    };
    stream
        .map_err(|_| BootError::NoChannel { waited: CHANNEL_WAIT_MAX })?
        .map_err(|source| BootError::Prepare { path: sockets.path().join(name), source })
}
