//! The host's Python.

use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::{env, fs};

use super::program::{End, Program, Streams};

/// What the pack gives the interpreter before the file.
pub const OPTIONS: [&str; 3] = ["-P", "-X", "emberd"];

/// An interpreter the zygote is made for.
#[derive(Debug, Clone)]
pub struct Python {
    /// Its absolute path.
    pub interpreter: PathBuf,
    /// The N of its version 3.N.
    pub minor: u32,
    /// What every program gets, as an exec would.
    pub env: Vec<(String, String)>,
}

impl Python {
    /// `EMBERD_TEST_PYTHON`, else `python3`; nothing, which is a skip, unless it is 3.11 or newer.
    pub fn find(home: &Path) -> Option<Self> {
        const ASK: &str = "import sys; print(sys.version_info[1], sys.executable)";
        let name = env::var("EMBERD_TEST_PYTHON").unwrap_or("python3".to_owned());
        let answer = Command::new(&name).args(["-c", ASK]).output();
        let answer = answer.map(|answer| String::from_utf8(answer.stdout).unwrap());
        let answer = answer.unwrap_or_default();
        let (minor, path) = answer.trim().split_once(' ').unwrap_or(("0", ""));
        let minor = minor.parse().unwrap();
        if !emberd_testing::needs(minor >= 11, format!("{name} is older than Python 3.11")) {
            return None;
        }
        let site = home.join(format!(".local/lib/python3.{minor}/site-packages"));
        fs::create_dir_all(&site).unwrap();
        let beside = site.join("beside.py");
        fs::write(&beside, in_pack("/usr/lib/emberd/beside.py")).unwrap();
        let hook = in_pack("/usr/lib/python3/dist-packages/emberd.pth");
        let hook = hook.replace("/usr/lib/emberd/beside.py", beside.to_str().unwrap());
        fs::write(site.join("emberd.pth"), hook).unwrap();
        let env = [
            ("HOME", home.to_str().unwrap()),
            ("LANG", "C.UTF-8"),
            ("PATH", "/usr/local/bin:/usr/bin:/bin"),
        ];
        let env = env.map(|(name, value)| (name.to_owned(), value.to_owned()));
        Some(Self { interpreter: path.into(), minor, env: env.to_vec() })
    }

    /// The environment of `program`.
    pub fn environment(&self, program: &Program) -> Vec<(String, String)> {
        self.env.iter().chain(&program.env).cloned().collect()
    }

    /// Runs `program` as the pack runs `file.py`, in a session of its own.
    pub fn run(&self, program: &Program, streams: Streams) -> End {
        let mut command = Command::new("setsid");
        command.arg(&self.interpreter).args(OPTIONS).arg(&program.file).args(&program.args);
        command.env_clear().envs(self.environment(program)).current_dir(&streams.cwd);
        command.stdin(streams.stdin).stdout(streams.stdout).stderr(streams.stderr);
        let mut child = command.spawn().unwrap();
        drop(command); // and with it our copies of the streams
        child.wait().unwrap().into()
    }
}

/// The zygote's program.
pub fn zygote_program() -> PathBuf {
    pack_folder().join("zygote.py")
}

/// What the pack preloads.
pub fn preloads() -> Vec<String> {
    let pack = fs::read_to_string(pack_folder().join("pack.toml")).unwrap();
    let (_, rest) = pack.split_once("\"{program}\",").unwrap();
    let (list, _) = rest.split_once(']').unwrap();
    list.split(',')
        .filter_map(|word| word.trim().strip_prefix('"')?.strip_suffix('"'))
        .map(str::to_owned)
        .collect()
}

/// A file that the pack's definition writes.
fn in_pack(path: &str) -> String {
    let pack = fs::read_to_string(pack_folder().join("pack.toml")).unwrap();
    let (_, rest) = pack.split_once(&format!("{path} <<'end'\n")).unwrap();
    rest.split_once("\nend\n").unwrap().0.to_owned() + "\n"
}

fn pack_folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../rootfs/packs/python")
}

impl From<ExitStatus> for End {
    fn from(status: ExitStatus) -> Self {
        match (status.code(), status.signal()) {
            (Some(code), _) => Self::Code(code),
            (None, Some(signal)) => Self::Signal(signal),
            (None, None) => unreachable!("a process that was waited for has ended"),
        }
    }
}
