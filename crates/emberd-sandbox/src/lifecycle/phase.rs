//! The phases of a sandbox, and what may follow what.
//!
//! ```text
//!             answer              exit, delete
//! Creating ───────────▶ Running ───────────────▶ Gone
//!     └──────────────── delete ──────────────────▲
//! ```

use std::sync::Arc;

use emberd_vmm::ExitReason;
use tokio_util::sync::CancellationToken;

use super::machine::Running;

/// Where a sandbox is between its creation and its end; owns what exists only then.
pub(crate) enum Phase {
    /// Its microVM is being made.
    Creating(Creating),
    /// Its guest has answered.
    Running(Running),
    /// It has ended, or is to.
    Gone(Gone),
}

/// What exists while a microVM is made.
pub(crate) struct Creating {
    /// Cancelled to cut the making off; later, to end what is done in the sandbox.
    pub ending: CancellationToken,
    /// Held by whoever makes the microVM, until nothing of it is left that is not the sandbox's.
    pub making: Arc<tokio::sync::Mutex<()>>,
}

/// What is left of a sandbox that has ended.
pub(crate) struct Gone {
    pub why: Why,
    pub was: Was,
}

/// Why a sandbox is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Why {
    /// Its microVM ended by itself.
    Exited(ExitReason),
    /// It was deleted, or its creation failed.
    Deleted,
}

/// What a sandbox was before it was gone.
pub(crate) enum Was {
    Creating(Creating),
    /// What its processes wrote can still be read, and its microVM is still to be removed.
    Running(Running),
}

/// A phase without what it owns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PhaseKind {
    Creating,
    Running,
    Gone,
}

/// What can happen to a sandbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Request {
    /// Its guest has answered for the first time.
    Answer,
    /// Something is to be done in it, or read of it. What is gone can be read.
    Operate,
    /// Its VMM has ended by itself.
    Exit,
    /// It is to be deleted.
    Delete,
}

/// Why something cannot happen to a sandbox now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refused {
    /// It is still being created.
    NotReady,
    /// Its guest has answered already.
    Running,
    /// It has ended.
    Gone,
}

impl PhaseKind {
    /// The phase after `request`.
    pub fn after(self, request: Request) -> Result<Self, Refused> {
        match (self, request) {
            (Self::Creating, Request::Answer) | (Self::Running, Request::Operate) => {
                Ok(Self::Running)
            }
            (Self::Creating, Request::Operate | Request::Exit) => Err(Refused::NotReady),
            (Self::Running, Request::Answer) => Err(Refused::Running),
            (Self::Creating | Self::Running, Request::Delete)
            | (Self::Running, Request::Exit)
            | (Self::Gone, Request::Operate) => Ok(Self::Gone),
            (Self::Gone, Request::Answer | Request::Exit | Request::Delete) => Err(Refused::Gone),
        }
    }
}

impl Phase {
    pub fn kind(&self) -> PhaseKind {
        match self {
            Self::Creating(_) => PhaseKind::Creating,
            Self::Running(_) => PhaseKind::Running,
            Self::Gone(_) => PhaseKind::Gone,
        }
    }

    /// What runs, or has run.
    pub fn running(&self) -> Option<&Running> {
        match self {
            Self::Running(running) | Self::Gone(Gone { was: Was::Running(running), .. }) => {
                Some(running)
            }
            Self::Creating(_) | Self::Gone(Gone { was: Was::Creating(_), .. }) => None,
        }
    }

    /// Told when what is done in the sandbox is to end.
    pub fn ending(&self) -> &CancellationToken {
        match self {
            Self::Creating(creating) | Self::Gone(Gone { was: Was::Creating(creating), .. }) => {
                &creating.ending
            }
            Self::Running(running) | Self::Gone(Gone { was: Was::Running(running), .. }) => {
                running.machine.ending()
            }
        }
    }

    /// The same sandbox, gone.
    pub fn gone(self, why: Why) -> Self {
        match self {
            Self::Creating(creating) => Self::Gone(Gone { why, was: Was::Creating(creating) }),
            Self::Running(running) => Self::Gone(Gone { why, was: Was::Running(running) }),
            Self::Gone(gone) => Self::Gone(gone),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const REQUESTS: [Request; 4] =
        [Request::Answer, Request::Operate, Request::Exit, Request::Delete];

    proptest! {
        #[test]
        fn any_sequence_runs_at_most_once_and_ends_for_good(
            choices in prop::collection::vec(0..REQUESTS.len(), 0..32),
        ) {
            let mut phase = PhaseKind::Creating;
            let (mut began, mut ended) = (0, 0);
            for request in choices.into_iter().map(|choice| REQUESTS[choice]) {
                let after = phase.after(request);
                match (phase, after) {
                    (_, Ok(PhaseKind::Creating)) => prop_assert!(false, "nothing is created twice"),
                    (PhaseKind::Creating, Ok(PhaseKind::Running)) => {
                        prop_assert_eq!(request, Request::Answer);
                        began += 1;
                    }
                    (PhaseKind::Gone, Ok(next)) => {
                        prop_assert_eq!((request, next), (Request::Operate, PhaseKind::Gone));
                    }
                    (_, Ok(PhaseKind::Gone)) => ended += 1,
                    (PhaseKind::Running, Ok(PhaseKind::Running)) => {
                        prop_assert_eq!(request, Request::Operate);
                    }
                    (PhaseKind::Gone, Err(refused)) => prop_assert_eq!(refused, Refused::Gone),
                    (PhaseKind::Creating, Err(refused)) => {
                        prop_assert_eq!(refused, Refused::NotReady);
                    }
                    (PhaseKind::Running, Err(refused)) => {
                        prop_assert_eq!((request, refused), (Request::Answer, Refused::Running));
                    }
                }
                phase = after.unwrap_or(phase);
            }
            prop_assert!(began <= 1 && ended <= 1);
        }
    }

    #[test]
    fn whatever_is_not_gone_can_be_deleted() {
        for phase in [PhaseKind::Creating, PhaseKind::Running] {
            assert_eq!(phase.after(Request::Delete), Ok(PhaseKind::Gone));
        }
        assert_eq!(PhaseKind::Gone.after(Request::Delete), Err(Refused::Gone));
    }
}
