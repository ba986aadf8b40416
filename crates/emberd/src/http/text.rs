//! Bytes as text, though a piece may end in the middle of a character.

/// Most bytes of a character that are held back until the rest of it comes.
const HELD_BYTES_MAX: usize = 3;

/// Text from pieces of bytes; every invalid UTF-8 sequence becomes U+FFFD.
#[derive(Debug, Default)]
pub struct Text {
    /// The beginning of a character.
    held: Vec<u8>,
}

impl Text {
    /// The text up to the last whole character of what has come.
    pub fn take(&mut self, piece: &[u8]) -> String {
        let mut bytes = std::mem::take(&mut self.held);
        bytes.extend_from_slice(piece);
        let whole = bytes.len() - unfinished(&bytes);
        self.held = bytes.split_off(whole);
        String::from_utf8(bytes)
            .unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned())
    }

    /// What is held back, since no more comes.
    pub fn end(&mut self) -> String {
        String::from_utf8_lossy(&std::mem::take(&mut self.held)).into_owned()
    }
}

/// How many bytes at the end are the beginning of a character.
fn unfinished(bytes: &[u8]) -> usize {
    let tail_at = bytes.len().saturating_sub(HELD_BYTES_MAX);
    (tail_at..bytes.len())
        .find(|at| {
            let error = std::str::from_utf8(&bytes[*at..]).err();
            error.is_some_and(|error| error.valid_up_to() == 0 && error.error_len().is_none())
        })
        .map_or(0, |at| bytes.len() - at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn size_of_the_pieces_never_changes_the_text() {
        for bytes in ["aé€😀z".as_bytes(), b"a\xffb", b"\xf0\x9f\x98", b"\xe2\x82", b"\xc3(", b""]
        {
            let expect = String::from_utf8_lossy(bytes);
            for piece_bytes in 1..=bytes.len() {
                let mut text = Text::default();
                let mut told: String =
                    bytes.chunks(piece_bytes).map(|piece| text.take(piece)).collect();
                told.push_str(&text.end());
                assert_eq!(told, expect, "{bytes:?} by {piece_bytes}");
            }
        }
    }
}
