//! What only a process has: signals, exit codes, start-up errors, a crash.

use std::io::Read as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread::JoinHandle;

use emberd_api::Pool;
use emberd_client::Client;
use emberd_testing::{Kept, first_line, keep_files};
use fake_firecracker::Double;
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::{packs, wait};

mod access;
mod adoption;
mod audit;
mod callers;
mod egress;
mod fairness;
mod full_disk;
mod hostile;
mod kills;
mod lost_agents;
mod metrics;
mod older_agents;
mod pages;
mod pools;
mod programs;
mod quota;
mod restarts;
mod shutdown;
mod start;
pub mod tls;
#[cfg(feature = "otel")]
mod traces;
mod urls;

/// A room for daemons: images, a run directory, a place for sockets.
pub struct Room {
    /// How the next microVMs behave.
    pub double: Double,
    temp: TempDir,
}

impl Room {
    pub fn new() -> Self {
        let temp = tempfile::Builder::new().prefix("room").tempdir_in("/tmp").unwrap();
        packs::write(&temp.path().join("data"));
        Self { double: Double::new(temp.path()), temp }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.temp.path().join(name)
    }

    pub fn run_dir(&self) -> PathBuf {
        self.path("run")
    }

    /// The packs of all templates, finished or not, by the names of their directories.
    pub fn templates(&self) -> Vec<String> {
        let mut packs = Vec::new();
        for dir in wait::left_in(&self.path("data/templates")) {
            let name = dir.file_name().unwrap().to_str().unwrap();
            let (pack, digest) = name.rsplit_once('-').unwrap();
            assert!(!digest.contains('.'), "{name} is not finished");
            packs.push(pack.to_owned());
        }
        packs.sort();
        packs
    }

    /// The daemon over the double, to be started in this room on a port of its own. Every
    /// microVM boots cold.
    pub fn command(&self) -> Command {
        self.command_on("127.0.0.1:0")
    }

    /// The same, on `addr`.
    pub fn command_on(&self, addr: &str) -> Command {
        let mut command = self.bare_command(addr);
        command.args(["--templates", "off"]);
        command
    }

    /// The same on a port of its own, with pools of `size`.
    pub fn command_with_pools(&self, size: usize) -> Command {
        self.command_with_pools_on("127.0.0.1:0", size)
    }

    /// The same, on `addr`.
    pub fn command_with_pools_on(&self, addr: &str, size: usize) -> Command {
        let mut command = self.bare_command(addr);
        command.args(["--pool-size", &size.to_string()]);
        command
    }

    fn bare_command(&self, addr: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_emberd"));
        command.env_clear().env("PATH", "/usr/bin:/bin").args(["--addr", addr]);
        command.arg("--run-dir").arg(self.run_dir());
        command.arg("--data-dir").arg(self.path("data"));
        command.args(["--vmm", "firecracker", "--accel", "kvm", "--jail", "off"]);
        command.args(["--cgroup", "off"]).arg("--firecracker").arg(self.double.binary());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    pub fn start(&self) -> Daemon {
        Daemon::spawn(self.command())
    }

    /// Returns the words of a daemon that does not start.
    pub fn refused(mut command: Command) -> String {
        let output = command.output().unwrap();
        let errors = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success(), "{errors}");
        assert!(output.stdout.is_empty(), "{:?}", output.stdout);
        errors
    }

    /// Looks for anything left behind.
    pub async fn close(self) {
        assert_eq!(wait::left_in(&self.run_dir()), Vec::<PathBuf>::new());
        wait::until(async || Double::processes_in(&self.run_dir()).is_empty()).await;
        keep_files(&self.path("data/audit"), "audit");
        self.temp.close().unwrap();
    }
}

/// A running daemon; killed when dropped.
pub struct Daemon {
    process: Child,
    pub addr: String,
    pub client: Client,
    log: Option<JoinHandle<String>>,
}

impl Daemon {
    /// Starts `command` and waits until it says that it listens.
    pub fn spawn(mut command: Command) -> Self {
        let mut process = command.spawn().unwrap();
        let ready = first_line(process.stdout.take().unwrap());
        let ready = ready.map_or_else(
            |error| {
                process.kill().unwrap();
                error.to_string()
            },
            |(line, _)| line,
        );
        let Some(addr) = ready.trim_end().strip_prefix("listening on ") else {
            let mut errors = String::new();
            process.stderr.take().unwrap().read_to_string(&mut errors).unwrap();
            process.wait().unwrap();
            panic!("{ready}{errors}");
        };
        // The log would fill its pipe: read it on.
        let mut log = process.stderr.take().unwrap();
        let log = std::thread::spawn(move || {
            let (mut text, mut kept) = (Vec::new(), Kept::begin("log"));
            let mut piece = vec![0; 64 << 10];
            loop {
                let read = log.read(&mut piece).unwrap();
                kept.add(&piece[..read]);
                text.extend_from_slice(&piece[..read]);
                if read == 0 {
                    return String::from_utf8(text).unwrap();
                }
            }
        });
        let client = Client::new(addr).unwrap();
        Self { client, addr: addr.to_owned(), process, log: Some(log) }
    }

    pub fn process_id(&self) -> u32 {
        self.process.id()
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.process), signal).unwrap();
    }

    /// Waits for the end and returns the exit code; none when a signal ended it.
    pub async fn exit_code(&mut self) -> Option<i32> {
        wait::until(async || self.process.try_wait().unwrap().is_some()).await;
        self.process.wait().unwrap().code()
    }

    /// Returns the log of one that has ended.
    pub fn log(&mut self) -> String {
        self.log.take().unwrap().join().unwrap()
    }

    /// Stops it in order, and returns its log.
    pub async fn stop(mut self, signal: Signal) -> String {
        self.signal(signal);
        assert_eq!(self.exit_code().await, Some(0));
        self.log()
    }

    /// Waits until every pool, if there are any, is as full as it is to be, a VMM stands by for
    /// it, and nothing is on its way in or out.
    pub async fn comes_to_rest(&self) {
        wait::until(async || {
            let info = self.client.info().await.unwrap();
            let full = |pool: &Pool| {
                pool.ready == pool.target
                    && pool.ceiling == pool.target
                    && (pool.filling, pool.standing_by) == (0, 1)
            };
            info.pools.iter().all(full) && info.reaping == 0
        })
        .await;
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
