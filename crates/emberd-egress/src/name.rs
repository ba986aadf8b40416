//! Host names in the form in which they are compared: lower case, without a final dot.

use std::fmt;

use emberd_proto::egress::{EGRESS_LABEL_BYTES_MAX, EGRESS_NAME_BYTES_MAX};

/// A host name: lower case, no final dot, at most [`EGRESS_NAME_BYTES_MAX`] bytes of letters,
/// digits, hyphens and underscores in labels of at most [`EGRESS_LABEL_BYTES_MAX`]. Names in other
/// scripts are in their ASCII form (`xn--…`).
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Name(String);

/// A text that is not a host name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// The name or one of its labels is empty.
    #[error("a host name has no empty labels")]
    Empty,
    /// The name is too long.
    #[error("a host name has at most {EGRESS_NAME_BYTES_MAX} bytes")]
    TooLong,
    /// A label is too long.
    #[error("a label of a host name has at most {EGRESS_LABEL_BYTES_MAX} bytes")]
    LongLabel,
    /// A character is not allowed.
    #[error("a host name has ASCII letters, digits, `-` and `_` only; write others as `xn--…`")]
    Character,
    /// The text is an IP address, or would be read as one by resolvers.
    #[error("the host is a number, not a name")]
    Number,
}

impl Name {
    /// Parses a name as programs write it.
    ///
    /// # Errors
    /// [`NameError`].
    pub fn parse(text: &str) -> Result<Self, NameError> {
        let text = text.strip_suffix('.').unwrap_or(text);
        if text.len() > EGRESS_NAME_BYTES_MAX {
            return Err(NameError::TooLong);
        }
        for label in text.split('.') {
            check_label(label)?;
        }
        // Resolvers read a last label of digits, or of a hexadecimal number, as part of an IPv4
        // address: `0x7f.1` is 127.0.0.1. No top-level domain has that form.
        let last = text.rsplit('.').next().unwrap_or_default().to_ascii_lowercase();
        let is_hex = last
            .strip_prefix("0x")
            .is_some_and(|digits| digits.bytes().all(|byte| byte.is_ascii_hexdigit()));
        if is_hex || last.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(NameError::Number);
        }
        Ok(Self(text.to_ascii_lowercase()))
    }

    /// Returns the name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether the name is below `other`, at any depth.
    pub fn is_below(&self, other: &Self) -> bool {
        self.0.strip_suffix(&other.0).is_some_and(|before| before.ends_with('.'))
    }

    /// Returns the labels, the last first.
    pub(crate) fn labels_from_the_end(&self) -> impl Iterator<Item = &str> {
        self.0.rsplit('.')
    }
}

fn check_label(label: &str) -> Result<(), NameError> {
    if label.is_empty() {
        return Err(NameError::Empty);
    }
    if label.len() > EGRESS_LABEL_BYTES_MAX {
        return Err(NameError::LongLabel);
    }
    if label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_') {
        Ok(())
    } else {
        Err(NameError::Character)
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_compared_in_one_form() {
        for text in ["a.example", "A.Example", "a.example.", "A.EXAMPLE."] {
            assert_eq!(Name::parse(text).unwrap().as_str(), "a.example");
        }
        assert_eq!(Name::parse("xn--bcher-kva.example").unwrap().as_str(), "xn--bcher-kva.example");
    }

    #[test]
    fn other_texts_are_refused() {
        let long_label = format!("{}.example", "a".repeat(64));
        let long = vec!["a".repeat(63); 5].join(".");
        for (text, error) in [
            ("", NameError::Empty),
            (".", NameError::Empty),
            ("a..example", NameError::Empty),
            ("a.example..", NameError::Empty),
            (&long_label, NameError::LongLabel),
            (&long, NameError::TooLong),
            ("bücher.example", NameError::Character),
            ("a b", NameError::Character),
            ("a\0b", NameError::Character),
            ("a:443", NameError::Character),
            ("*.example", NameError::Character),
            ("127.0.0.1", NameError::Number),
            ("0x7f.1", NameError::Number),
            ("a.0X7f", NameError::Number),
            ("0x", NameError::Number),
            ("2130706433", NameError::Number),
        ] {
            assert_eq!(Name::parse(text), Err(error), "{text}");
        }
    }
}
