//! JSON of callers: measured before it is read, so that little text cannot become many values.

use std::fmt;

use emberd_proto::json::{self, JsonExcess, JsonLimits};
use serde::de::DeserializeOwned;

/// What a text may be made of: as deep as `serde_json` goes, which it keeps to only where it does
/// not skip, and several times the values, names among them, that any body needs. Each becomes
/// tens of bytes.
pub const LIMITS: JsonLimits =
    JsonLimits { depth_max: 128, values_max: 16_384, number_bytes_max: 64 };

/// Why a text was not read.
#[derive(Debug)]
pub enum Unread {
    /// It is over a limit.
    Excess(JsonExcess),
    /// It is not JSON, or not what is to be read.
    Wrong(serde_json::Error),
}

impl fmt::Display for Unread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Excess(JsonExcess::Depth(most)) => write!(f, "it is nested over {most} deep"),
            Self::Excess(JsonExcess::Values(most)) => write!(f, "it has over {most} values"),
            Self::Excess(JsonExcess::Number(most)) => {
                write!(f, "it has a number of over {most} bytes")
            }
            Self::Wrong(error) => error.fmt(f),
        }
    }
}

/// What `text` says.
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
        check(&nested(LIMITS.depth_max + 1), "it is nested over 128 deep");
        check(&nested(1 << 20), "it is nested over 128 deep");
        check(&format!("{{\"x\":{}}}", nested(LIMITS.depth_max)), "it is nested over 128 deep");
    }

    #[test]
    fn values_are_limited() {
        let list = |item: &str, count: usize| format!("[{}]", vec![item; count].join(","));
        check(&list("0", LIMITS.values_max - 2), "read");
        for item in ["0", "[]", "{}", "\"\"", "{\"\":0}"] {
            check(&list(item, LIMITS.values_max), "it has over 16384 values");
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
