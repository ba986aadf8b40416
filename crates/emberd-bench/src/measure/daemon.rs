//! A daemon of the bench's own: started for one scenario, stopped after it, and looked after
//! for anything left behind.

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

/// How long a daemon may take to stop: it drains requests for 10 s, then removes its microVMs.
const STOP_MAX: Duration = Duration::from_secs(60);

/// How long a process below the daemon may outlive it: the test double's guest is a process of
/// its own, which ends once it notices that its VMM is gone.
const OUTLIVE_MAX: Duration = Duration::from_secs(5);

/// Pause between two looks at a daemon that stops.
const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// Lines of the log shown of a daemon that did not start.
const LOG_LINES_SHOWN: usize = 5;

/// Environment variables that configure a daemon.
const VARIABLE_PREFIX: &str = "EMBERD_";

/// What the daemon prints before its address once it serves.
const READY: &str = "listening on ";

/// Why there is no daemon.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A program is not where it is looked for.
    #[error("{} does not exist", path.display())]
    Missing {
        /// Where it was looked for.
        path: PathBuf,
        /// The command that makes it.
        hint: String,
    },
    /// It does not start.
    #[error("cannot start {}", path.display())]
    Spawn {
        /// The program.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It ended before it served.
    #[error("the daemon did not start: {log}")]
    Ended {
        /// The end of its log.
        log: String,
    },
    /// Its files cannot be made.
    #[error("cannot prepare the daemon's directory")]
    Room(#[from] io::Error),
    /// Images for the double cannot be made.
    #[error("cannot make images for the test double")]
    Images(#[from] emberd_image::BuildError),
}

/// A running daemon, its run directory and its log. Dropping it stops it.
#[derive(Debug)]
pub struct Daemon {
    /// Where it listens.
    pub address: Address,
    process: Child,
    room: TempDir,
}

impl Daemon {
    /// Starts `binary` with `flags`, on a port and in a run directory of its own; returns once
    /// it serves. Without `variables` the environment configures nothing.
    ///
    /// # Errors
    /// [`StartError`].
    pub fn start(binary: &Path, flags: &[OsString], variables: bool) -> Result<Self, StartError> {
        // Short: under it are sockets, whose paths have 108 bytes at most.
        let room = tempfile::Builder::new().prefix("bench").tempdir()?;
        let log = File::create(room.path().join("emberd.log"))?;
        let mut command = Command::new(binary);
        if !variables {
            let names = env::vars_os().map(|(name, _)| name);
            for name in names.filter(|name| name.to_string_lossy().starts_with(VARIABLE_PREFIX)) {
                command.env_remove(name);
            }
        }
        command.args(["--addr", "127.0.0.1:0", "--run-dir"]).arg(room.path().join("run"));
        command.args(flags).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log);
        // Ctrl-C is the bench's: it stops the daemon when it has noticed.
        let spawned = command.process_group(0).spawn();
        let mut process =
            spawned.map_err(|source| StartError::Spawn { path: binary.to_owned(), source })?;
        let mut line = String::new();
        if let Some(stdout) = process.stdout.take() {
            BufReader::new(stdout).read_line(&mut line)?;
        }
        let address = line.trim_end().strip_prefix(READY).and_then(|text| text.parse().ok());
        let Some(address) = address else {
            process.kill()?;
            process.wait()?;
            return Err(StartError::Ended { log: log_end(room.path()) });
        };
        Ok(Self { address, process, room })
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    /// Its run directory.
    pub fn run_dir(&self) -> PathBuf {
        self.room.path().join("run")
    }

    /// The last lines of its log.
    pub fn log_end(&self) -> String {
        log_end(self.room.path())
    }

    /// Stops it and says what of it is left, which should be nothing.
    ///
    /// # Errors
    /// The system refuses to tell.
    pub fn stop(mut self) -> io::Result<Vec<String>> {
        let processes = proc::descendants(self.pid());
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
        left.extend(entries.map(|entry| entry.path().display().to_string()));
        Ok(left)
    }

    /// Asks it to stop and waits; kills it if it does not. Its status, unless it was killed.
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
        // Whoever wants to know calls `stop`.
        drop(self.end());
    }
}

fn log_end(room: &Path) -> String {
    let log = fs::read_to_string(room.join("emberd.log")).unwrap_or_default();
    let lines: Vec<_> = log.lines().filter(|line| !line.trim().is_empty()).collect();
    lines[lines.len().saturating_sub(LOG_LINES_SHOWN)..].join("\n")
}

/// The program `name` beside this one, or what builds it.
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
