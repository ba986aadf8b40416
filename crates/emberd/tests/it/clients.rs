//! Packages of other languages, by their own tests: against servers that fail, and against this
//! daemon over the double. `e2e/clients.rs` has those against real microVMs.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use emberd_keys::Role;
use rustix::process::Signal;

use crate::process::{Daemon, Room};

/// Lowest version of Python that the package supports.
const PYTHON_MIN: (u32, u32) = (3, 10);

/// Modules of tests that bring their own servers.
const ALONE: [&str; 7] = [
    "tests.test_http",
    "tests.test_tar",
    "tests.test_surface",
    "tests.test_processes",
    "tests.test_aio_faults",
    "tests.test_aio_streams",
    "tests.test_sync",
];

/// Modules of tests that take a daemon at `EMBERD_ADDR`.
const WITH_DAEMON: [&str; 2] = ["tests.test_aio_daemon", "tests.test_sync_daemon"];

/// Modules of tests that take a daemon with keys there.
const WITH_KEYS: [&str; 2] = ["tests.test_aio_access", "tests.test_sync_access"];

#[test]
fn the_python_package_holds_against_servers_that_fail() {
    let Some(python) = Python::find() else { return };
    python.passes(&ALONE, &[]);
}

#[tokio::test]
async fn the_python_package_does_what_the_api_offers() {
    let Some(python) = Python::find() else { return };
    let room = Room::new();
    let mut command = room.command();
    command.arg("--socket").arg(room.path("emberd.sock"));
    let daemon = Daemon::spawn(command);
    let socket = format!("unix:{}", room.path("emberd.sock").display());
    let variables = [("EMBERD_ADDR", daemon.addr.as_str()), ("EMBERD_TEST_SOCKET", &socket)];
    python.passes(&WITH_DAEMON, &variables);
    let left = daemon.client.list().await.unwrap().sandboxes;
    assert!(left.is_empty(), "{left:?}");
    daemon.stop(Signal::TERM).await;
    room.close().await;
}

#[tokio::test]
async fn the_python_package_has_keys_limits_and_signed_urls() {
    let Some(python) = Python::find() else { return };
    let room = Room::new();
    let (_, admin) = room.key("admin", Role::Admin);
    let (_, other) = room.key("other", Role::User);
    room.limit("other", |limits| limits.memory_mib = Some(512));
    let daemon = room.start();
    let variables = [
        ("EMBERD_ADDR", daemon.addr.as_str()),
        ("EMBERD_API_KEY", &admin),
        ("EMBERD_TEST_OTHER_KEY", &other),
    ];
    python.passes(&WITH_KEYS, &variables);
    let left = daemon.with(&admin).list().await.unwrap().sandboxes;
    assert!(left.is_empty(), "{left:?}");
    daemon.stop(Signal::TERM).await;
    room.close().await;
}

/// For `EMBERD_TEST_WATCH_S` seconds where it is set.
#[tokio::test]
async fn a_watch_of_the_python_package_lasts() {
    let Some(python) = Python::find() else { return };
    let room = Room::new();
    let daemon = room.start();
    let process = daemon.process_id().to_string();
    let variables = [("EMBERD_ADDR", daemon.addr.as_str()), ("EMBERD_TEST_DAEMON", &process)];
    println!("{}", python.passes(&["tests.test_watch"], &variables));
    daemon.stop(Signal::TERM).await;
    room.close().await;
}

/// With the tools of `clients/python/requirements.txt`, which `scripts/clients.sh tools` installs.
#[tokio::test]
async fn the_python_package_is_typed_and_installed_and_shows_in_notebooks() {
    let Some(python) = Python::with_tools() else { return };
    let room = Room::new();
    let daemon = room.start();
    let variables = [("EMBERD_ADDR", daemon.addr.as_str())];
    python.passes(&["tests.test_package"], &variables);
    daemon.stop(Signal::TERM).await;
    room.close().await;
}

/// A Python of the host.
pub struct Python {
    program: PathBuf,
}

impl Python {
    /// The host's own; none, which is a skip, where it has none that is new enough.
    pub fn find() -> Option<Self> {
        let python = Self { program: "python3".into() };
        let asked = Command::new(&python.program)
            .args(["-c", "import sys; print(sys.version_info[0], sys.version_info[1])"])
            .output();
        let text = asked.map(|output| text(&output.stdout)).unwrap_or_default();
        let version = text.trim().split_once(' ').and_then(|(major, minor)| {
            Some((major.parse::<u32>().ok()?, minor.parse::<u32>().ok()?))
        });
        let new_enough = version.is_some_and(|version| version >= PYTHON_MIN);
        emberd_testing::needs(new_enough, "no python3 of 3.10 or later").then_some(python)
    }

    /// The one that `EMBERD_PYTHON` names, or that `scripts/clients.sh tools` made; none, which is
    /// a skip, where there is neither.
    pub fn with_tools() -> Option<Self> {
        let named = std::env::var_os("EMBERD_PYTHON").map(PathBuf::from);
        let program = named.or_else(|| installed("python/bin/python"));
        let why = "no Python with the client's tools: run scripts/clients.sh tools";
        emberd_testing::needs(program.is_some(), why).then_some(Self { program: program? })
    }

    /// Runs modules of tests, all of which must pass, and returns what they print. What they skip
    /// is a skip of this test.
    pub fn passes(&self, modules: &[&str], variables: &[(&str, &str)]) -> String {
        let output = self.run(modules, variables);
        let printed = text(&output.stderr);
        assert!(output.status.success(), "{}\n{printed}", text(&output.stdout));
        let verdict = printed.lines().last().unwrap_or_default();
        assert!(verdict.starts_with("OK"), "no verdict in: {printed}");
        assert!(!printed.contains("Ran 0 tests"), "{printed}");
        for line in printed.lines().filter(|line| line.contains(" ... skipped ")) {
            emberd_testing::skip(line);
        }
        text(&output.stdout)
    }

    fn run(&self, modules: &[&str], variables: &[(&str, &str)]) -> Output {
        Command::new(&self.program)
            .args(["-W", "error::ResourceWarning", "-m", "unittest", "-v"])
            .args(modules)
            .current_dir(package())
            .env_remove("EMBERD_URL")
            .env_remove("EMBERD_API_KEY")
            .env("PYTHONPATH", "src")
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .envs(variables.iter().map(|(name, value)| (OsStr::new(name), OsStr::new(value))))
            .output()
            .unwrap()
    }
}

/// Finds what `scripts/clients.sh` has installed at `path`, below the target directory.
pub fn installed(path: &str) -> Option<PathBuf> {
    let exe = std::env::current_exe().unwrap();
    exe.ancestors().map(|dir| dir.join(path)).find(|place| place.exists())
}

fn package() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../clients/python")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
