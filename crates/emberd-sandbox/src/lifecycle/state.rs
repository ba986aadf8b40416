//! State of a sandbox, for callers.

use emberd_vmm::ExitReason;

use super::phase::{Frozen, Gone, Phase, PhaseKind, Was, Why};

/// State of a sandbox, for callers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SandboxState {
    /// The microVM boots; the sandbox cannot be used yet.
    Creating,
    /// The sandbox takes operations.
    Ready {
        /// Process id of its VMM.
        vmm_pid: u32,
    },
    /// The guest stands still until the sandbox is used.
    Frozen {
        /// Process id of its VMM.
        vmm_pid: u32,
    },
    /// The microVM ended by itself; the sandbox can only be deleted.
    Gone(ExitReason),
}

impl SandboxState {
    /// Returns the phase of such a sandbox.
    pub fn phase(self) -> PhaseKind {
        match self {
            Self::Creating => PhaseKind::Creating,
            Self::Ready { .. } => PhaseKind::Running,
            Self::Frozen { .. } => PhaseKind::Frozen,
            Self::Gone(_) => PhaseKind::Gone,
        }
    }
}

/// Returns the state of a sandbox in `phase`.
pub(crate) fn state(phase: &Phase) -> SandboxState {
    match phase {
        Phase::Creating(_) | Phase::Gone(Gone { was: Was::Creating(_), .. }) => {
            SandboxState::Creating
        }
        Phase::Running(running) => SandboxState::Ready { vmm_pid: running.machine.vmm_pid() },
        Phase::Frozen(Frozen { running, .. }) => {
            SandboxState::Frozen { vmm_pid: running.machine.vmm_pid() }
        }
        Phase::Gone(Gone { why: Why::Exited(reason), .. }) => SandboxState::Gone(*reason),
        Phase::Gone(Gone { why: Why::Deleted, was: Was::Lost(_) }) => {
            SandboxState::Gone(ExitReason::Unknown)
        }
        Phase::Gone(Gone { why: Why::Deleted, was: Was::Running(running) }) => {
            let reason = running.machine.exit().reason();
            SandboxState::Gone(reason.unwrap_or(ExitReason::Unknown))
        }
    }
}
