//! The names of sandboxes: `sb_`, a node key and 12 hexadecimal digits.

use std::fmt;
use std::str::FromStr;

use data_encoding::HEXLOWER;

const PREFIX: &str = "sb_";
const RANDOM_BYTES: usize = 6;

/// Key of one daemon, which the ids of its sandboxes carry: 0 to 4 of `a-z` and `0-9`.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeKey {
    /// The characters, in ASCII, then zeros.
    bytes: [u8; Self::BYTES_MAX],
}

impl NodeKey {
    /// Most bytes of a key.
    pub const BYTES_MAX: usize = 4;

    /// The key as text.
    ///
    /// # Panics
    /// Never: a key is ASCII.
    pub fn as_str(&self) -> &str {
        let length = self.bytes.iter().position(|byte| *byte == 0).unwrap_or(Self::BYTES_MAX);
        std::str::from_utf8(&self.bytes[..length]).expect("a key is ASCII")
    }
}

impl fmt::Debug for NodeKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

/// The text is not 0 to 4 of `a-z` and `0-9`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a node key must be 0 to {} characters of a-z and 0-9", NodeKey::BYTES_MAX)]
pub struct NodeKeyError;

impl FromStr for NodeKey {
    type Err = NodeKeyError;

    fn from_str(text: &str) -> Result<Self, NodeKeyError> {
        let plain = text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
        let mut bytes = [0; Self::BYTES_MAX];
        let place = bytes.get_mut(..text.len()).filter(|_| plain).ok_or(NodeKeyError)?;
        place.copy_from_slice(text.as_bytes());
        Ok(Self { bytes })
    }
}

/// Identity of one sandbox; random, so that ids of different runs do not collide.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SandboxId {
    node_key: NodeKey,
    random: [u8; RANDOM_BYTES],
}

impl SandboxId {
    /// A fresh random id without a key.
    ///
    /// # Panics
    /// When the kernel has no randomness to give.
    pub fn random() -> Self {
        Self::with_key(NodeKey::default())
    }

    /// A fresh random id with the key of its daemon.
    ///
    /// # Panics
    /// When the kernel has no randomness to give.
    pub fn with_key(node_key: NodeKey) -> Self {
        Self { node_key, random: random() }
    }

    /// The key of the daemon that made the sandbox; empty if that has none.
    pub fn node_key(self) -> NodeKey {
        self.node_key
    }
}

impl fmt::Display for SandboxId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let key = self.node_key.as_str();
        write!(f, "{PREFIX}{key}{}", HEXLOWER.encode_display(&self.random))
    }
}

impl fmt::Debug for SandboxId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The text is not `sb_`, a node key and 12 lower-case hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a sandbox id must be `sb_`, at most 4 of a-z and 0-9, and 12 hexadecimal digits")]
pub struct SandboxIdError;

impl FromStr for SandboxId {
    type Err = SandboxIdError;

    fn from_str(text: &str) -> Result<Self, SandboxIdError> {
        let rest = text.strip_prefix(PREFIX).ok_or(SandboxIdError)?;
        // The last digits are the random ones, whatever key precedes them.
        let key_bytes = rest.len().checked_sub(2 * RANDOM_BYTES).ok_or(SandboxIdError)?;
        let (key, digits) = rest.split_at_checked(key_bytes).ok_or(SandboxIdError)?;
        let node_key = key.parse().map_err(|_| SandboxIdError)?;
        // One spelling per id: upper-case digits are refused.
        let mut random = [0; RANDOM_BYTES];
        HEXLOWER.decode_mut(digits.as_bytes(), &mut random).map_err(|_| SandboxIdError)?;
        Ok(Self { node_key, random })
    }
}

fn random() -> [u8; RANDOM_BYTES] {
    let mut bytes = [0; RANDOM_BYTES];
    getrandom::fill(&mut bytes).expect("the kernel gives random bytes");
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_round_trip() {
        for key in ["", "a", "0", "eu1", "beef", "zzzz"] {
            let node_key: NodeKey = key.parse().unwrap();
            let id = SandboxId::with_key(node_key);
            let text = id.to_string();
            assert_eq!(text.parse(), Ok(id));
            assert_eq!(id.node_key().as_str(), key);
            assert!(text.starts_with(&format!("sb_{key}")) && text.len() == 15 + key.len());
        }
        let id = SandboxId::random();
        assert_eq!(id.to_string().parse(), Ok(id));
        assert_eq!("sb_00ff1234abcd".parse::<SandboxId>().unwrap().to_string(), "sb_00ff1234abcd");
    }

    #[test]
    fn anything_else_is_refused() {
        for text in [
            "",
            "sb_",
            "sb_00ff1234abc",
            "sb_0000000ff1234abcd",
            "sb_00FF1234abcd",
            "xx_00ff1234abcd",
            "sb_E00ff1234abcd",
            "sb_e-00ff1234abcd",
            "sb_e\x0000ff1234abcd",
            "sb_00ff1234abcdx",
        ] {
            assert_eq!(text.parse::<SandboxId>(), Err(SandboxIdError), "{text}");
        }
        assert_eq!("sb_../../../..".parse::<SandboxId>(), Err(SandboxIdError));
        for text in ["sb_éééééé", "sb_é00ff1234abcd", "sb_éééééé00"] {
            assert_eq!(text.parse::<SandboxId>(), Err(SandboxIdError));
        }
    }

    #[test]
    fn node_keys_are_short_and_plain() {
        for text in ["abcde", "A", "-", "é", "a b", "\0", "a\0"] {
            assert_eq!(text.parse::<NodeKey>(), Err(NodeKeyError), "{text:?}");
        }
        assert_eq!("".parse(), Ok(NodeKey::default()));
    }
}
