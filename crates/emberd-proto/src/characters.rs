//! Splits output only between UTF-8 characters, whatever pieces it arrives in.

/// Most bytes held back: those of the longest UTF-8 character, less one.
const HELD_BYTES_MAX: usize = 3;

/// One output stream. Bytes that are not UTF-8 pass unchanged.
#[derive(Debug, Default)]
pub struct Characters {
    /// The beginning of a character whose rest has not come yet.
    held: Vec<u8>,
}

impl Characters {
    /// Returns the bytes up to the last whole character; empty if no character is complete.
    pub fn take(&mut self, piece: &[u8]) -> Vec<u8> {
        let mut bytes = std::mem::take(&mut self.held);
        bytes.extend_from_slice(piece);
        self.held = bytes.split_off(bytes.len() - incomplete(&bytes));
        bytes
    }

    /// Returns the bytes held back, at the end of the output.
    pub fn end(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.held)
    }
}

/// Number of bytes at the end of `bytes` that may begin a character.
fn incomplete(bytes: &[u8]) -> usize {
    let tail = &bytes[bytes.len().saturating_sub(HELD_BYTES_MAX)..];
    let Some(from_end) = tail.iter().rev().position(|byte| byte & 0xc0 != 0x80) else { return 0 };
    let start = &tail[tail.len() - 1 - from_end..];
    match std::str::from_utf8(start) {
        Err(error) if error.error_len().is_none() => start.len(),
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn characters_are_never_cut_and_no_byte_is_lost() {
        let text = "aé€😀z".as_bytes();
        for bytes in [text, b"a\xffb", b"\xf0\x9f\x98", b"\xe2\x82", b"\xc3(", b"\x80\x80\x80\x80"]
        {
            for piece_bytes in 1..=bytes.len() {
                let mut characters = Characters::default();
                let pieces = bytes.chunks(piece_bytes).map(|piece| characters.take(piece));
                let mut pieces: Vec<_> = pieces.collect();
                pieces.push(characters.end());
                let what = format!("{bytes:?} by {piece_bytes}: {pieces:?}");
                assert_eq!(pieces.concat(), bytes, "{what}");
                let joined: String =
                    pieces.iter().map(|piece| String::from_utf8_lossy(piece)).collect();
                assert_eq!(joined, String::from_utf8_lossy(bytes), "{what}");
            }
        }
    }

    #[test]
    fn nothing_is_held_back_that_cannot_become_a_character() {
        let mut characters = Characters::default();
        assert_eq!(characters.take(b"\xff\x80\x80\x80\x80"), b"\xff\x80\x80\x80\x80");
        assert_eq!(characters.take(b"a\xe2\x82"), b"a");
        assert_eq!(characters.take(b""), b"");
        assert_eq!(characters.end(), b"\xe2\x82");
        assert_eq!(characters.end(), b"");
    }
}
