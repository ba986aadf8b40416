//! The keeper: a small process between the double and the agent, so that a SIGKILL of the double
//! leaves nothing behind.
//!
//! ```text
//! double ◀──stdin, a socket──▶ keeper ──▶ agent ──▶ programs
//!    `p`, `c`          → stops, continues all below it; answered with the same byte
//!    the socket closes → kills all below it, then ends
//!    the agent ends    → likewise; the keeper ends with the agent's exit code
//! ```
//! The keeper adopts orphans (`PR_SET_CHILD_SUBREAPER`). Descendants of the agent become its
//! children once their parents are dead, so killing children until there are none kills all.

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

/// First argument of the command line that makes this binary a keeper.
pub const KEEPER_WORD: &str = "keep-agent";

/// Stops every process below the keeper.
pub const PAUSE: [u8; 1] = *b"p";
/// Continues every process below the keeper.
pub const RESUME: [u8; 1] = *b"c";

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
    let outcome = obey_until_end(Pid::from_child(&agent));
    kill_all_below()?;
    outcome
}

/// Handles requests until the agent or the double ends, and returns the agent's exit code.
fn obey_until_end(agent: Pid) -> io::Result<u8> {
    let agent_fd = pidfd_open(agent, PidfdFlags::empty())?;
    let stdin = io::stdin();
    loop {
        let mut fds = [
            PollFd::from_borrowed_fd(agent_fd.as_fd(), PollFlags::IN),
            PollFd::from_borrowed_fd(stdin.as_fd(), PollFlags::IN),
        ];
        match poll(&mut fds, None) {
            Err(Errno::INTR) => continue,
            outcome => outcome?,
        };
        if fds[0].revents().contains(PollFlags::IN) {
            let end = waitpid(Some(agent), WaitOptions::empty())?;
            let code = end.and_then(|(_, end)| end.exit_status()).map(u8::try_from);
            return Ok(code.and_then(Result::ok).unwrap_or(1));
        }
        let mut order = [0];
        let signal = match rustix::io::read(stdin.as_fd(), &mut order) {
            Ok(1) if order == PAUSE => Signal::STOP,
            Ok(1) if order == RESUME => Signal::CONT,
            _ => return Ok(0),
        };
        process_tree::signal_all_below(getpid(), signal);
        if rustix::io::write(stdin.as_fd(), &order).is_err() {
            return Ok(0);
        }
    }
}

/// Only the keeper reaps these children, so their pids cannot have been reused.
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
