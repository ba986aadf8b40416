//! Bytes that arrive piece by piece, cut into lines.

use bytes::{Buf as _, Bytes, BytesMut};

/// Lines of a stream. Each byte is looked at once, however the pieces fall.
#[derive(Debug, Default)]
pub struct Lines {
    received: BytesMut,
    /// How many of them are known to hold no end of a line.
    searched: usize,
}

impl Lines {
    /// Adds what arrived.
    pub fn push(&mut self, piece: &[u8]) {
        self.received.extend_from_slice(piece);
    }

    /// The next line whose end has arrived, without it.
    pub fn whole(&mut self) -> Option<Bytes> {
        let end = self.received[self.searched..].iter().position(|byte| *byte == b'\n');
        let Some(end) = end else {
            self.searched = self.received.len();
            return None;
        };
        let line = self.received.split_to(self.searched + end).freeze();
        self.received.advance(1);
        self.searched = 0;
        Some(line)
    }

    /// Bytes that have arrived and are not told yet. Once [`Self::whole`] has none, they are
    /// those of one line, which grows until the caller stops it.
    pub fn pending(&self) -> usize {
        self.received.len()
    }

    /// Everything that is not told yet.
    pub fn rest(&mut self) -> Bytes {
        self.searched = 0;
        self.received.split().freeze()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_size_of_pieces_never_changes_the_lines() {
        let stream = b"one\n\ntwo\r\nhalf";
        for piece_bytes in 1..=stream.len() {
            let (mut lines, mut seen) = (Lines::default(), Vec::new());
            for piece in stream.chunks(piece_bytes) {
                lines.push(piece);
                while let Some(line) = lines.whole() {
                    seen.push(line);
                }
            }
            assert_eq!(seen, ["one", "", "two\r"], "{piece_bytes}");
            assert_eq!((lines.pending(), lines.rest().as_ref()), (4, &b"half"[..]));
            assert_eq!((lines.pending(), lines.whole()), (0, None));
        }
    }

    #[test]
    fn what_follows_a_rest_is_found() {
        let mut lines = Lines::default();
        lines.push(b"a long line");
        assert_eq!(lines.whole(), None);
        assert_eq!(lines.rest().as_ref(), b"a long line");
        lines.push(b" and its end\nnext\n");
        assert_eq!(lines.whole().unwrap().as_ref(), b" and its end");
        assert_eq!(lines.whole().unwrap().as_ref(), b"next");
    }
}
