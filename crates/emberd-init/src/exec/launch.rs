//! Starts the program of one exec.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use emberd_proto::{ExecSpec, Kind};
use tokio::net::unix::pipe::{Receiver, Sender};
use tokio::sync::oneshot;

use super::input::Input;
use super::output::Output;
use crate::agent::{Agent, Scratch};
use crate::process_tree::{Cgroup, ProcessTree};
use crate::sys;

/// Why a program was not started.
#[derive(Debug, thiserror::Error)]
pub enum LaunchError {
    /// Its code could not be written to a file.
    #[error("cannot write the code to {}", .0.display())]
    Code(PathBuf, #[source] io::Error),
    /// Its working directory is none.
    #[error("cannot enter the directory {}", .0.display())]
    Directory(PathBuf, #[source] io::Error),
    /// There is no cgroup for it.
    #[error("cannot make a cgroup")]
    Cgroup(#[source] io::Error),
    /// It, or what runs it, could not be executed.
    #[error("cannot run {0}")]
    Run(String, #[source] io::Error),
    /// Its pipes could not be watched.
    #[error("cannot watch the program's pipes")]
    Pipes(#[source] io::Error),
}

/// A program that was started. Dropping it kills its process tree unless its leader has
/// ended, and removes the file of its code.
#[derive(Debug)]
pub struct Program {
    /// Its first process.
    pub leader: Leader,
    /// What it reads.
    pub input: Input,
    /// What it writes.
    pub stdout: Output,
    /// What it complains.
    pub stderr: Output,
    _code: CodeFile,
}

/// The first process of a program, whose end is the program's end. Dropping it kills the
/// whole process tree unless it has ended.
#[derive(Debug)]
pub struct Leader {
    exit: oneshot::Receiver<ExitStatus>,
    tree: ProcessTree,
}

impl Leader {
    /// Waits for its end. Cancel safe; not to be called again once it returned.
    pub async fn ended(&mut self) -> ExitStatus {
        (&mut self.exit).await.expect("the reaper reports every child it spawned")
    }

    /// Kills the whole tree; `false` if the leader has already ended by itself, in which case
    /// the rest of the tree lives on.
    pub fn kill(&self) -> bool {
        // A leader whose status is here has been reaped: its pid may be another's by now.
        let running = !self.exit.is_terminated() && self.exit.is_empty();
        if running {
            self.tree.kill();
        }
        running
    }
}

impl Drop for Leader {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Starts what `spec` asks for, as the agent's pack says.
///
/// # Errors
/// [`LaunchError`]; nothing is left behind then.
pub fn launch(agent: &Agent, spec: &ExecSpec) -> Result<Program, LaunchError> {
    let exec = agent.next_exec();
    let code = CodeFile::write(&agent.scratch, exec, &agent.pack.file_name, &spec.code)?;
    let environment = agent.environment.overlaid([&agent.pack.env, &spec.env]);
    let home = environment.home();
    let directory = spec.cwd.as_ref().map_or(home.to_owned(), |cwd| home.join(cwd));
    check_directory(&directory)?;
    let cgroup = agent.cgroups.as_ref().map(|cgroups| cgroups.make(exec)).transpose();
    let cgroup = cgroup.map_err(LaunchError::Cgroup)?;

    let words = agent.pack.command(&code.path().to_string_lossy(), &spec.args);
    let (name, arguments) = words.split_first().expect("a pack without a program is refused");
    let mut command = Command::new(name);
    command.args(arguments).env_clear().envs(&environment).current_dir(&directory);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let procs = cgroup.as_ref().map(Cgroup::procs).transpose().map_err(LaunchError::Cgroup)?;
    sys::enter_own_session(&mut command, procs);
    let (child, exit) = agent
        .reaper
        .spawn(&mut command)
        .map_err(|source| LaunchError::Run(name.clone(), source))?;

    let leader = Leader { exit, tree: ProcessTree { leader: child.id(), cgroup } };
    let (input, stdout, stderr) = pipes(child).map_err(LaunchError::Pipes)?;
    Ok(Program { leader, input, stdout, stderr, _code: code })
}

/// Finds out what is wrong with a directory before the failure of fork-and-exec as a whole
/// could only be blamed on the program.
fn check_directory(directory: &Path) -> Result<(), LaunchError> {
    let problem = match fs::metadata(directory) {
        Ok(metadata) if metadata.is_dir() => return Ok(()),
        Ok(_) => io::ErrorKind::NotADirectory.into(),
        Err(error) => error,
    };
    Err(LaunchError::Directory(directory.to_owned(), problem))
}

fn pipes(child: Child) -> io::Result<(Input, Output, Output)> {
    const PIPED: &str = "all three were asked for";
    let stdin = OwnedFd::from(child.stdin.expect(PIPED));
    let stdout = OwnedFd::from(child.stdout.expect(PIPED));
    let stderr = OwnedFd::from(child.stderr.expect(PIPED));
    Ok((
        Input::new(Sender::from_owned_fd(stdin)?),
        Output::new(Kind::Stdout, Receiver::from_owned_fd(stdout)?),
        Output::new(Kind::Stderr, Receiver::from_owned_fd(stderr)?),
    ))
}

/// The code of one exec, in a directory of its own. Dropping it removes both.
#[derive(Debug)]
struct CodeFile {
    dir: PathBuf,
    file_name: String,
}

impl CodeFile {
    fn write(
        scratch: &Scratch,
        exec: u64,
        file_name: &str,
        code: &str,
    ) -> Result<Self, LaunchError> {
        let dir = scratch.path().join(exec.to_string());
        let made = DirBuilder::new().mode(0o700).create(&dir);
        made.map_err(|source| LaunchError::Code(dir.clone(), source))?;
        let file = Self { dir, file_name: file_name.to_owned() };
        let path = file.path();
        OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)
            .and_then(|mut open| open.write_all(code.as_bytes()))
            .map_err(|source| LaunchError::Code(path, source))?;
        Ok(file)
    }

    fn path(&self) -> PathBuf {
        self.dir.join(&self.file_name)
    }
}

impl Drop for CodeFile {
    fn drop(&mut self) {
        // The program may have removed it, or have left files of its own beside it
        // (`__pycache__`), which go too: the directory was made for this exec.
        fs::remove_dir_all(&self.dir).ok();
    }
}
