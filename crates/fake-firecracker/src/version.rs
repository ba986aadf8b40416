//! The Firecracker version that the double emulates, and its features.
//!
//! Firecracker's CHANGELOG documents when a field, a call or a snapshot format was added.

use std::fmt;
use std::str::FromStr;

/// A version; a version with a suffix (`1.17.0-dev`) counts as its release.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Version {
    number: (u32, u32, u32),
    text: String,
}

/// The default version.
pub const VERSION_DEFAULT: &str = "1.16.2";

/// The text is not a version.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a version such as 1.16.2")]
pub struct VersionError(String);

impl FromStr for Version {
    type Err = VersionError;

    fn from_str(text: &str) -> Result<Self, VersionError> {
        let release = text.split_once('-').map_or(text, |(release, _)| release);
        let mut parts = release.split('.').map(str::parse);
        match (parts.next(), parts.next(), parts.next(), parts.next()) {
            (Some(Ok(major)), Some(Ok(minor)), Some(Ok(patch)), None) => {
                Ok(Self { number: (major, minor, patch), text: text.to_owned() })
            }
            _ => Err(VersionError(text.to_owned())),
        }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Version {
    /// Returns whether this is `major.minor` or later.
    pub fn since(&self, major: u32, minor: u32) -> bool {
        self.number >= (major, minor, 0)
    }

    /// Returns the format of the snapshots that this version writes, which is the only one it
    /// loads.
    ///
    /// reference §1.6. 1.16.2 is known to refuse snapshots of 1.16.1, but the name of its own
    /// format is not known; the double uses that of the next minor version.
    pub fn snapshot_format(&self) -> &'static str {
        match self.number {
            (1, ..=14, _) => "8.0.0",
            (1, 15, _) => "9.0.0",
            (1, 16, ..=1) => "10.0.0",
            _ => "11.0.0",
        }
    }

    /// Returns whether the guest's vsock stops working permanently after a pause and resume
    /// without a snapshot in between.
    ///
    /// reference §1.6: 1.16.0 and 1.16.1, firecracker issues 6074 and 6100.
    pub fn bare_resume_deafens(&self) -> bool {
        matches!(self.number, (1, 16, 0 | 1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_parse_and_compare_by_number() {
        let version: Version = "1.17.0-dev".parse().unwrap();
        assert_eq!(version.to_string(), "1.17.0-dev");
        assert!(version.since(1, 9) && version.since(1, 17) && !version.since(1, 18));
        for wrong in ["", "1.16", "1.16.2.1", "v1.16.2", "1.x.2"] {
            assert_eq!(wrong.parse::<Version>(), Err(VersionError(wrong.to_owned())));
        }
    }

    #[test]
    fn snapshot_formats_change_where_snapshots_stop_loading() {
        let format = |text: &str| text.parse::<Version>().unwrap().snapshot_format();
        assert_eq!(
            ["1.14.4", "1.15.1", "1.16.1", "1.16.2", "1.17.0-dev"].map(format),
            ["8.0.0", "9.0.0", "10.0.0", "11.0.0", "11.0.0"]
        );
    }
}
