//! The first process of a program, whose end is the program's end.

use std::process::ExitStatus;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use crate::process_tree::ProcessTree;
use crate::reaper::Exit;
use crate::zygote::Report;

/// How a program ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// It was waited for.
    Reaped(ExitStatus),
    /// It said that all it does is done, and with which exit code; what remains is its
    /// process's own teardown.
    Reported(u8),
    /// Nobody will ever know.
    Lost,
}

/// A leader at work. Dropping it kills the whole process tree unless it has ended.
#[derive(Debug)]
pub struct Leader {
    exit: Exit,
    /// What a fork of the zygote says itself.
    report: Option<Report>,
    tree: ProcessTree,
    ended: bool,
}

impl Leader {
    /// The leader of `tree`, whose end `exit` tells.
    pub fn new(exit: Exit, tree: ProcessTree) -> Self {
        Self { exit, report: None, tree, ended: false }
    }

    /// The same leader, which may report its end itself.
    pub fn reporting(mut self, report: Report) -> Self {
        self.report = Some(report);
        self
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.tree.leader
    }

    /// Waits for its end. Cancel safe; not to be called again once it returned.
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

    /// Whether its process is known to be gone. One that reported its end may be there still.
    pub fn is_gone(&self) -> bool {
        self.exit.is_terminated()
    }

    /// Waits until its process is gone, once it has ended.
    pub async fn gone(&mut self) {
        if !self.is_gone() {
            status(&mut self.exit).await;
        }
    }

    /// Whether it, or what it started, was killed for reaching its limit of memory.
    pub fn ran_out_of_memory(&self) -> bool {
        self.tree.ran_out_of_memory()
    }

    /// Sends `signal` to the whole tree, unless the leader has ended.
    pub fn signal(&self, signal: Signal) {
        if self.runs() {
            self.tree.signal(signal);
        }
    }

    /// Sends `signal` to its process group, as a terminal does, unless it has ended.
    pub fn interrupt(&self, signal: Signal) {
        if self.runs() {
            // A group that is gone, or is not there yet, has nothing to hear.
            killpg(Pid::from_raw(self.tree.leader.cast_signed()), signal).ok();
        }
    }

    /// Kills the whole tree; `false` if the leader has already ended by itself, in which case
    /// the rest of the tree lives on.
    pub fn kill(&self) -> bool {
        let running = self.runs();
        if running {
            self.tree.kill();
        }
        running
    }

    /// A leader whose status is here has been reaped: its pid may be another's by now.
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
