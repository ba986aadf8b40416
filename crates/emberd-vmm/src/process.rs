//! A VMM's process, from spawn until it is reaped and its directory is gone.
//!
//! ```text
//! spawn ─▶ running ─┬─ ends by itself ─▶ reaped by its watch ──┬▶ sent ─▶ owner drops:
//!                   └─ kill or drop ───▶ SIGKILL, reaped there ┘         directory removed
//! ```
//!
//! A process that an earlier daemon started is adopted as running. Reaping locks the process,
//! which keeps the status. So each child gets one `wait`, leaves no zombie, and a recycled process
//! id gets no signal.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open};
use tokio::io::unix::AsyncFd;
use tokio::sync::watch;
use tokio::time::sleep;

use crate::holdings;
use crate::log::{LOG_FILE, Log};
use crate::orphans::Orphan;
use crate::record::{ProcessIdentity, RECORD_FILE, Record, Site};
use crate::sys::{self, Confinement};
use crate::{BootError, ExitReason, ExitWatch, KillError};

mod held;

use held::Held;

/// Time between two looks at the log of a running VMM: what it prints meanwhile is not bounded by
/// the daemon.
const LOOK_AT_LOG: Duration = Duration::from_secs(1);

/// Most attempts to remove a directory while files are added to it.
const REMOVALS_MAX: usize = 16;

/// Lines of log that an error quotes.
pub(crate) const TAIL_LINES: usize = 8;

/// Returns a command without the daemon's environment, which may hold secrets.
pub(crate) fn command(program: &Path) -> Command {
    let mut command = Command::new(program);
    command.env_clear();
    command
}

/// The directory of one microVM; removed when dropped.
#[derive(Debug)]
pub(crate) struct VmDir {
    path: PathBuf,
    removed: bool,
    kept: Option<Box<dyn Kept>>,
}

/// A resource released when a microVM's directory is gone.
pub(crate) trait Kept: std::fmt::Debug + Send + Sync {}

impl<T: std::fmt::Debug + Send + Sync> Kept for T {}

impl VmDir {
    /// Makes the directory, for its owner alone.
    pub(crate) fn create(path: &Path) -> Result<Self, BootError> {
        std::fs::DirBuilder::new()
            .mode(0o700)
            .create(path)
            .map_err(|source| BootError::Prepare { path: path.into(), source })?;
        Ok(Self { path: path.into(), removed: false, kept: None })
    }

    /// Takes over the directory of an earlier daemon's microVM.
    fn adopt(orphan: &Orphan) -> Self {
        let kept = orphan.lease.clone().map(|lease| Box::new(lease) as Box<dyn Kept>);
        Self { path: orphan.dir.clone(), removed: false, kept }
    }

    /// Drops `kept` once the directory is gone, and the microVM's process before it.
    pub(crate) fn keep(&mut self, kept: impl Kept + 'static) {
        self.kept = Some(Box::new(kept));
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    fn remove(&mut self) -> io::Result<()> {
        self.removed = true;
        crate::holdings::release(&self.path)?;
        let mut attempts = 1;
        loop {
            match std::fs::remove_dir_all(&self.path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
                // A process that the VMM started may outlive it briefly and add a file.
                Err(error)
                    if error.kind() == io::ErrorKind::DirectoryNotEmpty
                        && attempts < REMOVALS_MAX =>
                {
                    attempts += 1;
                }
                outcome => return outcome,
            }
        }
    }
}

impl Drop for VmDir {
    fn drop(&mut self) {
        if !self.removed
            && let Err(error) = self.remove()
        {
            tracing::warn!(%error, dir = %self.path.display(), "microVM directory not removed");
        }
    }
}

/// Derives from its exit code and its log why a VMM exited.
pub(crate) type ReadCode = fn(i32, &Path) -> ExitReason;

/// A running VMM and its directory. Dropping it kills the process, reaps it and removes the
/// directory; that blocks for some milliseconds and needs no runtime.
#[derive(Debug)]
pub(crate) struct VmmProcess {
    guard: Arc<ProcessGuard>,
    exit: ExitWatch,
    process_id: u32,
    console_log: PathBuf,
    // Dropped after the process has been reaped.
    dir: VmDir,
}

/// How a VMM is started.
pub(crate) struct Start {
    pub(crate) command: Command,
    pub(crate) confinement: Confinement,
    /// How it is driven, for the record.
    pub(crate) site: Site,
    /// Derives from exit code and log why the process exited.
    pub(crate) read_code: ReadCode,
}

/// The exit code as it is.
pub(crate) fn plain_code(code: i32, _: &Path) -> ExitReason {
    ExitReason::Code(code)
}

impl VmmProcess {
    /// Starts a VMM in `dir`, confined, in a session of its own. It appends everything
    /// it prints to the log itself, so that it can go on when the daemon is gone.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub(crate) fn spawn(start: Start, dir: VmDir) -> Result<Self, BootError> {
        let Start { mut command, confinement, site, read_code } = start;
        let prepare = |file: &str| {
            let path = dir.path().join(file);
            move |source| BootError::Prepare { path, source }
        };
        let log = Log::create(dir.path()).map_err(prepare(LOG_FILE))?;
        let [output, errors] = [log.file(), log.file()].map(|file| file.map_err(prepare(LOG_FILE)));
        command.current_dir(dir.path()).stdin(Stdio::null()).stdout(output?).stderr(errors?);
        sys::confine(&mut command, confinement);
        let program = PathBuf::from(command.get_program());
        let record_failed = prepare(RECORD_FILE);
        let mut child = command.spawn().map_err(|source| BootError::Spawn { program, source })?;
        let process_id = child.id();
        let pidfd = match pidfd_open(Pid::from_child(&child), PidfdFlags::empty()) {
            Ok(pidfd) => Arc::new(pidfd),
            Err(error) => {
                // Both fail only for a child that was already waited for.
                child.kill().and_then(|()| child.wait()).ok();
                return Err(record_failed(error.into()));
            }
        };
        let process = Self::new(Held::Child(child), process_id, &pidfd, Some(log), dir, read_code);
        process.record(site).and_then(|()| process.attend(pidfd)).map_err(record_failed)?;
        Ok(process)
    }

    /// Takes over a VMM that an earlier daemon started.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub(crate) fn adopt(orphan: &Orphan, read_code: ReadCode) -> Result<Self, BootError> {
        let pidfd = &orphan.pidfd;
        let failed = |source| BootError::Prepare { path: orphan.dir.clone(), source };
        // First: once the process is held, an error would end it.
        let watched = sys::readable(Arc::clone(pidfd)).map_err(failed)?;
        // Without a log to tend, it grows.
        let log = Log::open(&orphan.dir).inspect_err(|error| {
            tracing::warn!(%error, dir = %orphan.dir.display(), "cannot open the log of a VMM");
        });
        let (held, dir) = (Held::adopted(Arc::clone(pidfd)), VmDir::adopt(orphan));
        let process = Self::new(held, orphan.process_id, pidfd, log.ok(), dir, read_code);
        tokio::spawn(watch(Arc::clone(&process.guard), watched));
        Ok(process)
    }

    fn new(
        held: Held,
        process_id: u32,
        pidfd: &Arc<OwnedFd>,
        log: Option<Log>,
        dir: VmDir,
        read_code: ReadCode,
    ) -> Self {
        let console_log = dir.path().join(LOG_FILE);
        let (ended, exit) = ExitWatch::channel(Arc::clone(pidfd));
        let life = Mutex::new(Life { held, log, is_left: false });
        let guard = ProcessGuard { life, ended, read_code, log_path: console_log.clone() };
        Self { guard: Arc::new(guard), exit, process_id, console_log, dir }
    }

    fn record(&self, site: Site) -> io::Result<()> {
        match ProcessIdentity::of(self.process_id)? {
            Some(process) => Record { process, site: Some(site) }.write(self.dir.path()),
            None => Ok(()),
        }
    }

    /// Sets the watch on the process. This comes after the record: until then the process stays
    /// unreaped, however soon it ends, and can be identified.
    fn attend(&self, pidfd: Arc<OwnedFd>) -> io::Result<()> {
        tokio::spawn(watch(Arc::clone(&self.guard), sys::readable(pidfd)?));
        Ok(())
    }

    /// Lets the process and its directory be, for a later daemon.
    pub(crate) fn detach(mut self) {
        self.guard.leave();
        self.dir.removed = true;
    }

    pub(crate) fn exited(&self) -> ExitWatch {
        self.exit.clone()
    }

    pub(crate) fn process_id(&self) -> u32 {
        self.process_id
    }

    pub(crate) fn console_log(&self) -> &Path {
        &self.console_log
    }

    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Why a VMM that has ended before its time could not be used.
    pub(crate) fn exited_early(&self, reason: ExitReason) -> BootError {
        let log_tail = crate::log::tail(&self.console_log, TAIL_LINES);
        BootError::Exited { reason, log_tail }
    }

    /// Kills the process, reaps it and removes the directory, on a thread that may block.
    /// Dropping the future does not stop it.
    pub(crate) async fn kill(mut self) -> Result<(), KillError> {
        let path = self.dir.path().to_owned();
        let end = move || {
            self.guard.kill_and_reap();
            self.dir.remove()
        };
        // An unfinished closure (its runtime ended first) has dropped the process: same end.
        let outcome = tokio::task::spawn_blocking(end).await.unwrap_or(Ok(()));
        outcome.map_err(|source| KillError { dir: path, source })
    }
}

impl Drop for VmmProcess {
    fn drop(&mut self) {
        self.guard.kill_and_reap();
    }
}

/// State shared by the watch and the owner of a process.
#[derive(Debug)]
struct ProcessGuard {
    life: Mutex<Life>,
    ended: watch::Sender<Option<ExitReason>>,
    read_code: ReadCode,
    log_path: PathBuf,
}

#[derive(Debug)]
struct Life {
    held: Held,
    /// Gone once the owner ends the process: a log must not grow in a directory being removed.
    log: Option<Log>,
    /// Whether the process lives on after its owner.
    is_left: bool,
}

impl ProcessGuard {
    fn life(&self) -> MutexGuard<'_, Life> {
        self.life.lock()
    }

    fn is_adopted(&self) -> bool {
        matches!(self.life().held, Held::Adopted(_))
    }

    fn tend_log(&self) {
        if let Some(log) = &self.life().log {
            log.tend();
        }
    }

    /// Reaps a process that has ended.
    fn reap(&self) {
        let status = self.life().held.wait();
        self.tell(status);
    }

    fn kill_and_reap(&self) {
        let mut life = self.life();
        life.log = None;
        if life.is_left {
            return;
        }
        if let Err(error) = life.held.kill() {
            tracing::warn!(%error, log = %self.log_path.display(), "VMM not killed");
        }
        let status = life.held.wait();
        drop(life);
        self.tell(status);
    }

    fn leave(&self) {
        let mut life = self.life();
        (life.log, life.is_left) = (None, true);
    }

    fn tell(&self, status: Option<ExitStatus>) {
        let reason = match status.map(|status| (status.code(), status.signal())) {
            Some((Some(code), _)) => (self.read_code)(code, &self.log_path),
            Some((None, signal)) => self.read_signal(signal),
            None => self.read_signal(None),
        };
        // The watch and the owner may both report; the second report changes nothing.
        self.ended.send_if_modified(|sent| sent.replace(reason) != Some(reason));
    }

    /// The reason of an end by `signal`; none if the kernel kept no status.
    fn read_signal(&self, signal: Option<i32>) -> ExitReason {
        let ran_out = || self.log_path.parent().is_some_and(holdings::ran_out_of_memory);
        match signal {
            Some(signal) if signal != Signal::KILL.as_raw() => ExitReason::Signal(signal),
            _ if ran_out() => ExitReason::OutOfMemory,
            Some(signal) => ExitReason::Signal(signal),
            None => ExitReason::Unknown,
        }
    }
}

/// Keeps the log of the process bounded until it ends, then reaps it.
async fn watch(guard: Arc<ProcessGuard>, pidfd: AsyncFd<Arc<OwnedFd>>) {
    loop {
        tokio::select! {
            biased;
            _ = pidfd.readable() => break,
            () = sleep(LOOK_AT_LOG) => guard.tend_log(),
        }
    }
    guard.tend_log();
    if guard.is_adopted() {
        held::settle(pidfd.get_ref()).await;
    }
    guard.reap();
}
