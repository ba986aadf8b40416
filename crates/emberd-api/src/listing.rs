//! Which sandboxes a list has.

use serde::{Deserialize, Serialize};

/// Most sandboxes of one page of a list that a caller may ask for.
pub const LIST_LIMIT_MAX: usize = 1_000;

/// Phase of a sandbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum SandboxPhase {
    /// The microVM is being started. The sandbox cannot be used yet.
    Creating,
    /// The guest runs.
    Running,
    /// The guest stands still until the sandbox is used.
    Frozen,
    /// The microVM ended by itself. The sandbox can only be deleted.
    Gone,
}

impl SandboxPhase {
    /// Every phase, in the order of a life.
    pub const ALL: [Self; 4] = [Self::Creating, Self::Running, Self::Frozen, Self::Gone];

    /// Name of the phase, as in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::Creating => "creating",
            Self::Running => "running",
            Self::Frozen => "frozen",
            Self::Gone => "gone",
        }
    }
}

/// Which sandboxes to list.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ListSandboxes {
    /// Phases that they are in one of; any where it is empty.
    pub phases: Vec<SandboxPhase>,
    /// Names and values that they all have.
    pub metadata: Vec<(String, String)>,
    /// Largest number of sandboxes.
    pub limit: Option<usize>,
    /// The `next` of the page before.
    pub after: Option<u64>,
}
