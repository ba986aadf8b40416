//! A VMM's process, from spawn until it is reaped and its directory is gone.
//!
//! ```text
//! spawn ─▶ running ─┬─ ends by itself ─▶ reaped by its watch ──┬▶ sent ─▶ owner drops:
//!                   └─ kill or drop ───▶ SIGKILL, reaped there ┘         directory removed
//! ```
//!
//! Reaping locks the [`Child`], which keeps the status. So each process gets one `wait`, leaves
//! no zombie, and a recycled process id gets no signal.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt as _;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open};
use tokio::io::unix::AsyncFd;
use tokio::sync::watch;
use tokio::time::sleep;

use crate::log::{LOG_FILE, Log};
use crate::record::{RECORD_FILE, Record};
use crate::sys::{self, Confinement};
use crate::{BootError, ExitReason, ExitWatch, KillError};

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

impl VmmProcess {
    /// Starts `command` in `dir`, confined, in a process group of its own. It appends everything
    /// it prints to the log itself, so that it can go on when the daemon is gone.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub(crate) fn spawn(
        command: Command,
        dir: VmDir,
        confinement: Confinement,
    ) -> Result<Self, BootError> {
        Self::spawn_reading(command, dir, confinement, |code, _| ExitReason::Code(code))
    }

    /// As [`Self::spawn`]; `read_code` derives from exit code and log why the process exited.
    pub(crate) fn spawn_reading(
        mut command: Command,
        dir: VmDir,
        confinement: Confinement,
        read_code: ReadCode,
    ) -> Result<Self, BootError> {
        let prepare = |file: &str| {
            let path = dir.path().join(file);
            move |source| BootError::Prepare { path, source }
        };
        let log = Log::create(dir.path()).map_err(prepare(LOG_FILE))?;
        let [output, errors] = [log.file(), log.file()].map(|file| file.map_err(prepare(LOG_FILE)));
        command
            .current_dir(dir.path())
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(output?)
            .stderr(errors?);
        sys::confine(&mut command, confinement);
        let program = PathBuf::from(command.get_program());
        let child = command.spawn().map_err(|source| BootError::Spawn { program, source })?;
        let process_id = child.id();
        let console_log = dir.path().join(LOG_FILE);
        let record_failed = prepare(RECORD_FILE);
        let (ended, exit) = ExitWatch::channel();
        let life = Mutex::new(Life { child, log: Some(log) });
        let log_path = console_log.clone();
        let guard = Arc::new(ProcessGuard { life, ended, read_code, log_path });
        let process = Self { guard, exit, process_id, console_log, dir };
        process.attend().map_err(record_failed)?;
        Ok(process)
    }

    /// Records the process and sets the watch on it. The watch comes last: until then the
    /// process stays unreaped, however soon it ends, and can be identified.
    fn attend(&self) -> io::Result<()> {
        let pid = i32::try_from(self.process_id).ok().and_then(Pid::from_raw);
        let pid = pid.expect("the kernel gives positive process ids");
        if let Some(record) = Record::of(self.process_id)? {
            record.write(self.dir.path())?;
        }
        let pidfd = sys::readable(pidfd_open(pid, PidfdFlags::empty())?)?;
        tokio::spawn(watch(Arc::clone(&self.guard), pidfd));
        Ok(())
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
    child: Child,
    /// Gone once the owner ends the process: a log must not grow in a directory being removed.
    log: Option<Log>,
}

impl Life {
    /// Sends SIGKILL to the process group, unless the process was reaped: then its id may
    /// belong to another process.
    fn kill(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            let group = Pid::from_child(&self.child);
            if let Err(error) = kill_process_group(group, Signal::KILL) {
                tracing::warn!(%error, process_id = self.child.id(), "VMM not killed");
            }
        }
    }
}

impl ProcessGuard {
    fn life(&self) -> MutexGuard<'_, Life> {
        self.life.lock()
    }

    fn tend_log(&self) {
        if let Some(log) = &self.life().log {
            log.tend();
        }
    }

    /// Reaps a process that has ended.
    fn reap(&self) {
        let status = self.life().child.wait();
        self.tell(&status);
    }

    fn kill_and_reap(&self) {
        let mut life = self.life();
        life.log = None;
        life.kill();
        let status = life.child.wait();
        drop(life);
        self.tell(&status);
    }

    fn tell(&self, status: &io::Result<ExitStatus>) {
        let reason = match status {
            Ok(status) => match (status.code(), status.signal()) {
                (Some(code), _) => (self.read_code)(code, &self.log_path),
                (None, Some(signal)) => ExitReason::Signal(signal),
                (None, None) => ExitReason::Unknown,
            },
            // ECHILD: the daemon was started with SIGCHLD ignored, the kernel reaped.
            Err(_) => ExitReason::Unknown,
        };
        // The watch and the owner may both report; the second report changes nothing.
        self.ended.send_if_modified(|sent| sent.replace(reason) != Some(reason));
    }
}

/// Keeps the log of the process bounded until it ends, then reaps it.
async fn watch(guard: Arc<ProcessGuard>, pidfd: AsyncFd<OwnedFd>) {
    loop {
        tokio::select! {
            biased;
            _ = pidfd.readable() => break,
            () = sleep(LOOK_AT_LOG) => guard.tend_log(),
        }
    }
    guard.tend_log();
    guard.reap();
}
