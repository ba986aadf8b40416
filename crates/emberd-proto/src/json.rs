//! Checks untrusted JSON against limits before it is parsed.
//!
//! Parsed JSON takes many times the memory of its text, so a limit on the text does not limit it.
//! These limits do. The check reads each byte once and allocates nothing. It does not check
//! whether the text is valid JSON.

/// Limits of JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct JsonLimits {
    /// Maximum depth of arrays and objects.
    pub depth_max: usize,
    /// Maximum number of values and names.
    pub values_max: usize,
    /// Maximum length of a number, in bytes.
    pub number_bytes_max: usize,
}

/// A limit that JSON breaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum JsonExcess {
    /// Arrays and objects are nested too deep.
    #[error("arrays and objects are nested more than {0} levels deep")]
    Depth(usize),
    /// There are too many values.
    #[error("the document has more than {0} values and names")]
    Values(usize),
    /// A number is too long.
    #[error("a number is longer than {0} bytes")]
    Number(usize),
}

/// The lexical state at a byte.
#[derive(Clone, Copy, PartialEq, Eq)]
enum At {
    Value,
    Text,
    /// After a backslash.
    Escape,
}

/// Checks `json` against `limits`.
///
/// # Errors
/// The first limit that is broken.
pub fn check(json: &[u8], limits: JsonLimits) -> Result<(), JsonExcess> {
    let (mut at, mut depth, mut values, mut number_bytes) = (At::Value, 0_usize, 1, 0);
    for byte in json {
        at = match (at, byte) {
            (At::Text, b'\\') => At::Escape,
            (At::Value, b'"') | (At::Escape, _) => At::Text,
            (At::Text, b'"') => At::Value,
            (at, _) => at,
        };
        if at != At::Value {
            number_bytes = 0;
            continue;
        }
        match byte {
            b'0'..=b'9' | b'-' | b'+' | b'.' | b'e' | b'E' => number_bytes += 1,
            _ => number_bytes = 0,
        }
        if number_bytes > limits.number_bytes_max {
            return Err(JsonExcess::Number(limits.number_bytes_max));
        }
        match byte {
            b'{' | b'[' => depth += 1,
            b'}' | b']' => depth = depth.saturating_sub(1),
            _ => {}
        }
        values += usize::from(matches!(byte, b'{' | b'[' | b',' | b':'));
        if depth > limits.depth_max {
            return Err(JsonExcess::Depth(limits.depth_max));
        }
        if values > limits.values_max {
            return Err(JsonExcess::Values(limits.values_max));
        }
    }
    Ok(())
}

/// Makes `json`, in place, readable for every JSON reader, if it is valid: an unpaired surrogate
/// escape (`\ud800`) becomes U+FFFD, and a carriage return between values becomes a space, so
/// that it does not end a line of a protocol.
pub fn tame(json: &mut [u8]) {
    let (mut at, mut index) = (At::Value, 0);
    while index < json.len() {
        at = match (at, json[index]) {
            (At::Text, b'"') => At::Value,
            (At::Value, b'"') => At::Text,
            (At::Text, b'\\') => {
                index += tame_escape(&mut json[index..]);
                continue;
            }
            (At::Value, b'\r') => {
                json[index] = b' ';
                At::Value
            }
            (at, _) => at,
        };
        index += 1;
    }
}

/// Replaces the escape at the start of `json` if necessary, and returns its length in bytes.
fn tame_escape(json: &mut [u8]) -> usize {
    const ESCAPE_BYTES: usize = 6;
    match (unit(json), json.get(ESCAPE_BYTES..).and_then(unit)) {
        (Some(0xd800..=0xdbff), Some(0xdc00..=0xdfff)) => 2 * ESCAPE_BYTES,
        (Some(0xd800..=0xdfff), _) => {
            json[..ESCAPE_BYTES].copy_from_slice(br"\ufffd");
            ESCAPE_BYTES
        }
        // Any escaped character is not the end of a string.
        _ => 2,
    }
}

/// Returns the UTF-16 unit of the escape at the start of `json`.
fn unit(json: &[u8]) -> Option<u16> {
    let digits = json.strip_prefix(br"\u")?.get(..4)?;
    let digits = std::str::from_utf8(digits).ok()?;
    digits.bytes().all(|byte| byte.is_ascii_hexdigit()).then_some(())?;
    u16::from_str_radix(digits, 16).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;

    const LIMITS: JsonLimits = JsonLimits { depth_max: 3, values_max: 8, number_bytes_max: 5 };

    fn tamed(json: &str) -> String {
        let mut bytes = json.as_bytes().to_vec();
        tame(&mut bytes);
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn limits_are_held_where_they_are() {
        for (json, expect) in [
            ("", Ok(())),
            ("[[[]]]", Ok(())),
            ("[[[[]]]]", Err(JsonExcess::Depth(3))),
            (r#"{"a":{"b":[{}]}}"#, Err(JsonExcess::Depth(3))),
            (r#"["[[[[[[,,,,,,,,1234567890"]"#, Ok(())),
            (r#"["\"[[[[","\\"]"#, Ok(())),
            (r#"["\\",[[[]]]]"#, Err(JsonExcess::Depth(3))),
            ("[1,2,3,4,5,6,7]", Ok(())),
            ("[1,2,3,4,5,6,7,8]", Err(JsonExcess::Values(8))),
            (r#"{"a":1,"b":2,"c":3,"d":4}"#, Err(JsonExcess::Values(8))),
            ("12345", Ok(())),
            ("[123456]", Err(JsonExcess::Number(5))),
            ("-1.e+5", Err(JsonExcess::Number(5))),
            // Invalid JSON must not cause a panic.
            ("]]]]}}}}", Ok(())),
            ("\"", Ok(())),
            ("\"\\", Ok(())),
        ] {
            assert_eq!(check(json.as_bytes(), LIMITS), expect, "{json}");
        }
    }

    #[test]
    fn half_a_character_becomes_a_whole_one_and_nothing_else_does() {
        for (json, expect) in [
            (r#""\ud800""#, r#""\ufffd""#),
            (r#""\udc00\ud800x""#, r#""\ufffd\ufffdx""#),
            (r#""\uD83D\uDE00""#, r#""\uD83D\uDE00""#),
            (r#""\ud83d\ud83d\ude00""#, r#""\ufffd\ud83d\ude00""#),
            (r#""\\ud800""#, r#""\\ud800""#),
            (r#""\\\ud800""#, r#""\\\ufffd""#),
            (r#""\u00e9\"\ud800""#, r#""\u00e9\"\ufffd""#),
            (r#""\ud8""#, r#""\ud8""#),
            (r"\ud800", r"\ud800"),
            ("[\r\"\r\",\r]", "[ \"\r\", ]"),
            ("\"\\", "\"\\"),
        ] {
            assert_eq!(tamed(json), expect, "{json}");
        }
    }

    /// Returns random JSON, and its depth.
    fn any_tree() -> impl Strategy<Value = (Value, usize)> {
        let leaf = prop_oneof![
            any::<i32>().prop_map(|number| (Value::from(number), 0)),
            any::<String>().prop_map(|text| (Value::from(text), 0)),
        ];
        leaf.prop_recursive(5, 32, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(|items| {
                    let depth = items.iter().map(|(_, depth)| *depth).max().unwrap_or(0);
                    (items.into_iter().map(|(value, _)| value).collect(), depth + 1)
                }),
                prop::collection::vec((any::<String>(), inner), 0..4).prop_map(|items| {
                    let items: std::collections::BTreeMap<_, _> = items.into_iter().collect();
                    let depth = items.values().map(|(_, depth)| *depth).max().unwrap_or(0);
                    let members = items.into_iter().map(|(name, (value, _))| (name, value));
                    (Value::Object(members.collect()), depth + 1)
                }),
            ]
        })
    }

    proptest! {
        #[test]
        fn depth_is_that_of_the_tree((tree, depth) in any_tree()) {
            let json = tree.to_string();
            let limits = |depth_max| JsonLimits {
                depth_max, values_max: usize::MAX, number_bytes_max: 16,
            };
            prop_assert_eq!(check(json.as_bytes(), limits(depth)), Ok(()));
            if depth > 0 {
                prop_assert!(check(json.as_bytes(), limits(depth - 1)).is_err());
            }
        }

        #[test]
        fn taming_changes_no_tree((tree, _) in any_tree()) {
            let json = tree.to_string();
            prop_assert_eq!(serde_json::from_str::<Value>(&tamed(&json)).unwrap(), tree);
        }

        #[test]
        fn what_is_tame_can_be_read(units in prop::collection::vec(any::<u16>(), 0..8)) {
            let escapes: Vec<_> = units.iter().map(|unit| format!("\\u{unit:04x}")).collect();
            let json = format!("\"{}\"", escapes.concat());
            let text: String = serde_json::from_str(&tamed(&json)).unwrap();
            prop_assert_eq!(text, String::from_utf16_lossy(&units));
        }

        #[test]
        fn any_bytes_are_survived(mut bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            let length = bytes.len();
            let _outcome = check(&bytes, LIMITS);
            tame(&mut bytes);
            prop_assert_eq!(bytes.len(), length);
        }
    }
}
