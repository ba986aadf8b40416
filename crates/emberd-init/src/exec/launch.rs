//! Starts a program: as a new process, or as a fork of the pack's zygote.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};

use emberd_proto::process::ProcessSpec;
use emberd_proto::{RefusalCode, StartedBy};

use super::berth::{Berth, CodeFile, Streams};
use super::leader::Leader;
use super::leftover::Leftovers;
use crate::agent::{Agent, Environment};
use crate::process::{NewProcess, ResourceLimits};
use crate::process_tree::{Cgroup, Controller, LimitError, ProcessTree};
use crate::users::{self, User, UserError};
use crate::zygote::Work;

/// Kind of terminal a program is told it has, unless its environment names one.
const TERM_DEFAULT: &str = "xterm-256color";

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
    /// Its pipes or its terminal could not be made or watched.
    #[error("cannot make the program's pipes")]
    Pipes(#[source] io::Error),
    /// It cannot run as the user asked for.
    #[error(transparent)]
    User(#[from] UserError),
    /// A limit asked for cannot be held here.
    #[error(transparent)]
    Limit(#[from] LimitError),
}

impl LaunchError {
    /// What it is to a host that asked for what this guest does not have; `None` where
    /// starting was tried.
    pub fn refusal(&self) -> Option<RefusalCode> {
        match self {
            Self::User(UserError::Unknown(_)) => Some(RefusalCode::NotFound),
            Self::Limit(LimitError::Unavailable(_)) => Some(RefusalCode::Invalid),
            _ => None,
        }
    }
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
    outputs: [OwnedFd; 2],
    code: CodeFile,
}

impl Program {
    /// The program that `leader` leads in `berth`.
    pub(crate) fn new(berth: Berth, leader: Leader, started_by: StartedBy) -> Self {
        let Berth { code, streams, stdio: [_stdin, stdout, stderr], .. } = berth;
        Self { leader, streams, started_by, outputs: [stdout, stderr], code }
    }

    /// Lets go of it once its leader has ended. What it left behind lives on, and whatever
    /// that writes is read on.
    pub fn leave(self, leftovers: &Leftovers) {
        let Self { leader, streams, outputs, code, .. } = self;
        drop((outputs, code));
        leftovers.take(leader, [streams.stdout, streams.stderr]);
    }
}

/// Starts what `spec` asks for, as the agent's pack says.
///
/// # Errors
/// [`LaunchError`]; nothing is left behind then.
pub async fn launch(agent: &Agent, spec: &ProcessSpec) -> Result<Program, LaunchError> {
    check_limits(agent, spec)?;
    let user = spec.user.as_deref().map(users::find).transpose()?;
    let environment = environment(agent, spec, user.as_ref());
    let directory = directory(spec.cwd.as_deref(), &environment, user.as_ref());
    check_directory(&directory)?;
    match fork(agent, spec, &environment, &directory).await? {
        Some(program) => Ok(program),
        None => spawn(agent, spec, user.as_ref(), &environment, &directory),
    }
}

/// The agent's environment, under the user's, under the spec's.
fn environment<'a>(
    agent: &'a Agent,
    spec: &ProcessSpec,
    user: Option<&User>,
) -> Cow<'a, Environment> {
    let mut environment = environment_of(agent, user);
    if spec.tty.is_some() && environment.get("TERM").is_none() {
        let term = [("TERM".to_owned(), TERM_DEFAULT.to_owned())].into();
        environment = Cow::Owned(environment.overlaid(&term));
    }
    if !spec.env.is_empty() {
        environment = Cow::Owned(environment.overlaid(&spec.env));
    }
    environment
}

/// The agent's environment, under what a login of the user's sets.
pub(crate) fn environment_of<'a>(agent: &'a Agent, user: Option<&User>) -> Cow<'a, Environment> {
    let Some(user) = user else { return Cow::Borrowed(&agent.environment) };
    let home = user.home.to_string_lossy().into_owned();
    let own = [
        ("HOME", home),
        ("LOGNAME", user.name.clone()),
        ("SHELL", user.shell.clone()),
        ("USER", user.name.clone()),
    ];
    let own: BTreeMap<_, _> = own.map(|(name, value)| (name.to_owned(), value)).into();
    Cow::Owned(agent.environment.overlaid(&own))
}

/// Where the program starts. A user whose home is not there starts at the root, as with su(1).
pub(crate) fn directory<'a>(
    cwd: Option<&str>,
    environment: &'a Environment,
    user: Option<&User>,
) -> Cow<'a, Path> {
    let home = environment.home();
    match cwd {
        Some(cwd) => home.join(cwd).into(),
        None if user.is_some() && !home.is_dir() => Path::new("/").into(),
        None => home.into(),
    }
}

/// Refuses limits that could only be ignored here.
fn check_limits(agent: &Agent, spec: &ProcessSpec) -> Result<(), LimitError> {
    let wanted = [
        (spec.limits.memory_mib.is_some(), Controller::Memory),
        (spec.limits.pids.is_some(), Controller::Pids),
    ];
    for (_, controller) in wanted.into_iter().filter(|(wanted, _)| *wanted) {
        match &agent.cgroups {
            Some(cgroups) => cgroups.enable(controller)?,
            None => return Err(LimitError::Unavailable(controller)),
        }
    }
    Ok(())
}

/// Has a fork of the zygote run the code; `None` where it must, or can only, be spawned.
async fn fork(
    agent: &Agent,
    spec: &ProcessSpec,
    environment: &Environment,
    directory: &Path,
) -> Result<Option<Program>, LaunchError> {
    let Some(zygote) = agent.zygote.as_ref().filter(|zygote| zygote.suits(spec)) else {
        return Ok(None);
    };
    let Some(code) = &spec.code else { return Ok(None) };
    let Some(work) = Work::new(&spec.args, environment, directory) else { return Ok(None) };
    let Some(spare) = zygote.spare(agent).await else { return Ok(None) };
    let started = spare.set_to(&work, code, &spec.limits)?;
    Ok(started.map(|(berth, leader)| Program::new(berth, leader, StartedBy::Zygote)))
}

fn spawn(
    agent: &Agent,
    spec: &ProcessSpec,
    user: Option<&User>,
    environment: &Environment,
    directory: &Path,
) -> Result<Program, LaunchError> {
    let mut berth = match spec.tty {
        Some(size) => Berth::with_terminal(agent, size)?,
        None => Berth::make(agent)?,
    };
    if let Some(user) = user {
        berth.give_to(user)?;
    }
    let words = match &spec.code {
        Some(code) => {
            let file = berth.code.write(code)?;
            agent.pack.command(&file.to_string_lossy(), &spec.args)
        }
        None => spec.argv.iter().chain(&spec.args).cloned().collect(),
    };
    let refused = |source| LaunchError::Run(words[0].clone(), source);
    if let Some(cgroup) = &berth.cgroup {
        cgroup.limit(&spec.limits)?;
    }
    let procs = berth.cgroup.as_ref().map(Cgroup::procs).transpose();
    let procs = procs.map_err(LaunchError::Cgroup)?;
    let mut process =
        NewProcess::new(&words, environment, directory, berth.stdio()).map_err(refused)?;
    process.cgroup_procs = procs.as_ref().map(|file| file.as_fd());
    process.user = user;
    process.terminal = spec.tty.is_some();
    process.resources = ResourceLimits::of(&spec.limits);
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
