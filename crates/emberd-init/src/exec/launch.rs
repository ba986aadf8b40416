//! Starts a program: as a new process, or as a fork of the pack's zygote.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};

use emberd_proto::process::ProcessSpec;
use emberd_proto::{RefusalCode, StartedBy};

use super::leader::Leader;
use super::leftover::Leftovers;
use super::slot::{CodeFile, Slot, Streams};
use crate::agent::Agent;
use crate::environment::Environment;
use crate::process::{NewProcess, ResourceLimits};
use crate::process_tree::{Cgroup, Controller, LimitError, ProcessTree};
use crate::users::{self, User, UserError};
use crate::zygote::Work;

/// Value of `TERM` for a program at a terminal, unless its environment has one.
const TERM_DEFAULT: &str = "xterm-256color";

/// Why a program was not started.
#[derive(Debug, thiserror::Error)]
pub enum LaunchError {
    /// The code could not be written to a file.
    #[error("cannot write the code to {}", .0.display())]
    Code(PathBuf, #[source] io::Error),
    /// The working directory cannot be entered.
    #[error("cannot enter the directory {}", .0.display())]
    Directory(PathBuf, #[source] io::Error),
    /// No cgroup could be created.
    #[error("cannot create a cgroup")]
    Cgroup(#[source] io::Error),
    /// The program, or its interpreter, could not be executed.
    #[error("cannot run {0}")]
    Run(String, #[source] io::Error),
    /// The pipes or the terminal could not be created or watched.
    #[error("cannot create the program's pipes")]
    Pipes(#[source] io::Error),
    /// The requested user cannot be used.
    #[error(transparent)]
    User(#[from] UserError),
    /// A requested limit cannot be enforced.
    #[error(transparent)]
    Limit(#[from] LimitError),
}

impl LaunchError {
    /// Returns the refusal if the request named something that this guest does not have; `None`
    /// if starting was attempted.
    pub fn refusal(&self) -> Option<RefusalCode> {
        match self {
            Self::User(UserError::Unknown(_)) => Some(RefusalCode::NotFound),
            Self::Limit(LimitError::Unavailable(_)) => Some(RefusalCode::Invalid),
            _ => None,
        }
    }
}

/// A started program. Dropping it kills its process tree unless its leader has ended, and removes
/// the file of its code.
#[derive(Debug)]
pub struct Program {
    /// The first process.
    pub leader: Leader,
    /// The input and output streams.
    pub streams: Streams,
    /// How the program was started.
    pub started_by: StartedBy,
    /// The program's ends of its output pipes. While they are open, the runtime is not woken when
    /// the ending program closes its own.
    outputs: [OwnedFd; 2],
    code: CodeFile,
}

impl Program {
    /// Returns the program that `leader` leads, with the resources of `slot`.
    pub(crate) fn new(slot: Slot, leader: Leader, started_by: StartedBy) -> Self {
        let Slot { code, streams, stdio: [_stdin, stdout, stderr], .. } = slot;
        Self { leader, streams, started_by, outputs: [stdout, stderr], code }
    }

    /// Releases the program once its leader has ended. Processes that it left behind keep
    /// running, and their output is read.
    pub fn leave(self, leftovers: &Leftovers) {
        let Self { leader, streams, outputs, code, .. } = self;
        drop((outputs, code));
        leftovers.take(leader, [streams.stdout, streams.stderr]);
    }
}

/// Starts the program of `spec`, as the agent's pack defines.
///
/// # Errors
/// [`LaunchError`]; nothing is left behind.
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

/// Returns the environment of a program: the agent's, overridden by the user's and then by the
/// spec's.
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

/// Returns the agent's environment, overridden by what a login of the user sets.
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

/// Returns the working directory. A user whose home does not exist starts in `/`, as with su(1).
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

/// Refuses limits that cannot be enforced here.
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

/// Runs the code in a fork of the zygote; `None` if it must be spawned.
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
    Ok(started.map(|(slot, leader)| Program::new(slot, leader, StartedBy::Zygote)))
}

fn spawn(
    agent: &Agent,
    spec: &ProcessSpec,
    user: Option<&User>,
    environment: &Environment,
    directory: &Path,
) -> Result<Program, LaunchError> {
    let mut slot = match spec.tty {
        Some(size) => Slot::with_terminal(agent, size)?,
        None => Slot::make(agent)?,
    };
    if let Some(user) = user {
        slot.give_to(user)?;
    }
    let words = match &spec.code {
        Some(code) => {
            let file = slot.code.write(code)?;
            agent.pack.command(&file.to_string_lossy(), &spec.args)
        }
        None => spec.argv.iter().chain(&spec.args).cloned().collect(),
    };
    let refused = |source| LaunchError::Run(words[0].clone(), source);
    if let Some(cgroup) = &slot.cgroup {
        cgroup.limit(&spec.limits)?;
    }
    let procs = slot.cgroup.as_ref().map(Cgroup::procs).transpose();
    let procs = procs.map_err(LaunchError::Cgroup)?;
    let mut process =
        NewProcess::new(&words, environment, directory, slot.stdio()).map_err(refused)?;
    process.cgroup_procs = procs.as_ref().map(|file| file.as_fd());
    process.user = user;
    process.terminal = spec.tty.is_some();
    process.resources = ResourceLimits::of(&spec.limits);
    let (pid, exit) = agent.reaper.start(&process).map_err(refused)?;

    let leader = Leader::new(exit, ProcessTree { leader: pid, cgroup: slot.cgroup.take() });
    Ok(Program::new(slot, leader, StartedBy::Spawn))
}

/// Checks a directory before the program is started, because a later failure could not be told
/// from a failure of the program.
pub(crate) fn check_directory(directory: &Path) -> Result<(), LaunchError> {
    let problem = match fs::metadata(directory) {
        Ok(metadata) if metadata.is_dir() => return Ok(()),
        Ok(_) => io::ErrorKind::NotADirectory.into(),
        Err(error) => error,
    };
    Err(LaunchError::Directory(directory.to_owned(), problem))
}
