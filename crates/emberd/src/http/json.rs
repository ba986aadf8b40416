//! JSON of callers: measured before it is read, so that little text cannot become many values.

use std::fmt;

use serde::de::DeserializeOwned;

/// How deep arrays and objects may be nested: the limit of `serde_json`, which it keeps to only
/// where it does not skip.
pub const DEPTH_MAX: usize = 128;

/// Most values, names among them: several times what any body needs. Each becomes tens of bytes.
pub const VALUES_MAX: usize = 16_384;

/// Why a text was not read.
#[derive(Debug)]
pub enum Unread {
    /// It is nested too deep.
    Deep,
    /// It has too many values.
    Many,
    /// It is not JSON, or not what is to be read.
    Wrong(serde_json::Error),
}

impl fmt::Display for Unread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Deep => write!(f, "it is nested over {DEPTH_MAX} deep"),
            Self::Many => write!(f, "it has over {VALUES_MAX} values"),
            Self::Wrong(error) => error.fmt(f),
        }
    }
}

/// What `text` says.
pub fn parse<T: DeserializeOwned>(text: &[u8]) -> Result<T, Unread> {
    measure(text)?;
    serde_json::from_slice(text).map_err(Unread::Wrong)
}

/// Looks at what is outside of strings. Whether all of it is JSON is not looked at.
fn measure(text: &[u8]) -> Result<(), Unread> {
    let (mut depth, mut values) = (0_usize, 1_usize);
    let mut bytes = text.iter();
    while let Some(byte) = bytes.next() {
        match byte {
            b'"' => skip_string(&mut bytes),
            b'[' | b'{' => {
                (depth, values) = (depth + 1, values + 1);
                if depth > DEPTH_MAX {
                    return Err(Unread::Deep);
                }
            }
            b']' | b'}' => depth = depth.saturating_sub(1),
            b',' | b':' => values += 1,
            _ => {}
        }
        if values > VALUES_MAX {
            return Err(Unread::Many);
        }
    }
    Ok(())
}

/// Leaves `bytes` behind the end of the string they are in.
fn skip_string(bytes: &mut std::slice::Iter<'_, u8>) {
    while let Some(byte) = bytes.next() {
        match byte {
            b'"' => return,
            b'\\' => drop(bytes.next()),
            _ => {}
        }
    }
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
        check(&nested(DEPTH_MAX - 1), "read");
        check(&nested(DEPTH_MAX + 1), "it is nested over 128 deep");
        check(&nested(1 << 20), "it is nested over 128 deep");
        check(&format!("{{\"x\":{}}}", nested(DEPTH_MAX)), "it is nested over 128 deep");
    }

    #[test]
    fn values_are_limited() {
        let list = |item: &str, count: usize| format!("[{}]", vec![item; count].join(","));
        check(&list("0", VALUES_MAX - 2), "read");
        for item in ["0", "[]", "{}", "\"\"", "{\"\":0}"] {
            check(&list(item, VALUES_MAX), "it has over 16384 values");
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
