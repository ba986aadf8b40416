//! The two shells: a context's, and a plain one that reads the code from a pipe.

use std::fs::{self, File, OpenOptions};
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use emberd_image::SHELL_CONTEXT;
use emberd_proto::{ContextCall, ContextEvent};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use crate::contexts::event;

/// What a shell has said, and its status.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Heard {
    stdout: String,
    stderr: String,
    status: i32,
}

impl Heard {
    /// What was heard of several runs, one after the other.
    pub fn all(runs: &[Self]) -> Self {
        let mut all = Self::default();
        for run in runs {
            all.stdout.push_str(&run.stdout);
            all.stderr.push_str(&run.stderr);
            all.status = run.status;
        }
        Self { stdout: without_numbers(&all.stdout), stderr: without_numbers(&all.stderr), ..all }
    }
}

impl Heard {
    /// Where `found` begins to be other than this.
    pub fn difference(&self, found: &Self) -> Option<String> {
        let first = |what, right: &str, found: &str| {
            let (mut right, mut found) = (right.lines(), found.lines());
            loop {
                match (right.next(), found.next()) {
                    (None, None) => return None,
                    (right, found) if right == found => {}
                    (right, found) => {
                        return Some(format!("{what}: {found:?} instead of {right:?}"));
                    }
                }
            }
        };
        let status = || {
            let (right, found) = (self.status, found.status);
            (right != found).then(|| format!("status: {found} instead of {right}"))
        };
        first("stdout", &self.stdout, &found.stdout)
            .or_else(|| first("stderr", &self.stderr, &found.stderr))
            .or_else(status)
    }
}

/// `text` without the numbers of lines, which begin anew with each run of a context, and those
/// of processes after them.
fn without_numbers(text: &str) -> String {
    let mut pieces = text.split("line ");
    let mut kept = pieces.next().unwrap_or_default().to_owned();
    for piece in pieces {
        let piece = piece.trim_start_matches(|c: char| c.is_ascii_digit());
        let job = piece.strip_prefix(": ").map(|rest| rest.trim_start_matches(' '));
        let without = job.map(|rest| rest.trim_start_matches(|c: char| c.is_ascii_digit()));
        match (job, without) {
            (Some(job), Some(rest)) if job.len() != rest.len() => {
                kept.push_str("line N: PID");
                kept.push_str(rest);
            }
            _ => {
                kept.push_str("line N");
                kept.push_str(piece);
            }
        }
    }
    kept
}

/// A shell that runs in a fresh directory below `home`, and says things into files there.
fn command(home: &Path, program: &str) -> Command {
    let work = home.join("work");
    fs::remove_dir_all(&work).ok();
    fs::create_dir(&work).unwrap();
    let said = |name| {
        fs::remove_file(home.join(name)).ok();
        OpenOptions::new().append(true).create(true).open(home.join(name)).unwrap()
    };
    let mut command = Command::new(program);
    command.env_clear().env("PATH", "/usr/bin:/bin").env("HOME", home).env("LANG", "C.UTF-8");
    command.current_dir(work).stdout(said("stdout")).stderr(said("stderr")).process_group(0);
    command
}

/// What a plain Bash says that is given `runs`, and how it ends.
pub fn plain(home: &Path, runs: &[&str]) -> Heard {
    let mut command = command(home, "/bin/bash");
    command.arg0("bash").args(["--noprofile", "--norc", "-O", "expand_aliases"]);
    let mut bash = command.stdin(Stdio::piped()).spawn().unwrap();
    let mut input = bash.stdin.take().unwrap();
    // It may end before it has read everything.
    input.write_all(runs.concat().as_bytes()).ok();
    drop(input);
    let status = bash.wait().unwrap();
    let status = status.code().unwrap_or_else(|| 128 + status.signal().unwrap());
    let said = |name| {
        let bytes = fs::read(home.join(name)).unwrap();
        without_numbers(&String::from_utf8_lossy(&bytes))
    };
    Heard { stdout: said("stdout"), stderr: said("stderr"), status }
}

/// A shell that keeps what it has between runs.
pub struct Context {
    bash: Child,
    channel: BufReader<UnixStream>,
    said: [(File, u64); 2],
}

impl Context {
    /// Opens one with the program that is in every pack.
    pub fn open(home: &Path) -> Self {
        let library = home.join("context.so");
        fs::write(&library, SHELL_CONTEXT).unwrap();
        let (channel, theirs) = UnixStream::pair().unwrap();
        let mut command = command(home, "/bin/bash");
        command.args(["--noprofile", "--norc", "-O", "expand_aliases"]);
        command.env("LD_PRELOAD", library).stdin(OwnedFd::from(theirs));
        let bash = command.spawn().unwrap();
        let said = ["stdout", "stderr"].map(|name| (File::open(home.join(name)).unwrap(), 0));
        let mut context = Self { bash, channel: BufReader::new(channel), said };
        assert_eq!(context.event(), Some(ContextEvent::Ready));
        context
    }

    fn event(&mut self) -> Option<ContextEvent> {
        let mut line = String::new();
        self.channel.read_line(&mut line).unwrap();
        (!line.is_empty()).then(|| event(line.as_bytes()))
    }

    /// What a run says; `None` if the shell is gone.
    pub fn run(&mut self, code: &str) -> Option<Heard> {
        let (code, traceparent) = (code.to_owned(), None);
        let call = ContextCall::Run { code, traceparent, max_image_bytes: None };
        let line = serde_json::to_string(&call).unwrap() + "\n";
        self.channel.get_ref().write_all(line.as_bytes()).unwrap();
        let mut status = 0;
        loop {
            match self.event()? {
                ContextEvent::Error { name, value, .. } => {
                    status = if name == "ExitCode" { value.parse().unwrap() } else { 130 };
                }
                ContextEvent::Done { .. } => break,
                _ => {}
            }
        }
        let [stdout, stderr] = self.said.each_mut().map(more_of);
        Some(Heard { stdout, stderr, status })
    }
}

/// What has been added to a file.
fn more_of((file, at): &mut (File, u64)) -> String {
    use std::os::unix::fs::FileExt as _;
    let length = file.metadata().unwrap().len();
    let mut bytes = vec![0; usize::try_from(length - *at).unwrap()];
    file.read_exact_at(&mut bytes, *at).unwrap();
    *at = length;
    String::from_utf8_lossy(&bytes).into_owned()
}

impl Drop for Context {
    fn drop(&mut self) {
        let group = Pid::from_raw(self.bash.id().cast_signed());
        killpg(group, Signal::SIGKILL).ok();
        self.bash.wait().unwrap();
    }
}
