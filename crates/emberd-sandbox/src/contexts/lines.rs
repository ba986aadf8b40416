//! Lines of JSON from an interpreter, cut out of pieces of any size.

use emberd_proto::ContextEvent;
use emberd_proto::context::CONTEXT_LINE_BYTES_MAX;

/// What an interpreter said is no event, or is longer than one may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Nonsense;

/// Bytes that are not a whole line yet.
#[derive(Debug, Default)]
pub(super) struct Lines {
    received: Vec<u8>,
    /// How many of them are known to hold no end of a line.
    searched: usize,
}

impl Lines {
    /// Takes a piece and returns the events it completes, each with its size in bytes.
    pub fn push(&mut self, piece: &[u8]) -> Result<Vec<(ContextEvent, usize)>, Nonsense> {
        self.received.extend_from_slice(piece);
        let mut events = Vec::new();
        let mut begin = 0;
        while let Some(length) = self.received[self.searched.max(begin)..]
            .iter()
            .position(|byte| *byte == b'\n')
            .map(|at| self.searched.max(begin) + at - begin)
        {
            let line = &self.received[begin..begin + length];
            events.push((serde_json::from_slice(line).map_err(|_| Nonsense)?, length));
            begin += length + 1;
        }
        self.received.drain(..begin);
        self.searched = self.received.len();
        if self.received.len() > CONTEXT_LINE_BYTES_MAX { Err(Nonsense) } else { Ok(events) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn size_of_the_pieces_never_changes_the_events() {
        let text = b"{\"event\":\"ready\"}\n{\"event\":\"done\",\"execution_count\":2}\n{";
        let expect = [ContextEvent::Ready, ContextEvent::Done { execution_count: 2 }];
        for piece_bytes in 1..=text.len() {
            let mut lines = Lines::default();
            let mut events = Vec::new();
            for piece in text.chunks(piece_bytes) {
                events.extend(lines.push(piece).unwrap().into_iter().map(|(event, _)| event));
            }
            assert_eq!(events, expect, "{piece_bytes}");
        }
    }

    #[test]
    fn nonsense_is_told() {
        for text in ["what\n", "{}\n", "\n", "{\"event\":\"sing\"}\n", "\u{ff}\n"] {
            assert_eq!(Lines::default().push(text.as_bytes()), Err(Nonsense), "{text}");
        }
        let mut lines = Lines::default();
        assert_eq!(lines.push(&vec![b' '; CONTEXT_LINE_BYTES_MAX]), Ok(Vec::new()));
        assert_eq!(lines.push(b" "), Err(Nonsense));
    }
}
