//! Output in pieces that cut no character in two, whatever pieces it came in.

/// Bytes of the longest character in UTF-8, less one: what is held back at most.
const HELD_BYTES_MAX: usize = 3;

/// One output, on its way through. What is no UTF-8 passes unchanged.
#[derive(Debug, Default)]
pub(crate) struct Characters {
    /// The beginning of a character whose rest has not come yet.
    held: Vec<u8>,
}

impl Characters {
    /// What has come, up to the last whole character; nothing, where that is less than one.
    pub fn take(&mut self, piece: &[u8]) -> Vec<u8> {
        let mut bytes = std::mem::take(&mut self.held);
        bytes.extend_from_slice(piece);
        self.held = bytes.split_off(bytes.len() - incomplete(&bytes));
        bytes
    }

    /// What is held back, since no more comes.
    pub fn end(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.held)
    }
}

/// How many bytes at the end of `bytes` may be the beginning of a character.
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
                let told: String =
                    pieces.iter().map(|piece| String::from_utf8_lossy(piece)).collect();
                assert_eq!(told, String::from_utf8_lossy(bytes), "{what}");
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
