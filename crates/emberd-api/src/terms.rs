//! How long a sandbox may live, and what its callers write on it.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use serde::{Deserialize, Deserializer, Serialize};

/// Shortest timeout of a sandbox, in milliseconds (1 s). The longest is the operator's choice.
pub const TIMEOUT_MS_MIN: u64 = 1_000;

/// Times without use after which a sandbox is frozen, in milliseconds: 1 s to 30 days.
pub const IDLE_FREEZE_MS: RangeInclusive<u64> = 1_000..=30 * 24 * 60 * 60 * 1_000;

/// Maximum number of pairs in the metadata of a sandbox.
pub const METADATA_PAIRS_MAX: usize = 64;

/// Maximum size of the metadata of a sandbox, in bytes (8 KiB): names and values together.
pub const METADATA_BYTES_MAX: usize = 8 << 10;

/// Effect of a timeout on its sandbox.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum OnTimeout {
    /// The sandbox is deleted.
    #[default]
    Delete,
    /// The sandbox is paused with its memory. Refused: the daemon cannot pause sandboxes yet.
    Pause,
    /// The sandbox is paused with its files only. Refused: the daemon cannot pause sandboxes yet.
    PauseDisk,
}

/// The idle policy of a sandbox: when it is stopped for want of use. Absent fields stay as they
/// are.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(default)]
pub struct IdleOptions {
    /// Time without use after which the guest is stopped until the next request, in milliseconds:
    /// 1,000 to 2,592,000,000 (30 days). `null` for never. Absent at a creation, the daemon's
    /// default.
    #[serde(deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schema(value_type = Option<u64>))]
    pub freeze_ms: Option<Option<u64>>,
    /// Time without use after which the sandbox is paused to disk. Refused: the daemon cannot pause
    /// sandboxes yet.
    #[serde(deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schema(value_type = Option<u64>))]
    pub pause_ms: Option<Option<u64>>,
    /// Whether the guest is stopped although programs run in it. `false` unless it was set: a
    /// program keeps its sandbox awake.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ignore_programs: Option<bool>,
}

/// The idle policy of a sandbox: when it is stopped for want of use.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct SandboxIdle {
    /// Time without use after which the guest is stopped until the next request, in milliseconds.
    /// Absent for never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub freeze_ms: Option<u64>,
    /// Whether the guest is stopped although programs run in it.
    #[serde(default)]
    pub ignore_programs: bool,
}

/// A change of a sandbox. What is absent stays as it is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(default)]
pub struct UpdateSandbox {
    /// Time after which the sandbox ends, from now on, in milliseconds: 1,000 to what the
    /// daemon allows (`--timeout-max`). It may be shorter than what is left. `null` for never.
    #[serde(deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schema(value_type = Option<u64>))]
    pub timeout_ms: Option<Option<u64>>,
    /// Effect of the timeout.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub on_timeout: Option<OnTimeout>,
    /// When the sandbox is stopped for want of use.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub idle: Option<IdleOptions>,
    /// Whether a request thaws the sandbox.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub auto_resume: Option<bool>,
    /// Limits of the sandbox. Its size cannot be changed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resources: Option<UpdateResources>,
    /// Metadata to set. `null` removes a name.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub metadata: BTreeMap<String, Option<String>>,
}

/// A change of what a sandbox may take. What is absent stays as it is; `null` is the default.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(default, deny_unknown_fields)]
pub struct UpdateResources {
    /// Most processor time, in per cent of one processor: 1 to 100 for each virtual processor.
    #[serde(deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schema(value_type = Option<u64>))]
    pub cpu_percent: Option<Option<u64>>,
    /// Share of processor time beside other sandboxes: 1 to 10,000.
    #[serde(deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schema(value_type = Option<u64>))]
    pub cpu_weight: Option<Option<u64>>,
}

/// More time for a sandbox.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(default)]
pub struct TouchSandbox {
    /// Least time that the sandbox has left afterwards, in milliseconds: 1,000 to what the
    /// daemon allows (`--timeout-max`). Its own timeout when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout_ms: Option<u64>,
}

/// Tells a field that is `null` from one that is absent.
#[expect(clippy::option_option, reason = "absent, `null` and a value")]
pub(crate) fn present<'de, D: Deserializer<'de>, T: Deserialize<'de>>(
    deserializer: D,
) -> Result<Option<Option<T>>, D::Error> {
    Option::deserialize(deserializer).map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn null_and_absence_differ() {
        let read = |json: &str| serde_json::from_str::<UpdateSandbox>(json).unwrap();
        assert_eq!(read("{}"), UpdateSandbox::default());
        assert_eq!(read(r#"{"timeout_ms":null}"#).timeout_ms, Some(None));
        assert_eq!(read(r#"{"timeout_ms":5000}"#).timeout_ms, Some(Some(5000)));
        for json in ["{}", r#"{"timeout_ms":null}"#, r#"{"metadata":{"a":null,"b":"c"}}"#] {
            assert_eq!(serde_json::to_string(&read(json)).unwrap(), json);
        }
    }
}
