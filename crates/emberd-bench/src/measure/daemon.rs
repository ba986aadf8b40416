//! A daemon that the bench starts for one scenario and stops after it. Anything that it leaves
//! behind is reported.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};
use std::{env, os::unix::process::CommandExt as _};

use emberd_api::Address;
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use super::proc;

/// Time limit for a daemon to stop: it drains requests for 10 s, then removes its microVMs.
const STOP_MAX: Duration = Duration::from_secs(60);

/// Time for which a child process may outlive the daemon. The test double's guest is a separate
/// process, which ends once it notices that its VMM is gone.
const OUTLIVE_MAX: Duration = Duration::from_secs(5);

/// Pause between two checks of a stopping daemon.
const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// Number of log lines shown if a daemon did not start.
const LOG_LINES_SHOWN: usize = 5;

/// Prefix of environment variables that configure a daemon.
const VARIABLE_PREFIX: &str = "EMBERD_";

/// Names the directory of the audit journal. Older daemons have no such flag.
const AUDIT_VARIABLE: &str = "EMBERD_AUDIT_DIR";

/// Name of the log in the daemon's directory.
const LOG_FILE: &str = "emberd.log";

/// File of pinned shapes in the run directory, which is for the next daemon.
const PINS: &str = "pins.json";

/// Text that the daemon prints before its address once it serves.
const READY: &str = "listening on ";

/// Why a daemon could not be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A program is missing.
    #[error("{} does not exist", path.display())]
    Missing {
        /// The expected path.
        path: PathBuf,
        /// The command that builds it.
        hint: String,
    },
    /// The program could not be started.
    #[error("cannot start {}", path.display())]
    Spawn {
        /// The program.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The daemon ended before it served.
    #[error("the daemon did not start: {log}")]
    Ended {
        /// The end of its log.
        log: String,
    },
    /// Its files could not be created.
    #[error("cannot prepare the daemon's directory")]
    Room(#[from] io::Error),
    /// An access key could not be created.
    #[error("cannot make an access key")]
    Key(#[from] emberd_keys::EditError),
    /// Images for the double could not be created.
    #[error("cannot make images for the test double")]
    Images(#[from] emberd_image::BuildError),
}

/// A running daemon, its run directory and its log. Dropping it stops it.
#[derive(Debug)]
pub struct Daemon {
    /// Address.
    pub address: Address,
    process: Child,
    /// Processes of the daemons before it on its run directory.
    inherited: Vec<u32>,
    command: Command,
    room: TempDir,
}

impl Daemon {
    /// Starts `binary` with `flags`, on its own port and in its own run directory; returns once
    /// it serves. Without `variables`, the environment does not configure it.
    ///
    /// # Errors
    /// [`StartError`].
    pub fn start(binary: &Path, flags: &[OsString], variables: bool) -> Result<Self, StartError> {
        // Short, because it contains sockets, whose paths have at most 108 bytes.
        let room = tempfile::Builder::new().prefix("bench").tempdir()?;
        let mut command = Command::new(binary);
        if !variables {
            let names = env::vars_os().map(|(name, _)| name);
            for name in names.filter(|name| name.to_string_lossy().starts_with(VARIABLE_PREFIX)) {
                command.env_remove(name);
            }
        }
        command.args(["--addr", "127.0.0.1:0", "--run-dir"]).arg(room.path().join("run"));
        // That of the data directory may be another daemon's.
        command.env(AUDIT_VARIABLE, room.path().join("audit"));
        let log = File::options().create(true).append(true).open(room.path().join(LOG_FILE))?;
        command.args(flags).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log);
        // Ctrl-C must reach only the bench, which then stops the daemon.
        command.process_group(0);
        let (process, address) = serve(&mut command, room.path())?;
        Ok(Self { address, process, inherited: Vec::new(), command, room })
    }

    /// Kills the daemon and starts another one on its run directory; returns how long it took
    /// from its start until it served.
    ///
    /// # Errors
    /// [`StartError`].
    pub fn replace(&mut self) -> Result<Duration, StartError> {
        self.inherited.extend(proc::descendants(self.pid()));
        self.process.kill()?;
        self.process.wait()?;
        let started = Instant::now();
        (self.process, self.address) = serve(&mut self.command, self.room.path())?;
        Ok(started.elapsed())
    }

    /// Returns the process id.
    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    /// Returns the run directory.
    pub fn run_dir(&self) -> PathBuf {
        self.room.path().join("run")
    }

    /// Returns the last lines of the log.
    pub fn log_end(&self) -> String {
        log_end(self.room.path())
    }

    /// Stops the daemon and returns what it left behind, which should be nothing.
    ///
    /// # Errors
    /// If the system cannot be inspected.
    pub fn stop(mut self) -> io::Result<Vec<String>> {
        let mut processes = proc::descendants(self.pid());
        processes.append(&mut self.inherited);
        let mut left = Vec::new();
        match self.end()? {
            Some(status) if status.success() => {}
            Some(status) => left.push(format!("the daemon ended with {status}")),
            None => left.push(format!("the daemon did not stop within {STOP_MAX:?}")),
        }
        let ended = Instant::now();
        let running = || processes.iter().copied().filter(|pid| proc::is_running(*pid));
        while running().next().is_some() && ended.elapsed() < OUTLIVE_MAX {
            thread::sleep(LOOK_AGAIN);
        }
        left.extend(running().map(|pid| format!("process {pid}")));
        let entries = fs::read_dir(self.run_dir()).into_iter().flatten().flatten();
        let entries = entries.filter(|entry| entry.file_name() != PINS);
        left.extend(entries.map(|entry| entry.path().display().to_string()));
        Ok(left)
    }

    /// Asks the daemon to stop and waits; kills it if it does not stop. Returns its status,
    /// unless it was killed.
    fn end(&mut self) -> io::Result<Option<ExitStatus>> {
        if let Some(status) = self.process.try_wait()? {
            return Ok(Some(status));
        }
        kill_process(Pid::from_child(&self.process), Signal::TERM)?;
        let asked = Instant::now();
        while asked.elapsed() < STOP_MAX {
            if let Some(status) = self.process.try_wait()? {
                return Ok(Some(status));
            }
            thread::sleep(LOOK_AGAIN);
        }
        self.process.kill()?;
        self.process.wait()?;
        Ok(None)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // Errors are reported by `stop`.
        drop(self.end());
    }
}

/// Starts `command` and waits until the daemon serves.
fn serve(command: &mut Command, room: &Path) -> Result<(Child, Address), StartError> {
    let spawned = command.spawn();
    let mut process = spawned
        .map_err(|source| StartError::Spawn { path: command.get_program().into(), source })?;
    let mut line = String::new();
    if let Some(stdout) = process.stdout.take() {
        BufReader::new(stdout).read_line(&mut line)?;
    }
    let address = line.trim_end().strip_prefix(READY).and_then(|text| text.parse().ok());
    let Some(address) = address else {
        process.kill()?;
        process.wait()?;
        return Err(StartError::Ended { log: log_end(room) });
    };
    Ok((process, address))
}

fn log_end(room: &Path) -> String {
    let log = fs::read_to_string(room.join(LOG_FILE)).unwrap_or_default();
    let lines: Vec<_> = log.lines().filter(|line| !line.trim().is_empty()).collect();
    lines[lines.len().saturating_sub(LOG_LINES_SHOWN)..].join("\n")
}

/// Returns the path of the program `name` beside this one, or the command that builds it.
///
/// # Errors
/// [`StartError::Missing`].
pub fn beside(name: &str) -> Result<PathBuf, StartError> {
    let own = env::current_exe()?;
    // Tests run one directory below the programs.
    let found = own.ancestors().skip(1).take(2).map(|dir| dir.join(name));
    let mut found = found.filter(|path| path.is_file());
    found.next().ok_or_else(|| StartError::Missing {
        path: own.with_file_name(name),
        hint: format!("build it with: cargo build {}-p {name}", profile_flag()),
    })
}

fn profile_flag() -> &'static str {
    if cfg!(debug_assertions) { "" } else { "--release " }
}
