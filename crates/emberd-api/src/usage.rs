//! What callers use, and what they may.

use serde::{Deserialize, Serialize};

/// Use and limits of callers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct UsageList {
    /// The caller, or every key and every other owner of sandboxes.
    pub callers: Vec<Usage>,
}

/// Use and limits of one caller.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Usage {
    /// Owner of its sandboxes: `key:ID` or `uid:NUMBER`. Absent for those that are nobody's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
    /// Name of the key. Absent without one, and for one that was removed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Its use now.
    pub used: Used,
    /// The most that it may use. Only keys have limits.
    #[serde(default)]
    pub limits: UsageLimits,
}

/// Use of one caller.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Used {
    /// Number of sandboxes, those being created included.
    pub sandboxes: u64,
    /// Virtual processors of all its sandboxes.
    pub vcpus: u64,
    /// Memory of all its sandboxes, in MiB, each counted with all it may use.
    pub memory_mib: u64,
    /// Disks of all its sandboxes, in MiB, likewise.
    pub disk_mib: u64,
    /// Creations that it may begin at once. Absent without such a limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub creates_left: Option<u64>,
    /// Requests under way, without the one that asks. Absent without a key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requests: Option<u64>,
}

/// The most that one caller may use. What is absent is not limited.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(default)]
pub struct UsageLimits {
    /// Most sandboxes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sandboxes: Option<u64>,
    /// Most virtual processors of all sandboxes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vcpus: Option<u64>,
    /// Most memory of all sandboxes, in MiB.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_mib: Option<u64>,
    /// Most disk of all sandboxes, in GiB.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disk_gib: Option<u64>,
    /// Longest timeout of a sandbox, in milliseconds. One that asks for none gets it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout_ms: Option<u64>,
    /// Most creations in a minute, and at once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub creates_per_minute: Option<u64>,
    /// Most requests under way.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub requests: Option<u64>,
    /// The language packs that its sandboxes may have.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub packs: Option<Vec<String>>,
    /// The most that its sandboxes may reach: profiles and entries. Nothing if it is empty.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub egress: Option<Vec<String>>,
}
