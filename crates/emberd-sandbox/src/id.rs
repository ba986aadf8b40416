//! The names of sandboxes: `sb_` and 12 hexadecimal digits.

use std::fmt;
use std::str::FromStr;

const PREFIX: &str = "sb_";
const RANDOM_BYTES: usize = 6;

/// Identity of one sandbox; random, so that ids of different runs do not collide.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SandboxId([u8; RANDOM_BYTES]);

impl SandboxId {
    /// A fresh random id.
    ///
    /// # Panics
    /// When the kernel has no randomness to give.
    pub fn random() -> Self {
        Self(random())
    }
}

impl fmt::Display for SandboxId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        show(PREFIX, self.0, f)
    }
}

impl fmt::Debug for SandboxId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The text is not `sb_` and 12 lower-case hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a sandbox id is `sb_` and 12 hexadecimal digits")]
pub struct SandboxIdError;

impl FromStr for SandboxId {
    type Err = SandboxIdError;

    fn from_str(text: &str) -> Result<Self, SandboxIdError> {
        read(PREFIX, text).map(Self).ok_or(SandboxIdError)
    }
}

fn random() -> [u8; RANDOM_BYTES] {
    let mut bytes = [0; RANDOM_BYTES];
    getrandom::fill(&mut bytes).expect("the kernel gives random bytes");
    bytes
}

fn show(prefix: &str, bytes: [u8; RANDOM_BYTES], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    f.write_str(prefix)?;
    bytes.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
}

fn read(prefix: &str, text: &str) -> Option<[u8; RANDOM_BYTES]> {
    let digits = text.strip_prefix(prefix)?.as_bytes();
    let (pairs, []) = digits.as_chunks::<2>() else { return None };
    let pairs: &[[u8; 2]; RANDOM_BYTES] = pairs.try_into().ok()?;
    let mut bytes = [0; RANDOM_BYTES];
    for (byte, [high, low]) in bytes.iter_mut().zip(pairs) {
        *byte = digit(*high)? << 4 | digit(*low)?;
    }
    Some(bytes)
}

/// One spelling per id: upper-case digits are refused.
fn digit(character: u8) -> Option<u8> {
    match character {
        b'0'..=b'9' => Some(character - b'0'),
        b'a'..=b'f' => Some(character - b'a' + 10),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_round_trip() {
        let id = SandboxId::random();
        assert_eq!(id.to_string().parse(), Ok(id));
        assert_eq!("sb_00ff1234abcd".parse::<SandboxId>().unwrap().to_string(), "sb_00ff1234abcd");
    }

    #[test]
    fn anything_else_is_refused() {
        for text in
            ["", "sb_", "sb_00ff1234abc", "sb_00ff1234abcd0", "sb_00FF1234abcd", "xx_00ff1234abcd"]
        {
            assert_eq!(text.parse::<SandboxId>(), Err(SandboxIdError), "{text}");
        }
        assert_eq!("sb_../../../..".parse::<SandboxId>(), Err(SandboxIdError));
        assert_eq!("sb_éééééé".parse::<SandboxId>(), Err(SandboxIdError));
    }
}
