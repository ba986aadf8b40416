//! How long a sandbox may live, and what its callers write on it.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use serde::{Deserialize, Deserializer, Serialize};

/// Timeouts of sandboxes, in milliseconds: 1 s to 30 days.
pub const SANDBOX_TIMEOUT_MS: RangeInclusive<u64> = 1_000..=30 * 24 * 60 * 60 * 1_000;

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

/// A change of a sandbox. What is absent stays as it is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(default)]
pub struct UpdateSandbox {
    /// Time after which the sandbox ends, from now on, in milliseconds: 1,000 to 2,592,000,000
    /// (30 days). It may be shorter than what is left. `null` for never.
    #[serde(deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schema(value_type = Option<u64>))]
    pub timeout_ms: Option<Option<u64>>,
    /// Effect of the timeout.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub on_timeout: Option<OnTimeout>,
    /// Metadata to set. `null` removes a name.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub metadata: BTreeMap<String, Option<String>>,
}

/// More time for a sandbox.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(default)]
pub struct TouchSandbox {
    /// Least time that the sandbox has left afterwards, in milliseconds: 1,000 to 2,592,000,000
    /// (30 days). Its own timeout when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout_ms: Option<u64>,
}

/// Tells a field that is `null` from one that is absent.
#[expect(clippy::option_option, reason = "absent, `null` and a value")]
fn present<'de, D: Deserializer<'de>, T: Deserialize<'de>>(
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
