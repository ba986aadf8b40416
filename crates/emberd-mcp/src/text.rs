//! Text of a guest, as a model may read it: without control characters, cut to a size, and fenced.
//!
//! ```text
//! pieces of output ─▶ Cleaner ─▶ Kept: its beginning and its end ─▶ cut to a budget ─▶ fence
//! ```

use anstyle_parse::{Parser, Perform};

/// Longest beginning that is kept of an output, in bytes (288 KiB): a third of
/// [`OUTPUT_CHARS_MAX`] in characters of four bytes.
const HEAD_BYTES_MAX: usize = 288 << 10;

/// Longest end that is kept of an output, in bytes (576 KiB): two thirds of it.
const TAIL_BYTES_MAX: usize = 576 << 10;

/// Longest line that waits for its end, in bytes (4 KiB): a carriage return takes it back.
const LINE_BYTES_MAX: usize = 4 << 10;

/// Most characters of text in one answer, unless a call asks for more.
pub const OUTPUT_CHARS: usize = 24_000;

/// Most characters of text that a call may ask for.
pub const OUTPUT_CHARS_MAX: usize = 200_000;

/// Takes the control characters and the escape sequences of terminals out of text that arrives
/// piece by piece. Of a line that was written again and again, as bars of progress are, the last
/// state stays.
#[derive(Debug, Default)]
pub struct Cleaner {
    escapes: Parser,
    line: Line,
}

/// A line that has no end yet.
#[derive(Debug, Default)]
struct Line {
    text: String,
    /// Whether a carriage return came last, so that the next character begins the line again.
    returned: bool,
}

impl Cleaner {
    /// Adds `piece` to `kept`.
    pub fn push(&mut self, piece: &str, kept: &mut Kept) {
        let mut shown = Shown { line: &mut self.line, kept };
        for byte in piece.bytes() {
            self.escapes.advance(&mut shown, byte);
        }
    }

    /// Adds the line that has no end.
    pub fn finish(self, kept: &mut Kept) {
        kept.push(&self.line.text);
    }

    /// The line that has no end yet.
    pub fn line(&self) -> &str {
        &self.line.text
    }
}

/// Takes what a terminal would show.
struct Shown<'a> {
    line: &'a mut Line,
    kept: &'a mut Kept,
}

impl Shown<'_> {
    fn end(&mut self) {
        self.kept.push(&self.line.text);
        self.line.text.clear();
    }
}

impl Perform for Shown<'_> {
    fn print(&mut self, character: char) {
        if is_hidden(character) {
            return;
        }
        if std::mem::take(&mut self.line.returned) {
            self.line.text.clear();
        }
        self.line.text.push(character);
        if self.line.text.len() >= LINE_BYTES_MAX {
            self.end();
        }
    }

    fn execute(&mut self, byte: u8) {
        match byte {
            b'\r' => self.line.returned = true,
            b'\n' => {
                self.line.returned = false;
                self.line.text.push('\n');
                self.end();
            }
            b'\t' => self.print('\t'),
            _ => {}
        }
    }
}

/// Whether a character shows nothing, or changes how others are shown: control characters, marks
/// of direction, and the tags that can hide a text in another one.
fn is_hidden(character: char) -> bool {
    (character.is_control() && character != '\t')
        || matches!(character,
            '\u{200b}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{2069}' | '\u{feff}' | '\u{e0000}'..='\u{e007f}')
}

/// `text` without control characters.
pub fn clean(text: &str) -> String {
    let (mut cleaner, mut kept) = (Cleaner::default(), Kept::default());
    cleaner.push(text, &mut kept);
    cleaner.finish(&mut kept);
    kept.all().0
}

/// `text` as a part of one line: without line feeds too, and at most `chars_max` characters.
pub fn one_line(text: &str, chars_max: usize) -> String {
    let text = text.chars().map(|character| if character == '\n' { ' ' } else { character });
    text.filter(|character| !is_hidden(*character)).take(chars_max).collect()
}

/// The beginning and the end of a text of any length.
#[derive(Debug, Default)]
pub struct Kept {
    head: String,
    tail: String,
    /// Number of characters in all.
    chars: usize,
    /// Number of bytes between head and tail that are not kept.
    lost: usize,
}

impl Kept {
    /// Adds text.
    pub fn push(&mut self, text: &str) {
        self.chars += text.chars().count();
        let mut text = text;
        if self.tail.is_empty() {
            let room = HEAD_BYTES_MAX.saturating_sub(self.head.len());
            let (fits, rest) = text.split_at(floor(text, room));
            self.head.push_str(fits);
            text = rest;
        }
        self.tail.push_str(text);
        // Twice the size, so that each byte is moved once at most.
        if self.tail.len() > 2 * TAIL_BYTES_MAX {
            let start = ceil(&self.tail, self.tail.len() - TAIL_BYTES_MAX);
            self.tail.drain(..start);
            self.lost += start;
        }
    }

    /// Number of characters in all.
    pub fn chars(&self) -> usize {
        self.chars
    }

    /// All that is kept, and whether that is not all.
    pub fn all(&self) -> (String, bool) {
        let Self { head, tail, lost, .. } = self;
        match lost {
            0 => (format!("{head}{tail}"), false),
            _ => (format!("{head}\n[... {lost} bytes are not kept ...]\n{tail}"), true),
        }
    }

    /// The text, or its beginning and its end, within `budget` characters of it: one third from
    /// the beginning, two thirds from the end. `budget` is at most [`OUTPUT_CHARS_MAX`].
    pub fn cut(&self, budget: usize) -> Cut {
        if self.chars <= budget {
            return Cut { text: format!("{}{}", self.head, self.tail), left_out: 0 };
        }
        let (first, last) = (budget / 3, budget - budget / 3);
        let begin: String = self.head.chars().take(first).collect();
        let both = self.tail.chars().rev().chain(self.head.chars().rev());
        let end: Vec<char> = both.take(last).collect();
        let end: String = end.into_iter().rev().collect();
        let left_out = self.chars - budget;
        Cut { text: format!("{begin}\n[... {left_out} characters left out ...]\n{end}"), left_out }
    }
}

/// A text that may have been cut.
#[derive(Debug, PartialEq, Eq)]
pub struct Cut {
    /// The text.
    pub text: String,
    /// Number of characters that were left out.
    pub left_out: usize,
}

/// The largest place in `text` up to `index` where it can be split.
fn floor(text: &str, index: usize) -> usize {
    (0..=index.min(text.len())).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0)
}

/// The smallest place in `text` from `index` on where it can be split.
fn ceil(text: &str, index: usize) -> usize {
    (index..=text.len()).find(|at| text.is_char_boundary(*at)).unwrap_or(text.len())
}

/// `text` between fences that do not occur in it, so that it cannot pass for an answer of ours.
pub fn fenced(label: &str, text: &str) -> String {
    let mut longest = 0;
    let mut run = 0;
    for character in text.chars() {
        run = if character == '`' { run + 1 } else { 0 };
        longest = longest.max(run);
    }
    let fence = "`".repeat((longest + 1).max(3));
    let end = if text.ends_with('\n') || text.is_empty() { "" } else { "\n" };
    format!("{fence}{label}\n{text}{end}{fence}")
}

/// Room for each of several texts of `lengths`, `budget` in all: none gets less because another
/// is long.
pub fn shares(lengths: &[usize], budget: usize) -> Vec<usize> {
    let mut order: Vec<_> = (0..lengths.len()).collect();
    order.sort_by_key(|index| lengths[*index]);
    let (mut left, mut shares) = (budget, vec![0; lengths.len()]);
    for (done, index) in order.iter().enumerate() {
        let share = lengths[*index].min(left / (lengths.len() - done));
        shares[*index] = share;
        left -= share;
    }
    shares
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_terminal_would_hide_is_taken_out() {
        for (text, expect) in [
            ("plain\ttext\n", "plain\ttext\n"),
            ("\u{1b}[31mred\u{1b}[0m\r\n", "red\n"),
            ("\u{1b}]0;title\u{7}a\0b\u{8}c", "abc"),
            ("10 %\r20 %\r100 %\ndone", "100 %\ndone"),
            ("a\r", "a"),
            ("x\u{202e}y\u{e0041}z\u{200b}\u{feff}", "xyz"),
            ("\u{2066}é漢🦀", "é漢🦀"),
        ] {
            assert_eq!(clean(text), expect, "{text:?}");
            let (mut cleaner, mut kept) = (Cleaner::default(), Kept::default());
            for character in text.chars() {
                cleaner.push(&character.to_string(), &mut kept);
            }
            cleaner.finish(&mut kept);
            assert_eq!(kept.all().0, expect, "{text:?} in pieces");
        }
    }

    #[test]
    fn a_long_text_keeps_its_beginning_and_its_end() {
        let mut kept = Kept::default();
        for number in 0..1_000_000 {
            kept.push(&format!("{number:07}\n"));
        }
        assert_eq!(kept.chars(), 8_000_000);
        let cut = kept.cut(OUTPUT_CHARS);
        assert_eq!(cut.left_out, 8_000_000 - OUTPUT_CHARS);
        assert!(cut.text.starts_with("0000000\n0000001\n"));
        assert!(cut.text.ends_with("0999998\n0999999\n"));
        assert!(cut.text.chars().count() < OUTPUT_CHARS + 100);
        let largest = kept.cut(OUTPUT_CHARS_MAX);
        assert!(largest.text.ends_with("0999999\n"));
        assert!(largest.text.chars().count() >= OUTPUT_CHARS_MAX);
        let (all, is_cut) = kept.all();
        assert!(is_cut && all.len() < HEAD_BYTES_MAX + 2 * TAIL_BYTES_MAX + 100);
    }

    #[test]
    fn a_short_text_is_whole_and_no_character_is_cut_in_two() {
        let mut kept = Kept::default();
        kept.push("é漢🦀");
        assert_eq!(kept.cut(3), Cut { text: "é漢🦀".to_owned(), left_out: 0 });
        let mut kept = Kept::default();
        kept.push(&"🦀".repeat(OUTPUT_CHARS_MAX));
        assert_eq!(kept.cut(OUTPUT_CHARS_MAX).left_out, 0);
        kept.push("漢");
        let cut = kept.cut(OUTPUT_CHARS_MAX);
        assert!(cut.left_out == 1 && cut.text.ends_with("🦀漢"));
    }

    #[test]
    fn no_text_ends_its_own_fence() {
        assert_eq!(fenced("output", "a"), "```output\na\n```");
        assert_eq!(fenced("output", "```\nb\n"), "````output\n```\nb\n````");
        assert_eq!(fenced("", ""), "```\n```");
    }

    #[test]
    fn a_long_text_leaves_room_for_others() {
        assert_eq!(shares(&[10, 1_000_000], 100), [10, 90]);
        assert_eq!(shares(&[500, 500, 10], 100), [45, 45, 10]);
        assert_eq!(shares(&[1, 2], 100), [1, 2]);
    }
}
