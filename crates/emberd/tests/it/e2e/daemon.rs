//! A daemon of the test's own, on real images, and what must be true when it is gone.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::{env, fs};

use emberd_api::{CreateSandbox, ErrorBody, ExecBody, ExecOutcome, Sandbox};
use emberd_client::{Client, ClientError};
use emberd_image::{DataDir, Images};
use emberd_proto::chain;
use emberd_testing::first_line;
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

/// Most sandboxes created until one is restored.
const RESTORES_TRIED: usize = 5;

/// A running daemon. Dropping it stops it, even when the test failed.
pub struct Daemon {
    process: Child,
    flags: Vec<String>,
    pub client: Client,
    /// Its address, without a scheme.
    pub authority: String,
    pub run_dir: PathBuf,
    /// Removed last.
    temp: Option<TempDir>,
}

impl Daemon {
    /// Starts a daemon with `flags` added whose sandboxes boot cold; nothing, which is a skip,
    /// where it cannot.
    pub fn start(flags: &[&str]) -> Option<Self> {
        Self::instant(&[&["--templates", "off"], flags].concat())
    }

    /// Starts a daemon with `flags` added; nothing, which is a skip, where it cannot. Its
    /// sandboxes come from templates, which all suites on the same images share.
    pub fn instant(flags: &[&str]) -> Option<Self> {
        Self::images()?;
        Some(Self::instant_in(Self::room(), flags))
    }

    /// As [`Self::instant`], with its run directory in `temp`.
    pub fn instant_in(temp: TempDir, flags: &[&str]) -> Self {
        Self::start_in(temp, flags.iter().copied().map(str::to_owned).collect())
    }

    /// A place for a daemon's files.
    pub fn room() -> TempDir {
        // Short: a socket's path has 108 bytes.
        tempfile::Builder::new().prefix("e2e").tempdir_in("/tmp").unwrap()
    }

    /// The run directory of a daemon whose place is `temp`.
    pub fn run_dir_in(temp: &TempDir) -> PathBuf {
        temp.path().join("run")
    }

    /// Where the images are; nothing, which is a skip, where there are none to boot.
    pub fn images() -> Option<PathBuf> {
        if !emberd_testing::microvms() {
            return None;
        }
        let images = env::var_os("EMBERD_DATA_DIR").map(DataDir::new);
        let images = images.or_else(DataDir::default_path).expect("a user with a home");
        let loaded = Images::load(&images).map_err(emberd_testing::skip);
        loaded.ok().map(|_| images.path().to_owned())
    }

    fn start_in(temp: TempDir, flags: Vec<String>) -> Self {
        let run_dir = Self::run_dir_in(&temp);
        let process = Command::new(env!("CARGO_BIN_EXE_emberd"))
            .args(["--addr", "127.0.0.1:0"])
            .arg("--run-dir")
            .arg(&run_dir)
            .arg("--audit-dir")
            .arg(temp.path().join("audit"))
            .args(&flags)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        // From here on a panic stops it.
        let mut daemon = Self {
            process,
            flags,
            client: Client::new("127.0.0.1:0").unwrap(),
            authority: String::new(),
            run_dir,
            temp: Some(temp),
        };
        let (ready, _) = first_line(daemon.process.stdout.take().unwrap()).unwrap();
        let address = ready.trim().strip_prefix("listening on http://");
        address
            .unwrap_or_else(|| panic!("no address in `{ready}`"))
            .clone_into(&mut daemon.authority);
        daemon.client = Client::new(&daemon.authority).unwrap();
        daemon
    }

    /// Kills the daemon with SIGKILL and starts another on the same run directory.
    pub fn crash_and_restart(mut self) -> Self {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
        let temp = self.temp.take().unwrap();
        Self::start_in(temp, std::mem::take(&mut self.flags))
    }

    /// Stops the daemon with SIGTERM: it must exit with code 0 and leave nothing behind.
    pub fn stop(self) {
        drop(self.leave());
    }

    /// As [`Self::stop`], and returns the place of its files.
    pub fn leave(mut self) -> TempDir {
        self.signal(Signal::TERM);
        let status = self.process.wait().unwrap();
        assert!(status.success(), "the daemon ended with {status}");
        assert_eq!(left_in(&self.run_dir), Vec::<PathBuf>::new());
        self.temp.take().unwrap()
    }

    /// How many descriptors it has open.
    pub fn descriptors(&self) -> usize {
        fs::read_dir(format!("/proc/{}/fd", self.process.id())).unwrap().count()
    }

    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.process.id().cast_signed()).unwrap();
        kill_process(pid, signal).unwrap();
    }

    pub async fn create(&self, pack: &str) -> String {
        self.create_as(&super::of_pack(pack)).await
    }

    pub async fn create_as(&self, wanted: &CreateSandbox) -> String {
        let created = self.client.create_with(wanted).await;
        created.unwrap_or_else(|error| panic!("{}", chain(&error))).answer.id
    }

    /// Creates a sandbox that is restored from a template. On a busy host a clone may not answer in
    /// time: its sandbox boots cold, and another is created in its place.
    pub async fn restored(&self, wanted: &CreateSandbox) -> Sandbox {
        let mut boot_paths = Vec::new();
        while boot_paths.len() < RESTORES_TRIED {
            let id = self.create_as(wanted).await;
            let sandbox = self.client.get(&id).await.unwrap();
            if sandbox.boot_path.as_deref() == Some("snapshot-restore") {
                return sandbox;
            }
            self.client.delete(&id).await.unwrap();
            boot_paths.push(sandbox.boot_path);
        }
        panic!("no sandbox was restored: {boot_paths:?}");
    }

    pub async fn exec(&self, id: &str, body: &ExecBody) -> ExecOutcome {
        let outcome = self.client.exec(id, body).await;
        outcome.unwrap_or_else(|error| panic!("{}", chain(&error)))
    }

    /// Runs `code` and returns its output; it must succeed and print no error.
    pub async fn output(&self, id: &str, code: &str) -> String {
        let outcome = self.exec(id, &super::code(code)).await;
        assert_eq!((outcome.exit.exit_code, outcome.stderr.as_str()), (0, ""), "{code}");
        outcome.stdout
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // An error means that it has ended already, which `stop` has looked at.
        if let Ok(None) = self.process.try_wait() {
            self.signal(Signal::TERM);
            self.process.wait().unwrap();
        }
    }
}

/// Status and body of the error a call ended with.
pub fn refusal<T: std::fmt::Debug>(outcome: Result<T, ClientError>) -> (u16, ErrorBody) {
    match outcome {
        Err(ClientError::Api { status, body }) => (status, body),
        other => panic!("expected an error of the API, got {other:?}"),
    }
}

pub fn left_in(run_dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(run_dir).into_iter().flatten();
    entries.map(|entry| entry.unwrap().path()).filter(|path| path.is_dir()).collect()
}

/// Whether any thread of the process runs: of one that was killed, the first may have ended
/// while another still holds its files open.
pub fn is_running(pid: u32) -> bool {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let runs = |stat: String| {
        // A zombie runs no more; its state is the letter after the name.
        stat.rsplit(") ").next().is_some_and(|rest| !rest.starts_with(['Z', 'X']))
    };
    threads.filter_map(|thread| fs::read_to_string(thread.path().join("stat")).ok()).any(runs)
}
