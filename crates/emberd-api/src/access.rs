//! Who may call the daemon, as `/info` shows it.

use serde::{Deserialize, Serialize};

/// Request header with an access key, in place of `Authorization: Bearer`.
pub const API_KEY_HEADER: &str = "x-api-key";

/// Callers that the daemon serves.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct AccessInfo {
    /// Whether requests over TCP need a key.
    pub tcp: AccessOverTcp,
    /// Number of keys.
    pub keys: usize,
    /// Reason why the file of keys cannot be read. Keys that were read before stay in force;
    /// without any, none is valid. Absent if the file can be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

/// Whether requests over TCP need a key.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum AccessOverTcp {
    /// They need none, because there are no keys: everybody on the daemon's host may call it.
    #[default]
    Open,
    /// They need one.
    Key,
    /// They need none, because of `--insecure-no-auth`: everybody who can connect may call it.
    Insecure,
}
