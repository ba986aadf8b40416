//! Sanitizes text from callers and guests for the log: control characters are escaped, and long
//! text is cut.

use std::borrow::Cow;
use std::fmt::{self, Write as _};
use std::io;

use serde_json::{Map, Value};

/// Longest line of JSON, in bytes (8 KiB). The strings of a longer one are cut.
pub const LINE_BYTES_MAX: usize = 8 << 10;

/// Longest string that is kept of such a line, in bytes.
const TEXT_BYTES_KEPT: usize = 256;

/// Returns `text`, or its first `bytes_max` bytes and its length if it is longer.
pub fn excerpt(text: &str, bytes_max: usize) -> Cow<'_, str> {
    if text.len() <= bytes_max {
        return Cow::Borrowed(text);
    }
    let mut end = bytes_max;
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    Cow::Owned(format!("{}… ({} bytes)", &text[..end], text.len()))
}

/// Whether `c` could control a terminal, end a line, or change the direction of text.
fn is_unsafe(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{2028}' | '\u{2029}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Writes text with control characters escaped, up to a number of bytes. It fails once there is
/// more, so that formatting stops.
pub struct Sanitizer<W> {
    to: W,
    left: usize,
    is_cut: bool,
}

impl<W: fmt::Write> Sanitizer<W> {
    pub fn new(to: W, bytes_max: usize) -> Self {
        Self { to, left: bytes_max, is_cut: false }
    }

    /// Marks text that was cut by `…`, and returns whether it could be written.
    pub fn finish(mut self, written: fmt::Result) -> fmt::Result {
        if self.is_cut { self.to.write_char('…') } else { written }
    }

    fn pass(&mut self, text: &str) -> fmt::Result {
        let mut end = text.len().min(self.left);
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        self.left -= end;
        self.to.write_str(&text[..end])?;
        if end == text.len() {
            return Ok(());
        }
        (self.is_cut, self.left) = (true, 0);
        Err(fmt::Error)
    }
}

impl<W: fmt::Write> fmt::Write for Sanitizer<W> {
    fn write_str(&mut self, mut text: &str) -> fmt::Result {
        while let Some(at) = text.find(is_unsafe) {
            self.pass(&text[..at])?;
            let mut rest = text[at..].chars();
            for escaped in rest.next().into_iter().flat_map(char::escape_default) {
                self.pass(escaped.encode_utf8(&mut [0; 4]))?;
            }
            text = rest.as_str();
        }
        self.pass(text)
    }
}

/// Writes lines of JSON, each as a whole. JSON escapes most control characters itself, and cannot
/// be cut at any byte.
pub struct JsonLines<W>(W);

impl JsonLines<io::Stderr> {
    pub fn stderr() -> Self {
        Self(io::stderr())
    }
}

impl<W: io::Write> io::Write for JsonLines<W> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if line.len() <= LINE_BYTES_MAX && line.is_ascii() {
            self.0.write_all(line)?;
        } else {
            self.0.write_all(sanitized(line).as_bytes())?;
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

/// Returns `line` without control characters, and with its strings cut if it is too long.
fn sanitized(line: &[u8]) -> String {
    let mut line = String::from_utf8_lossy(line).trim_end_matches('\n').to_owned();
    if line.len() > LINE_BYTES_MAX {
        let fields = serde_json::from_str::<Map<String, Value>>(&line).unwrap_or_default();
        let fields = fields.into_iter().map(|(name, value)| match value {
            Value::String(text) => (name, excerpt(&text, TEXT_BYTES_KEPT).into_owned().into()),
            Value::Array(_) | Value::Object(_) => {
                (name, excerpt(&value.to_string(), TEXT_BYTES_KEPT).into_owned().into())
            }
            value => (name, value),
        });
        line = Value::Object(fields.collect()).to_string();
    }
    let mut safe = String::with_capacity(line.len() + 1);
    for c in line.chars() {
        match c {
            c if is_unsafe(c) => write!(safe, "\\u{:04x}", u32::from(c)).unwrap_or_default(),
            c => safe.push(c),
        }
    }
    safe.push('\n');
    safe
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn an_excerpt_shows_how_long_the_text_was() {
        assert_eq!(excerpt("abc", 3), "abc");
        assert_eq!(excerpt("abcd", 3), "abc… (4 bytes)");
        assert_eq!(excerpt("aé", 2), "a… (3 bytes)");
    }

    #[track_caller]
    fn check(text: &str, bytes_max: usize, expect: &str) {
        let mut out = String::new();
        let mut sanitizer = Sanitizer::new(&mut out, bytes_max);
        let written = sanitizer.write_str(text);
        sanitizer.finish(written).unwrap();
        assert_eq!(out, expect);
    }

    #[test]
    fn control_characters_are_escaped() {
        check("a b — é", 99, "a b — é");
        check("one\ntwo\r\u{1b}[2J\u{9b}\0", 99, "one\\ntwo\\r\\u{1b}[2J\\u{9b}\\u{0}");
        check("a\u{202e}b\u{2028}", 99, "a\\u{202e}b\\u{2028}");
    }

    #[test]
    fn escapes_count_towards_the_length_of_a_text() {
        check("abcdef", 6, "abcdef");
        check("abcdef", 5, "abcde…");
        check("éé", 3, "é…");
        check("\n\n\n", 4, "\\n\\n…");
        check("", 0, "");
    }

    #[test]
    fn formatting_stops_where_the_text_is_cut() {
        struct Endless;
        impl fmt::Display for Endless {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                loop {
                    f.write_str("x")?;
                }
            }
        }
        let mut out = String::new();
        let mut sanitizer = Sanitizer::new(&mut out, 3);
        let written = write!(sanitizer, "{Endless}");
        sanitizer.finish(written).unwrap();
        assert_eq!(out, "xxx…");
    }

    #[test]
    fn a_line_of_json_stays_one_when_it_is_cut() {
        let mut out = Vec::new();
        let path = format!("\u{9b}{}", "A".repeat(60_000));
        let line = serde_json::json!({"level": "INFO", "status": 404, "path": path});
        JsonLines(&mut out).write_all(format!("{line}\n").as_bytes()).unwrap();
        let text = String::from_utf8(out).unwrap();
        assert!(text.len() < 1000 && text.ends_with("}\n") && !text.contains('\u{9b}'), "{text}");
        let fields: Map<String, Value> = serde_json::from_str(&text).unwrap();
        assert_eq!((&fields["status"], &fields["level"]), (&404.into(), &"INFO".into()));
        assert!(fields["path"].as_str().unwrap().ends_with("… (60002 bytes)"), "{text}");

        let mut out = Vec::new();
        let short = "{\"path\":\"a\u{85}\u{2028}b\"}\n";
        JsonLines(&mut out).write_all(short.as_bytes()).unwrap();
        assert_eq!(String::from_utf8(out).unwrap(), "{\"path\":\"a\\u0085\\u2028b\"}\n");
    }
}
