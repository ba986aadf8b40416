//! The resources of one exec besides its process. Those of a zygote's spare are made ahead.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, lchown};
use std::path::{Path, PathBuf};

use emberd_proto::Kind;
use emberd_proto::process::TtySize;
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::stat::{Mode, fchmod};
use nix::unistd::{Uid, fchown, pipe2};
use tokio::net::unix::pipe::Sender;

use super::input::Input;
use super::launch::LaunchError;
use super::output::Output;
use super::terminal::Terminal;
use crate::agent::Agent;
use crate::process_tree::Cgroup;
use crate::users::User;

/// Mode of a program's pipes when opened by name (`/dev/stdout`). Every user may open them,
/// because programs give up their rights and start others as another user. Only a process that
/// can see the program can use such a name.
const PIPE_MODE: Mode = Mode::from_bits_truncate(0o666);

/// The resources for running one program.
#[derive(Debug)]
pub struct Slot {
    /// A number that is unique in this agent.
    pub number: u64,
    /// File for the code.
    pub code: CodeFile,
    /// Cgroup, where cgroups are supported.
    pub cgroup: Option<Cgroup>,
    /// The agent's ends of its pipes.
    pub streams: Streams,
    /// The program's ends.
    pub stdio: [OwnedFd; 3],
}

impl Slot {
    /// Creates the resources.
    ///
    /// # Errors
    /// [`LaunchError`]; nothing is left behind.
    pub fn make(agent: &Agent) -> Result<Self, LaunchError> {
        Self::with(agent, pipes)
    }

    /// As [`Self::make`], with a terminal of that size instead of pipes.
    ///
    /// # Errors
    /// [`LaunchError`].
    pub fn with_terminal(agent: &Agent, size: TtySize) -> Result<Self, LaunchError> {
        Self::with(agent, || terminal(size))
    }

    fn with(
        agent: &Agent,
        streams: impl FnOnce() -> io::Result<(Streams, [OwnedFd; 3])>,
    ) -> Result<Self, LaunchError> {
        let number = agent.next_exec();
        let dir = agent.scratch.path().join(number.to_string());
        let code = CodeFile::make(dir, &agent.pack.file_name)?;
        let cgroup = agent.cgroups.as_ref().map(|cgroups| cgroups.make(number)).transpose();
        let cgroup = cgroup.map_err(LaunchError::Cgroup)?;
        let (streams, stdio) = streams().map_err(LaunchError::Pipes)?;
        Ok(Self { number, code, cgroup, streams, stdio })
    }

    /// Creates the pipes or the terminal, and the file of the code, owned by `user`.
    ///
    /// # Errors
    /// [`LaunchError`].
    pub fn give_to(&self, user: &User) -> Result<(), LaunchError> {
        let owner = Some(Uid::from_raw(user.uid));
        for stream in &self.stdio {
            fchown(stream, owner, None).map_err(|errno| LaunchError::Pipes(errno.into()))?;
        }
        self.code.give_to(user)
    }

    /// Returns the program's ends of its pipes.
    pub fn stdio(&self) -> [BorrowedFd<'_>; 3] {
        self.stdio.each_ref().map(OwnedFd::as_fd)
    }
}

/// The streams of a program.
#[derive(Debug)]
pub struct Streams {
    /// Standard input.
    pub input: Input,
    /// Standard output.
    pub stdout: Output,
    /// Standard error.
    pub stderr: Output,
    /// Terminal, if the program has one instead of pipes.
    pub terminal: Option<Terminal>,
}

impl Streams {
    /// Configures the streams for a process whose output is not collected: nothing is cut, and
    /// input has a window.
    pub fn unbounded(&mut self) {
        self.input.window();
        self.stdout.unbounded();
        self.stderr.unbounded();
    }
}

fn pipes() -> io::Result<(Streams, [OwnedFd; 3])> {
    let pipe = || {
        let ends = pipe2(OFlag::O_CLOEXEC)?;
        fchmod(&ends.1, PIPE_MODE)?;
        Ok::<_, Errno>(ends)
    };
    let ((stdin, input), (output, stdout), (complaints, stderr)) = (pipe()?, pipe()?, pipe()?);
    let streams = Streams {
        input: Input::new(Sender::from_owned_fd(input)?),
        stdout: Output::new(Kind::Stdout, output)?,
        stderr: Output::new(Kind::Stderr, complaints)?,
        terminal: None,
    };
    Ok((streams, [stdin, stdout, stderr]))
}

fn terminal(size: TtySize) -> io::Result<(Streams, [OwnedFd; 3])> {
    let (terminal, stdin) = Terminal::open(size)?;
    let (stdout, stderr) = (stdin.try_clone()?, stdin.try_clone()?);
    let streams = Streams {
        input: Input::of_terminal(terminal.clone()),
        stdout: Output::of_terminal(terminal.clone()),
        stderr: Output::none(Kind::Stderr),
        terminal: Some(terminal),
    };
    Ok((streams, [stdin, stdout, stderr]))
}

/// The file with one exec's code, in its own directory. Dropping it removes the directory with
/// its contents.
#[derive(Debug)]
pub struct CodeFile {
    dir: PathBuf,
    path: PathBuf,
    /// Present until the code is written.
    open: Option<File>,
}

impl CodeFile {
    fn make(dir: PathBuf, name: &str) -> Result<Self, LaunchError> {
        if let Err(source) = DirBuilder::new().mode(0o700).create(&dir) {
            return Err(LaunchError::Code(dir, source));
        }
        let path = dir.join(name);
        let mut file = Self { dir, path, open: None };
        let opened = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&file.path);
        file.open = Some(opened.map_err(|source| LaunchError::Code(file.path.clone(), source))?);
        Ok(file)
    }

    /// Makes `user`, who reads the file, its owner.
    fn give_to(&self, user: &User) -> Result<(), LaunchError> {
        for path in [&self.path, &self.dir] {
            lchown(path, Some(user.uid), Some(user.gid))
                .map_err(|source| LaunchError::Code(path.clone(), source))?;
        }
        Ok(())
    }

    /// Writes `code`, once, and returns the path of the file.
    ///
    /// # Errors
    /// [`LaunchError::Code`].
    pub fn write(&mut self, code: &str) -> Result<&Path, LaunchError> {
        let mut file = self.open.take().expect("code is written once");
        match file.write_all(code.as_bytes()) {
            Ok(()) => Ok(&self.path),
            Err(source) => Err(LaunchError::Code(self.path.clone(), source)),
        }
    }
}

impl Drop for CodeFile {
    fn drop(&mut self) {
        // The program may have removed the directory, or left files beside its code
        // (`__pycache__`), which are removed too: the directory was created for this exec.
        fs::remove_dir_all(&self.dir).ok();
    }
}
