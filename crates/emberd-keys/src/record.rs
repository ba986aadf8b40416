//! A key as it is kept.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::limits::KeyLimits;
use crate::scope::{Role, Scope, ScopeSet};
use crate::secret::{Digest, Form, KeyId};

/// Longest name of a key, in bytes.
const NAME_BYTES_MAX: usize = 64;

/// One key. Fields that a version does not know make the file unreadable to it: what they limit
/// would not be limited.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeyRecord {
    /// Identity, which stays when the secret is replaced.
    pub id: KeyId,
    /// Name that its creator gave it; no other key has the same.
    pub name: KeyName,
    /// How the secret is written.
    #[serde(default)]
    pub form: Form,
    /// SHA-256 of the secret.
    pub sha256: Digest,
    /// Its role, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<Role>,
    /// Scopes beside those of the role.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub scopes: Vec<Scope>,
    /// The most that it may use.
    #[serde(default, skip_serializing_if = "KeyLimits::is_none")]
    pub limits: KeyLimits,
    /// When it was created, in milliseconds since the Unix epoch.
    pub created_at_ms: u64,
    /// When its secret was last replaced, likewise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rotated_at_ms: Option<u64>,
    /// When it ends, likewise; never if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at_ms: Option<u64>,
}

impl KeyRecord {
    /// Everything that the key permits.
    pub fn permitted(&self) -> ScopeSet {
        let role = self.role.map(Role::scopes).unwrap_or_default();
        role.and(self.scopes.iter().copied().collect())
    }

    /// Whether it has ended at `now_ms`.
    pub fn is_expired(&self, now_ms: u64) -> bool {
        self.expires_at_ms.is_some_and(|at_ms| at_ms <= now_ms)
    }
}

/// Name of a key: 1 to 64 letters, digits and `._@-`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String")]
pub struct KeyName(String);

impl KeyName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The text is not the name of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the name of a key is 1 to {NAME_BYTES_MAX} of a-z, A-Z, 0-9, `.`, `_`, `@` and `-`")]
pub struct KeyNameError;

impl TryFrom<String> for KeyName {
    type Error = KeyNameError;

    fn try_from(text: String) -> Result<Self, KeyNameError> {
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._@-".contains(&byte);
        let fits = (1..=NAME_BYTES_MAX).contains(&text.len());
        if fits && text.bytes().all(is_plain) { Ok(Self(text)) } else { Err(KeyNameError) }
    }
}

impl FromStr for KeyName {
    type Err = KeyNameError;

    fn from_str(text: &str) -> Result<Self, KeyNameError> {
        text.to_owned().try_into()
    }
}

impl fmt::Display for KeyName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_plain() {
        for name in ["a", "ci@build-7.example_X", &"x".repeat(NAME_BYTES_MAX)] {
            assert_eq!(name.parse::<KeyName>().unwrap().as_str(), name);
        }
        for name in ["", "a b", "a\n", "ä", "a/b", &"x".repeat(NAME_BYTES_MAX + 1)] {
            assert_eq!(name.parse::<KeyName>(), Err(KeyNameError), "{name}");
        }
    }
}
