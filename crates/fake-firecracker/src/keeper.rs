//! The keeper: a small process between the double and the agent, so that a SIGKILL of the
//! double leaves nothing behind.
//!
//! ```text
//! double ──stdin (a pipe)──▶ keeper ──▶ agent ──▶ programs
//!    the pipe closes  → the keeper kills all below it, then ends
//!    the agent ends   → likewise; the keeper ends with the agent's exit code
//! ```
//! It adopts orphans (`PR_SET_CHILD_SUBREAPER`): whatever the agent started ends up as its
//! child once the parents are dead, so killing children until there are none kills all.

use std::ffi::OsString;
use std::io;
use std::os::fd::AsFd as _;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, ExitCode, Stdio};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::process::{
    Pid, PidfdFlags, Signal, WaitOptions, getpid, kill_process, pidfd_open, set_child_subreaper,
    wait, waitpid,
};

use crate::process_tree;

/// First word of the command line that makes this binary a keeper.
pub const KEEPER_WORD: &str = "keep-agent";

/// Runs `command` (a program and its arguments) until it or the parent process ends.
pub fn run(command: &[OsString]) -> ExitCode {
    match keep(command) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("cannot keep the agent: {error}");
            ExitCode::FAILURE
        }
    }
}

fn keep(command: &[OsString]) -> io::Result<u8> {
    let (program, args) = command.split_first().ok_or(io::ErrorKind::InvalidInput)?;
    set_child_subreaper(Some(getpid()))?;
    let agent = Command::new(program).args(args).stdin(Stdio::null()).process_group(0).spawn()?;
    let agent = Pid::from_child(&agent);
    let outcome = wait_for_end(agent);
    kill_all_below()?;
    outcome
}

/// Waits for the agent or the parent to end, and tells the agent's exit code.
fn wait_for_end(agent: Pid) -> io::Result<u8> {
    let agent_fd = pidfd_open(agent, PidfdFlags::empty())?;
    let parent = io::stdin();
    let mut fds = [
        PollFd::from_borrowed_fd(agent_fd.as_fd(), PollFlags::IN),
        PollFd::from_borrowed_fd(parent.as_fd(), PollFlags::IN),
    ];
    loop {
        match poll(&mut fds, None) {
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
            Ok(_) => break,
        }
    }
    if !fds[0].revents().contains(PollFlags::IN) {
        return Ok(0);
    }
    let status = waitpid(Some(agent), WaitOptions::empty())?.and_then(|(_, end)| end.exit_status());
    Ok(status.and_then(|code| u8::try_from(code).ok()).unwrap_or(1))
}

/// The children are nobody else's to reap: their pids cannot have passed to strangers.
fn kill_all_below() -> io::Result<()> {
    loop {
        for child in process_tree::children(getpid()) {
            match kill_process(child, Signal::KILL) {
                Ok(()) | Err(Errno::SRCH) => {}
                Err(error) => return Err(error.into()),
            }
        }
        match wait(WaitOptions::empty()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(Errno::CHILD) => return Ok(()),
            Err(error) => return Err(error.into()),
        }
    }
}
