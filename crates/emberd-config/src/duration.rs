//! Durations as people write them: `500ms`, `90s`, `5m`, `1h 30m`, `2d`.

use std::time::Duration;

/// Parses one or more whole numbers with units; a number alone is in seconds.
///
/// # Errors
/// A phrase that says what is expected.
pub fn parse(text: &str) -> Result<Duration, String> {
    let seconds = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let parsed = if seconds {
        text.parse().ok().map(Duration::from_secs)
    } else {
        humantime::parse_duration(text).ok()
    };
    parsed.ok_or_else(|| "a duration such as 500ms, 90s, 5m, 1h or 2d".to_owned())
}

/// Writes `duration` so that [`parse`] reads it back.
pub fn text(duration: Duration) -> String {
    humantime::format_duration(duration).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_unit_is_read_and_anything_else_is_refused() {
        let cases = [
            ("500ms", Some(500)),
            ("10s", Some(10_000)),
            ("10", Some(10_000)),
            ("2m", Some(120_000)),
            ("1h", Some(3_600_000)),
            ("1h 30m", Some(5_400_000)),
            ("2d", Some(172_800_000)),
            ("", None),
            ("s", None),
            ("-1s", None),
            ("soon", None),
            ("99999999999999999999", None),
            ("18446744073709551615h", None),
        ];
        for (input, milliseconds) in cases {
            let parsed = parse(input).ok();
            assert_eq!(parsed, milliseconds.map(Duration::from_millis), "{input:?}");
            let again = parsed.map(|duration| parse(&text(duration)).unwrap());
            assert_eq!(again, parsed, "{input:?}");
        }
    }
}
