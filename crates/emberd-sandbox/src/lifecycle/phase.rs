//! The phases of a sandbox and their transitions.
//!
//! ```text
//!             answer          freeze
//! Creating ───────────▶ Running ◀══════▶ Frozen
//!     │                    │       thaw     │
//!     │ delete             │ exit, delete   │ exit, delete
//!     └──────────────────▶ Gone ◀───────────┘
//! ```

use std::sync::Arc;

use emberd_proto::Metrics;
use emberd_vmm::ExitReason;
use tokio_util::sync::CancellationToken;

use super::machine::Running;

/// Where a sandbox is between its creation and its end; owns what exists only then.
pub(crate) enum Phase {
    /// The microVM is being made.
    Creating(Creating),
    /// The guest has answered.
    Running(Running),
    /// The guest stands still, from before it is paused until after it is resumed.
    Frozen(Frozen),
    /// The sandbox has ended, or is about to.
    Gone(Gone),
}

/// The resources of a sandbox while its microVM is made.
pub(crate) struct Creating {
    /// Cancelled to stop the creation; later, to end the operations in the sandbox.
    pub ending: CancellationToken,
    /// Held by the creation until the microVM belongs to the sandbox or is removed.
    pub making: Arc<tokio::sync::Mutex<()>>,
}

/// A sandbox whose guest stands still.
pub(crate) struct Frozen {
    pub running: Running,
    /// Use of the machine when the guest was last asked, and now.
    pub metrics: Metrics,
}

/// The remains of a sandbox that has ended.
pub(crate) struct Gone {
    pub why: Why,
    pub was: Was,
}

/// Why a sandbox is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Why {
    /// The microVM ended by itself.
    Exited(ExitReason),
    /// The sandbox was deleted, or its creation failed.
    Deleted,
}

/// Phase of a sandbox before its end.
pub(crate) enum Was {
    Creating(Creating),
    /// The output of its processes can still be read. Its microVM must still be removed.
    Running(Running),
    /// An earlier daemon had its microVM. The token is as that of its creation.
    Lost(CancellationToken),
}

/// Phase of a sandbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PhaseKind {
    /// The microVM is being made.
    Creating,
    /// The guest runs.
    Running,
    /// The guest stands still until the sandbox is used.
    Frozen,
    /// The sandbox has ended, or is about to.
    Gone,
}

/// A request for a transition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Request {
    /// The guest has answered for the first time.
    Answer,
    /// An operation in the sandbox, or a read. A sandbox that is gone can still be read, and one
    /// that is frozen keeps operations waiting.
    Operate,
    /// Nobody uses the sandbox.
    Freeze,
    /// Somebody uses it again.
    Thaw,
    /// The VMM has ended by itself.
    Exit,
    /// The sandbox is deleted.
    Delete,
}

/// Why a request is refused in the present phase.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refused {
    /// The sandbox is still being created.
    NotReady,
    /// The guest has answered already, and runs.
    Running,
    /// The guest stands still.
    Frozen,
    /// The sandbox has ended.
    Gone,
}

impl PhaseKind {
    /// The phase after `request`.
    pub(crate) fn after(self, request: Request) -> Result<Self, Refused> {
        match (self, request) {
            (Self::Creating, Request::Answer)
            | (Self::Running, Request::Operate)
            | (Self::Frozen, Request::Thaw) => Ok(Self::Running),
            (Self::Running, Request::Freeze) | (Self::Frozen, Request::Operate) => Ok(Self::Frozen),
            (_, Request::Delete) if self != Self::Gone => Ok(Self::Gone),
            (Self::Running | Self::Frozen, Request::Exit) | (Self::Gone, Request::Operate) => {
                Ok(Self::Gone)
            }
            (Self::Creating, _) => Err(Refused::NotReady),
            (Self::Running, _) => Err(Refused::Running),
            (Self::Frozen, _) => Err(Refused::Frozen),
            (Self::Gone, _) => Err(Refused::Gone),
        }
    }
}

impl Phase {
    pub fn kind(&self) -> PhaseKind {
        match self {
            Self::Creating(_) => PhaseKind::Creating,
            Self::Running(_) => PhaseKind::Running,
            Self::Frozen(_) => PhaseKind::Frozen,
            Self::Gone(_) => PhaseKind::Gone,
        }
    }

    /// Returns the microVM that runs, stands still, or ran.
    pub fn running(&self) -> Option<&Running> {
        match self {
            Self::Running(running)
            | Self::Frozen(Frozen { running, .. })
            | Self::Gone(Gone { was: Was::Running(running), .. }) => Some(running),
            Self::Creating(_) | Self::Gone(Gone { was: Was::Creating(_) | Was::Lost(_), .. }) => {
                None
            }
        }
    }

    /// Returns the token that is cancelled to end the operations in the sandbox.
    pub fn ending(&self) -> &CancellationToken {
        match self {
            Self::Creating(creating) | Self::Gone(Gone { was: Was::Creating(creating), .. }) => {
                &creating.ending
            }
            Self::Gone(Gone { was: Was::Lost(ending), .. }) => ending,
            Self::Running(running)
            | Self::Frozen(Frozen { running, .. })
            | Self::Gone(Gone { was: Was::Running(running), .. }) => running.machine.ending(),
        }
    }

    /// The same sandbox, frozen if it runs.
    pub fn frozen(self, metrics: Metrics) -> Self {
        match self {
            Self::Running(running) => Self::Frozen(Frozen { running, metrics }),
            other => other,
        }
    }

    /// The same sandbox, running if it is frozen.
    pub fn thawed(self) -> Self {
        match self {
            Self::Frozen(Frozen { running, .. }) => Self::Running(running),
            other => other,
        }
    }

    /// The same sandbox, gone.
    pub fn gone(self, why: Why) -> Self {
        match self {
            Self::Creating(creating) => Self::Gone(Gone { why, was: Was::Creating(creating) }),
            Self::Running(running) | Self::Frozen(Frozen { running, .. }) => {
                Self::Gone(Gone { why, was: Was::Running(running) })
            }
            Self::Gone(gone) => Self::Gone(gone),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const REQUESTS: [Request; 6] = [
        Request::Answer,
        Request::Operate,
        Request::Freeze,
        Request::Thaw,
        Request::Exit,
        Request::Delete,
    ];

    proptest! {
        #[test]
        fn any_sequence_begins_at_most_once_and_ends_for_good(
            choices in prop::collection::vec(0..REQUESTS.len(), 0..32),
        ) {
            let mut phase = PhaseKind::Creating;
            let (mut began, mut ended) = (0, 0);
            for request in choices.into_iter().map(|choice| REQUESTS[choice]) {
                let after = phase.after(request);
                match (phase, after) {
                    (before, Ok(same)) if before == same => {
                        prop_assert_eq!(request, Request::Operate);
                        prop_assert_ne!(same, PhaseKind::Creating);
                    }
                    (PhaseKind::Creating, Ok(PhaseKind::Running)) => {
                        prop_assert_eq!(request, Request::Answer);
                        began += 1;
                    }
                    (PhaseKind::Running, Ok(PhaseKind::Frozen)) => {
                        prop_assert_eq!(request, Request::Freeze);
                    }
                    (PhaseKind::Frozen, Ok(PhaseKind::Running)) => {
                        prop_assert_eq!(request, Request::Thaw);
                    }
                    (_, Ok(PhaseKind::Gone)) => {
                        prop_assert!(matches!(request, Request::Exit | Request::Delete));
                        ended += 1;
                    }
                    (_, Ok(_)) => prop_assert!(false, "{phase:?} becomes {after:?}"),
                    (PhaseKind::Gone, Err(refused)) => prop_assert_eq!(refused, Refused::Gone),
                    (PhaseKind::Creating, Err(refused)) => {
                        prop_assert_eq!(refused, Refused::NotReady);
                    }
                    (PhaseKind::Running, Err(refused)) => {
                        prop_assert_eq!(refused, Refused::Running);
                    }
                    (PhaseKind::Frozen, Err(refused)) => prop_assert_eq!(refused, Refused::Frozen),
                }
                phase = after.unwrap_or(phase);
            }
            prop_assert!(began <= 1 && ended <= 1);
        }
    }

    #[test]
    fn whatever_is_not_gone_can_be_deleted() {
        for phase in [PhaseKind::Creating, PhaseKind::Running, PhaseKind::Frozen] {
            assert_eq!(phase.after(Request::Delete), Ok(PhaseKind::Gone));
        }
        assert_eq!(PhaseKind::Gone.after(Request::Delete), Err(Refused::Gone));
    }
}
