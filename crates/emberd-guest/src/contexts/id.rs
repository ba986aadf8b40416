//! The names of contexts: `ctx_` and 12 hexadecimal digits.

use std::fmt;
use std::str::FromStr;

use data_encoding::HEXLOWER;

use crate::random::random;

const PREFIX: &str = "ctx_";
const RANDOM_BYTES: usize = 6;

/// Identity of one context of a sandbox; random.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ContextId([u8; RANDOM_BYTES]);

impl ContextId {
    /// A fresh random id.
    ///
    /// # Panics
    /// When the kernel provides no randomness.
    pub fn random() -> Self {
        Self(random())
    }
}

impl fmt::Display for ContextId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PREFIX}{}", HEXLOWER.encode_display(&self.0))
    }
}

impl fmt::Debug for ContextId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The text is not `ctx_` and 12 lower-case hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a context id must be `ctx_` and 12 hexadecimal digits")]
pub struct ContextIdError;

impl FromStr for ContextId {
    type Err = ContextIdError;

    fn from_str(text: &str) -> Result<Self, ContextIdError> {
        let digits = text.strip_prefix(PREFIX).ok_or(ContextIdError)?;
        // One spelling per id: upper-case digits are refused.
        let bytes = HEXLOWER.decode(digits.as_bytes()).map_err(|_| ContextIdError)?;
        bytes.try_into().map(Self).map_err(|_| ContextIdError)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_round_trip() {
        let id = ContextId::random();
        assert_eq!(id.to_string().parse(), Ok(id));
        assert_eq!(
            "ctx_00ff1234abcd".parse::<ContextId>().unwrap().to_string(),
            "ctx_00ff1234abcd"
        );
    }

    #[test]
    fn anything_else_is_refused() {
        let texts = [
            "",
            "ctx_",
            "ctx_00ff1234abc",
            "ctx_00ff1234abcd0",
            "ctx_00FF1234abcd",
            "ctx_+0ff1234abcd",
            "sb_00ff1234abcd",
            "ctx_éééééé",
        ];
        for text in texts {
            assert_eq!(text.parse::<ContextId>(), Err(ContextIdError), "{text}");
        }
    }
}
