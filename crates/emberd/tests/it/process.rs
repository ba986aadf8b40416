//! What only a process has: signals, exit codes, start-up errors, a crash.

use std::io::{BufRead as _, BufReader, Read as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use emberd_client::Client;
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::{packs, wait};

mod shutdown;
mod start;

/// A room for daemons: packs, a run directory, a place for sockets.
pub struct Room {
    temp: TempDir,
}

impl Room {
    pub fn new() -> Self {
        let temp = tempfile::Builder::new().prefix("room").tempdir_in("/tmp").unwrap();
        std::fs::create_dir(temp.path().join("packs")).unwrap();
        packs::write(&temp.path().join("packs"));
        Self { temp }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.temp.path().join(name)
    }

    pub fn run_dir(&self) -> PathBuf {
        self.path("run")
    }

    /// The daemon over fake microVMs, to be started in this room on a port of its own.
    pub fn command(&self) -> Command {
        self.command_on("127.0.0.1:0")
    }

    /// The same, on `addr`.
    pub fn command_on(&self, addr: &str) -> Command {
        let exe = std::env::current_exe().unwrap();
        let profile_dir = exe.parent().and_then(Path::parent).unwrap();
        let daemon = profile_dir.join("examples").join("emberd-over-fake");
        assert!(daemon.exists(), "no {}: `cargo test` builds it", daemon.display());
        let mut command = Command::new(daemon);
        command.env_clear().env("PATH", "/usr/bin:/bin").args(["--addr", addr]);
        command.arg("--run-dir").arg(self.run_dir());
        command.arg("--data-dir").arg(self.path("packs"));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    pub fn start(&self) -> Daemon {
        Daemon::spawn(self.command())
    }

    /// What a daemon that does not start says.
    pub fn refused(mut command: Command) -> String {
        let output = command.output().unwrap();
        let errors = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success(), "{errors}");
        assert!(output.stdout.is_empty(), "{:?}", output.stdout);
        errors
    }

    /// Looks for anything left behind.
    pub fn close(self) {
        assert_eq!(wait::left_in(&self.run_dir()), Vec::<PathBuf>::new());
        self.temp.close().unwrap();
    }
}

/// A running daemon; killed when dropped.
pub struct Daemon {
    process: Child,
    pub addr: String,
    pub client: Client,
}

impl Daemon {
    /// Starts `command` and waits until it says that it listens.
    pub fn spawn(mut command: Command) -> Self {
        let mut process = command.spawn().unwrap();
        let mut ready = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut ready).unwrap();
        let Some(addr) = ready.trim_end().strip_prefix("listening on ") else {
            let mut errors = String::new();
            process.stderr.take().unwrap().read_to_string(&mut errors).unwrap();
            process.wait().unwrap();
            panic!("{errors}");
        };
        // The log would fill its pipe: read it on.
        let mut log = process.stderr.take().unwrap();
        std::thread::spawn(move || std::io::copy(&mut log, &mut std::io::sink()));
        Self { client: Client::new(addr).unwrap(), addr: addr.to_owned(), process }
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.process), signal).unwrap();
    }

    /// Waits for the end and returns the exit code; none when a signal ended it.
    pub async fn exit_code(&mut self) -> Option<i32> {
        wait::until(async || self.process.try_wait().unwrap().is_some()).await;
        self.process.wait().unwrap().code()
    }

    /// Creates a sandbox of the pack `shell`; its id and its VMM's process id.
    pub async fn create(&self) -> (String, u32) {
        let id = self.client.create(Some("shell")).await.unwrap().id;
        let pid = self.client.get(&id).await.unwrap().vmm_pid.unwrap();
        (id, pid)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if let Ok(None) = self.process.try_wait() {
            self.process.kill().unwrap();
            self.process.wait().unwrap();
        }
    }
}
