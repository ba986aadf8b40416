//! Starts the program of one exec: as a new process, or as a fork of the pack's zygote.

use std::borrow::Cow;
use std::fs;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};

use emberd_proto::{ExecSpec, StartedBy};

use super::berth::{Berth, CodeFile, Streams};
use super::leader::Leader;
use crate::agent::{Agent, Environment};
use crate::process::NewProcess;
use crate::process_tree::{Cgroup, ProcessTree};
use crate::zygote::Work;

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
    /// Its pipes could not be made or watched.
    #[error("cannot make the program's pipes")]
    Pipes(#[source] io::Error),
}

/// A program that was started. Dropping it kills its process tree unless its leader has
/// ended, and removes the file of its code.
#[derive(Debug)]
pub struct Program {
    /// Its first process.
    pub leader: Leader,
    /// What goes to it and comes from it.
    pub streams: Streams,
    /// How it was started.
    pub started_by: StartedBy,
    /// The other ends of its output pipes. While they are open, the runtime is not woken to
    /// hear that the program, which is just ending, has closed them.
    _outputs: [OwnedFd; 2],
    _code: CodeFile,
}

impl Program {
    /// The program that `leader` leads in `berth`.
    pub(crate) fn new(berth: Berth, leader: Leader, started_by: StartedBy) -> Self {
        let Berth { code, streams, stdio: [_stdin, stdout, stderr], .. } = berth;
        Self { leader, streams, started_by, _outputs: [stdout, stderr], _code: code }
    }
}

/// Starts what `spec` asks for, as the agent's pack says.
///
/// # Errors
/// [`LaunchError`]; nothing is left behind then.
pub async fn launch(agent: &Agent, spec: &ExecSpec) -> Result<Program, LaunchError> {
    let environment = if spec.env.is_empty() {
        Cow::Borrowed(&agent.environment)
    } else {
        Cow::Owned(agent.environment.overlaid(&spec.env))
    };
    let home = environment.home();
    let directory = spec.cwd.as_ref().map_or(Cow::Borrowed(home), |cwd| home.join(cwd).into());
    check_directory(&directory)?;
    match fork(agent, spec, &environment, &directory).await? {
        Some(program) => Ok(program),
        None => spawn(agent, spec, &environment, &directory),
    }
}

/// Has a fork of the zygote run the code; `None` where it must, or can only, be spawned.
async fn fork(
    agent: &Agent,
    spec: &ExecSpec,
    environment: &Environment,
    directory: &Path,
) -> Result<Option<Program>, LaunchError> {
    let Some(zygote) = agent.zygote.as_ref().filter(|zygote| zygote.suits(spec)) else {
        return Ok(None);
    };
    let Some(work) = Work::new(&spec.args, environment, directory) else { return Ok(None) };
    let Some(spare) = zygote.spare(agent).await else { return Ok(None) };
    let started = spare.set_to(&work, &spec.code)?;
    Ok(started.map(|(berth, leader)| Program::new(berth, leader, StartedBy::Zygote)))
}

fn spawn(
    agent: &Agent,
    spec: &ExecSpec,
    environment: &Environment,
    directory: &Path,
) -> Result<Program, LaunchError> {
    let mut berth = Berth::make(agent)?;
    let file = berth.code.write(&spec.code)?;
    let words = agent.pack.command(&file.to_string_lossy(), &spec.args);
    let refused = |source| LaunchError::Run(words[0].clone(), source);
    let procs = berth.cgroup.as_ref().map(Cgroup::procs).transpose();
    let procs = procs.map_err(LaunchError::Cgroup)?;
    let mut process =
        NewProcess::new(&words, environment, directory, berth.stdio()).map_err(refused)?;
    process.cgroup_procs = procs.as_ref().map(|file| file.as_fd());
    let (pid, exit) = agent.reaper.start(&process).map_err(refused)?;

    let leader = Leader::new(exit, ProcessTree { leader: pid, cgroup: berth.cgroup.take() });
    Ok(Program::new(berth, leader, StartedBy::Spawn))
}

/// Finds out what is wrong with a directory before the failure of fork-and-exec as a whole
/// could only be blamed on the program.
pub(crate) fn check_directory(directory: &Path) -> Result<(), LaunchError> {
    let problem = match fs::metadata(directory) {
        Ok(metadata) if metadata.is_dir() => return Ok(()),
        Ok(_) => io::ErrorKind::NotADirectory.into(),
        Err(error) => error,
    };
    Err(LaunchError::Directory(directory.to_owned(), problem))
}
