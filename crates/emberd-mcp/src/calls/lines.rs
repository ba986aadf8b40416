//! The lines of a file, out of bytes that arrive piece by piece.

use crate::text::clean;

/// Longest line that is shown, in bytes; of longer ones the rest is left out.
const LINE_BYTES_MAX: usize = 4_000;

/// Numbered lines of a file, from one on, up to a number and a size.
#[derive(Debug)]
pub struct Lines {
    /// Number of the first line that is wanted.
    offset: usize,
    limit: usize,
    chars_max: usize,
    line: Vec<u8>,
    /// Number of the line that is read.
    number: usize,
    /// The lines so far.
    pub text: String,
    chars: usize,
    /// Number of the first line that has no room; none as long as there is room.
    pub next: Option<usize>,
}

impl Lines {
    /// At most `limit` lines from number `offset` on, of at most `chars_max` characters.
    pub fn new(offset: usize, limit: usize, chars_max: usize) -> Self {
        let (line, text) = Default::default();
        Self { offset, limit, chars_max, line, number: 1, text, chars: 0, next: None }
    }

    /// Adds bytes; `false` once no more are needed.
    pub fn push(&mut self, bytes: &[u8]) -> bool {
        for part in bytes.split_inclusive(|byte| *byte == b'\n') {
            if self.number >= self.offset && self.line.len() <= LINE_BYTES_MAX {
                self.line.extend_from_slice(part);
            }
            if part.ends_with(b"\n") && !self.end_line() {
                return false;
            }
        }
        true
    }

    /// Ends the last line.
    pub fn finish(&mut self) {
        if !self.line.is_empty() && self.next.is_none() {
            self.end_line();
        }
    }

    /// Number of lines that were read.
    pub fn read(&self) -> usize {
        self.number - 1
    }

    fn end_line(&mut self) -> bool {
        if self.number >= self.offset {
            let cut = self.line.len() > LINE_BYTES_MAX;
            let bytes = &self.line[..self.line.len().min(LINE_BYTES_MAX)];
            let line = clean(&String::from_utf8_lossy(bytes));
            let end = if cut { " [line cut]" } else { "" };
            let line = format!("{:>6}\t{}{end}\n", self.number, line.trim_end_matches('\n'));
            let chars = line.chars().count();
            let is_full = self.number >= self.offset.saturating_add(self.limit);
            let has_some = !self.text.is_empty();
            if is_full || (has_some && self.chars + chars > self.chars_max) {
                self.next = Some(self.number);
                return false;
            }
            self.chars += chars;
            self.text.push_str(&line);
        }
        self.line.clear();
        self.number += 1;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(
        text: &[u8],
        offset: usize,
        limit: usize,
        chars_max: usize,
    ) -> (String, Option<usize>) {
        let mut whole = Lines::new(offset, limit, chars_max);
        if whole.push(text) {
            whole.finish();
        }
        let mut pieces = Lines::new(offset, limit, chars_max);
        if text.iter().all(|byte| pieces.push(&[*byte])) {
            pieces.finish();
        }
        assert_eq!((&whole.text, whole.next), (&pieces.text, pieces.next));
        (whole.text, whole.next)
    }

    #[test]
    fn lines_are_numbered_and_limited() {
        let text = b"one\ntwo\r\nthree";
        assert_eq!(
            lines(text, 1, 9, 99),
            ("     1\tone\n     2\ttwo\n     3\tthree\n".into(), None)
        );
        assert_eq!(lines(text, 2, 1, 99), ("     2\ttwo\n".into(), Some(3)));
        assert_eq!(lines(text, 1, 9, 12), ("     1\tone\n".into(), Some(2)));
        assert_eq!(lines(text, 4, 9, 99), (String::new(), None));
        assert_eq!(lines(b"", 1, 9, 99), (String::new(), None));
        let (long, next) = lines(&[b'x'; 10_000], 1, 9, 99);
        assert!(long.ends_with("x [line cut]\n") && next.is_none());
        assert_eq!(lines(b"a\xff\x1b[1mb\n", 1, 1, 99).0, "     1\ta\u{fffd}b\n");
    }
}
