//! JSON of callers: checked against limits before it is read, so that a short text cannot become
//! many values.

use std::fmt;

use emberd_proto::json::{self, JsonExcess, JsonLimits};
use serde::de::DeserializeOwned;
use serde_ignored::Path;

/// Limits of a text: the depth of `serde_json`, which does not count the values that it skips, and
/// several times the values and names that any body needs. Each takes tens of bytes.
pub const LIMITS: JsonLimits =
    JsonLimits { depth_max: 128, values_max: 16_384, number_bytes_max: 64 };

/// Why a text cannot be read.
#[derive(Debug)]
pub enum Unread {
    /// The text is over a limit.
    Excess(JsonExcess),
    /// The text is not JSON, or not the type to read.
    Wrong(serde_json::Error),
}

impl fmt::Display for Unread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Excess(JsonExcess::Depth(most)) => {
                write!(f, "the body is nested more than {most} levels deep")
            }
            Self::Excess(JsonExcess::Values(most)) => {
                write!(f, "the body has more than {most} values")
            }
            Self::Excess(JsonExcess::Number(most)) => {
                write!(f, "the body has a number of more than {most} bytes")
            }
            Self::Wrong(error) => error.fmt(f),
        }
    }
}

/// Reads `text`, and calls `note` with the path of each field that a `T` does not have.
///
/// # Errors
/// [`Unread`]; some unknown fields may have been noted.
pub fn parse_noting<T: DeserializeOwned>(
    text: &[u8],
    note: impl FnMut(Path<'_>),
) -> Result<T, Unread> {
    json::check(text, LIMITS).map_err(Unread::Excess)?;
    let mut deserializer = serde_json::Deserializer::from_slice(text);
    let mut note = note;
    let read = serde_ignored::deserialize(&mut deserializer, &mut note);
    let read = read.map_err(Unread::Wrong)?;
    deserializer.end().map_err(Unread::Wrong)?;
    Ok(read)
}

/// Reads `text`.
///
/// # Errors
/// [`Unread`].
pub fn parse<T: DeserializeOwned>(text: &[u8]) -> Result<T, Unread> {
    json::check(text, LIMITS).map_err(Unread::Excess)?;
    serde_json::from_slice(text).map_err(Unread::Wrong)
}

#[cfg(test)]
mod tests {
    use serde::de::IgnoredAny;

    use super::*;

    #[track_caller]
    fn check(text: &str, expect: &str) {
        let read = parse::<IgnoredAny>(text.as_bytes());
        let read = read.map_or_else(|unread| unread.to_string(), |_| "read".to_owned());
        assert!(read.starts_with(expect), "{read}");
    }

    #[test]
    fn depth_is_limited_where_nothing_is_read_too() {
        let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        check(&nested(LIMITS.depth_max - 1), "read");
        check(&nested(LIMITS.depth_max + 1), "the body is nested more than 128 levels deep");
        check(&nested(1 << 20), "the body is nested more than 128 levels deep");
        check(
            &format!("{{\"x\":{}}}", nested(LIMITS.depth_max)),
            "the body is nested more than 128 levels deep",
        );
    }

    #[test]
    fn values_are_limited() {
        let list = |item: &str, count: usize| format!("[{}]", vec![item; count].join(","));
        check(&list("0", LIMITS.values_max - 2), "read");
        for item in ["0", "[]", "{}", "\"\"", "{\"\":0}"] {
            check(&list(item, LIMITS.values_max), "the body has more than 16384 values");
        }
    }

    #[test]
    fn what_is_in_strings_does_not_count() {
        let quoted = |text: &str| format!("[\"{}\"]", text.repeat(100_000));
        check(&quoted("[{,:"), "read");
        check(&quoted(r#"\"["#), "read");
        check(r#"["\\",[]]"#, "read");
        check(r#"["never ends[[[[,,,,"#, "EOF while parsing a string");
    }
}
