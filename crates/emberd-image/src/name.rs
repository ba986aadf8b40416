//! The name of a language pack.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Maximum length of a pack name, in bytes.
pub const PACK_NAME_BYTES_MAX: usize = 32;

/// Name of a language pack: `[a-z0-9][a-z0-9-]*`, at most 32 bytes.
///
/// Safe as a file name, in a URL and on a command line without quoting.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PackName(String);

/// The text is not a pack name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a pack name: 1 to 32 of a-z, 0-9 and `-`, the first a letter or a digit")]
pub struct PackNameError(String);

impl PackName {
    /// Returns the name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for PackName {
    type Error = PackNameError;

    fn try_from(name: String) -> Result<Self, PackNameError> {
        let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        let valid = (1..=PACK_NAME_BYTES_MAX).contains(&name.len())
            && name.bytes().all(allowed)
            && !name.starts_with('-');
        if valid { Ok(Self(name)) } else { Err(PackNameError(name)) }
    }
}

impl FromStr for PackName {
    type Err = PackNameError;

    fn from_str(name: &str) -> Result<Self, PackNameError> {
        Self::try_from(name.to_owned())
    }
}

impl From<PackName> for String {
    fn from(name: PackName) -> Self {
        name.0
    }
}

impl fmt::Display for PackName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_are_safe_everywhere_pass() {
        for name in ["a", "python", "node-22", "0", "3-11", &"x".repeat(32)] {
            assert_eq!(name.parse::<PackName>().unwrap().to_string(), name);
        }
    }

    #[test]
    fn everything_else_is_refused() {
        let long = "x".repeat(33);
        for name in ["", "-a", "A", "a_b", "a/b", "..", ".", "a b", "é", "a\n", "a\0", &long] {
            assert!(name.parse::<PackName>().is_err(), "{name:?}");
            let json = serde_json::to_string(name).unwrap();
            assert!(serde_json::from_str::<PackName>(&json).is_err(), "{name:?} as JSON");
        }
    }
}
