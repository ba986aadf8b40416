//! The first process of a program. The program ends when it does.

use std::process::ExitStatus;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use crate::process_tree::ProcessTree;
use crate::reaper::Exit;
use crate::zygote::Report;

/// How a program ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The process was waited for.
    Reaped(ExitStatus),
    /// The program reported that it is done, with its exit code; the process itself may still be
    /// exiting.
    Reported(u8),
    /// The exit status will never be known.
    Lost,
}

/// A running leader. Dropping it kills the whole process tree unless the leader has ended.
#[derive(Debug)]
pub struct Leader {
    exit: Exit,
    /// The report of a fork of the zygote.
    report: Option<Report>,
    tree: ProcessTree,
    ended: bool,
}

impl Leader {
    /// Returns the leader of `tree`, whose exit status comes through `exit`.
    pub fn new(exit: Exit, tree: ProcessTree) -> Self {
        Self { exit, report: None, tree, ended: false }
    }

    /// Returns the same leader with a socket on which it may report its end.
    pub fn reporting(mut self, report: Report) -> Self {
        self.report = Some(report);
        self
    }

    /// Returns the leader's process id.
    pub fn pid(&self) -> u32 {
        self.tree.leader
    }

    /// Waits for the program's end. Cancel safe; must not be called again once it returned.
    pub async fn ended(&mut self) -> End {
        let end = match &mut self.report {
            None => status(&mut self.exit).await,
            Some(report) => tokio::select! {
                biased;
                code = report.exit_code() => End::Reported(code),
                end = status(&mut self.exit) => end,
            },
        };
        self.ended = true;
        end
    }

    /// Returns whether the process is known to be gone. A program that reported its end may still
    /// have its process.
    pub fn is_gone(&self) -> bool {
        self.exit.is_terminated()
    }

    /// Waits until the process is gone, after the program has ended.
    pub async fn gone(&mut self) {
        if !self.is_gone() {
            status(&mut self.exit).await;
        }
    }

    /// Returns whether a process of the tree was killed for reaching the memory limit.
    pub fn ran_out_of_memory(&self) -> bool {
        self.tree.ran_out_of_memory()
    }

    /// Sends `signal` to the whole tree, unless the leader has ended.
    pub fn signal(&self, signal: Signal) {
        if self.runs() {
            self.tree.signal(signal);
        }
    }

    /// Sends `signal` to the leader's process group, as a terminal does, unless the leader has
    /// ended.
    pub fn interrupt(&self, signal: Signal) {
        if self.runs() {
            // A group that has ended, or does not exist yet, needs no signal.
            killpg(Pid::from_raw(self.tree.leader.cast_signed()), signal).ok();
        }
    }

    /// Kills the whole tree; `false` if the leader has already ended by itself, in which case the
    /// rest of the tree keeps running.
    pub fn kill(&self) -> bool {
        let running = self.runs();
        if running {
            self.tree.kill();
        }
        running
    }

    /// A leader whose status is known has been reaped, so its pid may be reused.
    fn runs(&self) -> bool {
        !self.ended && self.exit.is_empty()
    }
}

async fn status(exit: &mut Exit) -> End {
    exit.await.map_or(End::Lost, End::Reaped)
}

impl Drop for Leader {
    fn drop(&mut self) {
        self.kill();
    }
}
