//! URLs of ports that a browser can open.

use std::ops::RangeInclusive;

use serde::{Deserialize, Serialize};

/// Shortest and longest time for which a URL is valid, in milliseconds: 1 s to 7 days.
pub const URL_EXPIRES_MS: RangeInclusive<u64> = 1_000..=7 * 24 * 60 * 60 * 1_000;

/// Time for which a URL is valid whose caller does not say, in milliseconds: an hour.
pub const URL_EXPIRES_MS_DEFAULT: u64 = 60 * 60 * 1_000;

/// The URL to make.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct CreateUrl {
    /// The port inside the sandbox, 1 to 65535.
    pub port: u16,
    /// Time for which the URL is valid, in milliseconds: 1,000 to 604,800,000 (7 days). An hour
    /// when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_ms: Option<u64>,
    /// Begin of the URL, to which the host of the port is added: `https://sandboxes.example`. When
    /// absent, the address by which the request came; over a Unix socket, that of the daemon.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base: Option<String>,
}

/// A URL that was made.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct CreatedUrl {
    /// The URL. Everybody who has it reaches the port.
    pub url: String,
    /// When it ends, in milliseconds since the Unix epoch, by the host's clock as it is set now.
    pub expires_at_ms: u64,
}

impl std::fmt::Debug for CreatedUrl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let url = self.url.split('?').next().unwrap_or_default();
        f.debug_struct("CreatedUrl")
            .field("url", &format_args!("{url}?.."))
            .field("expires_at_ms", &self.expires_at_ms)
            .finish()
    }
}
