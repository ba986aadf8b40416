//! What becomes of sandboxes.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::listing::SandboxPhase;

/// One event of a sandbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct SandboxEvent {
    /// Number of the event. Numbers grow, also over restarts of the daemon.
    pub seq: u64,
    /// When it happened, in milliseconds since the Unix epoch, by the host's clock.
    pub at_ms: u64,
    /// Kind of the event.
    pub event: SandboxEventKind,
    /// Id of the sandbox.
    pub sandbox: String,
    /// Phase of the sandbox afterwards.
    pub phase: SandboxPhase,
    /// Why the microVM ended. Absent unless it ended by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Names and values that callers gave the sandbox, as they were then.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub metadata: BTreeMap<String, String>,
}

/// Kind of an event of a sandbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum SandboxEventKind {
    /// A caller asked for the sandbox: its first event.
    Created,
    /// The sandbox is ready.
    Running,
    /// The guest was stopped for want of use.
    Frozen,
    /// The guest goes on.
    Thawed,
    /// The timeout has passed. `deleted` follows.
    Expired,
    /// The microVM ended by itself.
    Gone,
    /// The sandbox is deleted, by a caller, by its timeout or because it could not be made: its
    /// last event.
    Deleted,
    /// A kind that this version does not know.
    #[serde(other)]
    Other,
}

impl SandboxEventKind {
    /// Name of the kind, as in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Running => "running",
            Self::Frozen => "frozen",
            Self::Thawed => "thawed",
            Self::Expired => "expired",
            Self::Gone => "gone",
            Self::Deleted => "deleted",
            Self::Other => "other",
        }
    }
}

/// Events that a follower misses: those between two numbers. None may have been for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct SandboxEventGap {
    /// Number of the last event before the gap.
    pub after: u64,
    /// Number of the first event after the gap that is kept, or of the next one.
    pub before: u64,
}

/// An event of a sandbox, or a gap.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(untagged)]
pub enum DaemonEvent {
    /// An event of a sandbox.
    Sandbox(Box<SandboxEvent>),
    /// Events that are not kept any more.
    Gap(SandboxEventGap),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_and_gaps_are_told_apart_and_new_kinds_are_read() {
        let event = r#"{"seq":7,"at_ms":1,"event":"frozen","sandbox":"sb_1","phase":"frozen"}"#;
        let read: DaemonEvent = serde_json::from_str(event).unwrap();
        assert_eq!(serde_json::to_string(&read).unwrap(), event);
        let newer = event.replacen("frozen", "forked", 1);
        let DaemonEvent::Sandbox(newer) = serde_json::from_str(&newer).unwrap() else { panic!() };
        assert_eq!(newer.event, SandboxEventKind::Other);
        let gap = r#"{"after":3,"before":9}"#;
        let read: DaemonEvent = serde_json::from_str(gap).unwrap();
        assert_eq!(read, DaemonEvent::Gap(SandboxEventGap { after: 3, before: 9 }));
        assert_eq!(serde_json::to_string(&read).unwrap(), gap);
    }

    #[test]
    fn names_of_kinds_are_those_in_json() {
        for kind in [
            SandboxEventKind::Created,
            SandboxEventKind::Running,
            SandboxEventKind::Frozen,
            SandboxEventKind::Thawed,
            SandboxEventKind::Expired,
            SandboxEventKind::Gone,
            SandboxEventKind::Deleted,
            SandboxEventKind::Other,
        ] {
            assert_eq!(serde_json::to_value(kind).unwrap(), kind.name());
        }
    }
}
