//! Network access of sandboxes: the policy in force, dry runs, the log and profiles.

use emberd_proto::EgressReason;
use emberd_proto::policy::{EntrySpec, PolicySpec};
use serde::{Deserialize, Serialize};

/// Most records of one response of the log.
pub const EGRESS_RECORDS_MAX: usize = 1000;

/// Network access of a sandbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct SandboxEgress {
    /// The policy as it was given.
    pub policy: PolicySpec,
    /// The entries that allow something, within what the operator permits.
    pub in_force: Vec<EgressRule>,
    /// Whether connections of programs reach the daemon.
    pub state: EgressState,
    /// Why they do not. Absent unless `state` is `unavailable`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// Number of open connections.
    pub connections: usize,
    /// Connections and bytes since the sandbox was created.
    pub totals: EgressTotals,
    /// Number of connections that the change of the policy has reset. Absent where there was no
    /// change.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reset: Option<usize>,
}

/// An entry that allows something.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct EgressRule {
    /// The entry, without its options.
    pub entry: String,
    /// Where the entry comes from: `sandbox`, `profile:NAME` or `operator`.
    pub from: String,
}

/// Whether connections of a sandbox's programs reach the daemon.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum EgressState {
    /// They do.
    Ready,
    /// The guest is being asked to send them. Programs that connect wait.
    Connecting,
    /// They do not, and programs reach nothing: the guest's kernel lacks an option, the image is
    /// older than this daemon, or egress is switched off.
    Unavailable,
}

/// Connections and bytes of a sandbox since it was created.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct EgressTotals {
    /// Number of connections that were made.
    pub opened: u64,
    /// Number of connections and lookups that were denied.
    pub denied: u64,
    /// Number of connections and lookups that were allowed and failed.
    pub failed: u64,
    /// Bytes to destinations.
    pub sent_bytes: u64,
    /// Bytes from destinations.
    pub received_bytes: u64,
}

/// A change of a policy. Everything is changed, or nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(default, deny_unknown_fields)]
pub struct EgressPatch {
    /// Profiles and entries to add. Those that the policy has already are no error.
    pub add: EgressLists,
    /// Profiles and entries to remove first. Those that the policy does not have are no error.
    pub remove: EgressLists,
}

/// Profiles and entries of a policy.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(default, deny_unknown_fields)]
pub struct EgressLists {
    /// Names of profiles.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub profiles: Vec<String>,
    /// Entries of `allow`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub allow: Vec<EntrySpec>,
    /// Entries of `deny`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub deny: Vec<EntrySpec>,
}

/// A destination to check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct CheckEgress {
    /// The name or the address.
    pub host: String,
    /// The port. 443 when absent.
    #[serde(default = "port_default")]
    pub port: u16,
}

fn port_default() -> u16 {
    443
}

/// Decision on a connection that is not made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct EgressCheck {
    /// Whether the connection would be made.
    pub decision: EgressDecision,
    /// Why not. Absent if it would be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<EgressReason>,
    /// The entry that decides. Absent where none does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub entry: Option<String>,
    /// Where the entry comes from: `sandbox`, `profile:NAME` or `operator`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// Addresses that would be tried.
    pub addresses: Vec<String>,
    /// Advice on how to allow the connection. Absent if it is allowed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

/// Outcome of a connection, a lookup or a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum EgressDecision {
    /// The policy allowed it.
    Allowed,
    /// The policy, a check or a limit refused it.
    Denied,
    /// The policy allowed it, and it failed.
    Failed,
}

impl EgressDecision {
    /// Name in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::Allowed => "allowed",
            Self::Denied => "denied",
            Self::Failed => "failed",
        }
    }
}

/// A part of the log of a sandbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct EgressLog {
    /// Records, oldest first.
    pub records: Vec<EgressRecord>,
    /// Value of `after` that continues.
    pub next: u64,
    /// Number of records after the one asked for that are no longer kept.
    pub gap: u64,
}

/// One element of a log that is followed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(untagged)]
pub enum EgressEvent {
    /// A record.
    Record(Box<EgressRecord>),
    /// Records that are no longer kept.
    Gap {
        /// Number of records.
        gap: u64,
    },
}

/// A connection, a lookup, a request or a change of the policy. A record of a connection is made
/// when the connection ends.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct EgressRecord {
    /// Number of the record in its sandbox, from 1 on.
    pub seq: u64,
    /// When the record was made (RFC 3339, UTC).
    pub time: String,
    /// The sandbox.
    pub sandbox: String,
    /// `connection`, `lookup`, `request` or `policy`.
    pub kind: String,
    /// Outcome of it.
    pub decision: EgressDecision,
    /// Why it was denied, or failed, or ended early.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<EgressReason>,
    /// Name of the destination, or its address where no name is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// Port of the destination.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// Address that was connected to, or that the guest named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// The entry that decided, without its options.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub entry: Option<String>,
    /// Where the entry comes from: `sandbox`, `profile:NAME` or `operator`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// `tls`, `http`, `tcp` or `dns`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol: Option<String>,
    /// Name of the server in the TLS connection.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sni: Option<String>,
    /// Method of the request, where HTTP is read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub method: Option<String>,
    /// Path of the request without its query, where HTTP is read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// Bytes to the destination.
    pub sent_bytes: u64,
    /// Bytes from the destination.
    pub received_bytes: u64,
    /// How long it took, in milliseconds.
    pub duration_ms: u64,
    /// Number of equal events that the record stands for.
    pub count: u32,
}

/// A profile: entries under one name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct EgressProfile {
    /// Name of the profile.
    pub name: String,
    /// Its entries, without their options.
    pub allow: Vec<String>,
    /// Where the profile comes from: `built-in`, `operator`, or `pack:NAME` for sandboxes of that
    /// language pack.
    pub from: String,
}

/// All profiles.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct EgressProfileList {
    /// All profiles, sorted by name.
    pub profiles: Vec<EgressProfile>,
}

/// Network access that the daemon gives to sandboxes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct EgressInfo {
    /// Profiles and entries of sandboxes whose creation names no policy.
    pub default: Vec<String>,
    /// Profiles and entries that policies may allow at most.
    pub ceiling: Vec<String>,
    /// Names of all profiles.
    pub profiles: Vec<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_followed_log_has_records_and_gaps() {
        let gap: EgressEvent = serde_json::from_str(r#"{"gap":3}"#).unwrap();
        assert_eq!(gap, EgressEvent::Gap { gap: 3 });
        let record = r#"{"seq":1,"time":"t","sandbox":"s","kind":"lookup","decision":"denied",
            "reason":"no_rule","sent_bytes":0,"received_bytes":0,"duration_ms":0,"count":1}"#;
        let EgressEvent::Record(record) = serde_json::from_str(record).unwrap() else {
            panic!("a record");
        };
        assert_eq!(record.reason, Some(EgressReason::NoRule));
    }

    #[test]
    fn a_patch_with_an_unknown_field_is_refused() {
        for json in [r#"{"allow":["a.example"]}"#, r#"{"add":{"log":"off"}}"#] {
            assert!(serde_json::from_str::<EgressPatch>(json).is_err(), "{json}");
        }
        assert_eq!(serde_json::from_str::<EgressPatch>("{}").unwrap(), EgressPatch::default());
    }
}
