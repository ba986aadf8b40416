//! Lines of JSON from an interpreter, cut out of pieces of any size.
//!
//! A line is passed on in the memory it arrived in. A long line counts against the budget of the
//! sandbox's contexts from its first byte until the caller has taken all of it. While the budget
//! is used up, the interpreter waits.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use emberd_proto::context::CONTEXT_LINE_BYTES_MAX;
use emberd_proto::{ContextEvent, LineError, json};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Longest line that is not counted (64 KiB): a context has a few of them at most.
const SHORT_BYTES_MAX: usize = 64 << 10;

/// A line of an interpreter is not an event, or exceeds the limit of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Malformed;

/// A line, and its size in bytes.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Said {
    /// None where the line was over a limit, and is left out.
    pub event: Option<ContextEvent>,
    pub bytes: usize,
}

/// Bytes that are not a whole line yet.
#[derive(Debug)]
pub(super) struct Lines {
    received: BytesMut,
    /// How many of them are known to hold no end of a line.
    searched: usize,
    /// Bytes that the contexts of the sandbox may still hold.
    budget: Arc<Semaphore>,
    /// Share of the budget reserved for the line being received.
    share: Option<OwnedSemaphorePermit>,
    /// Whether the next line may lack its beginning, and whether that is still to be told.
    is_torn: bool,
    has_skipped: bool,
}

/// A long line on its way to the caller.
struct Held {
    line: BytesMut,
    _share: Option<OwnedSemaphorePermit>,
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.line
    }
}

impl Lines {
    /// None yet; `budget` is in bytes, and at least [`CONTEXT_LINE_BYTES_MAX`].
    pub fn new(budget: Arc<Semaphore>) -> Self {
        let received = BytesMut::new();
        Self { received, searched: 0, budget, share: None, is_torn: false, has_skipped: false }
    }

    /// Pieces are missing here: drops the line that has no end, and leaves out one that has no
    /// beginning.
    pub fn skip(&mut self) {
        self.received.clear();
        (self.searched, self.share) = (0, None);
        (self.is_torn, self.has_skipped) = (true, true);
    }

    /// Whether pieces have been missing since the last call.
    pub fn has_skipped(&mut self) -> bool {
        std::mem::take(&mut self.has_skipped)
    }

    /// Waits until there is room for another piece. Cancel safe.
    pub async fn room(&mut self) {
        if self.received.len() > SHORT_BYTES_MAX && self.share.is_none() {
            // Reserves the largest line at once: two lines that each hold a part of the budget
            // could otherwise block each other.
            let bytes = u32::try_from(CONTEXT_LINE_BYTES_MAX).unwrap_or(u32::MAX);
            let share = Arc::clone(&self.budget).acquire_many_owned(bytes).await;
            self.share = Some(share.expect("the semaphore is never closed"));
        }
    }

    /// Takes a piece and returns the lines it completes.
    pub fn push(&mut self, piece: &[u8]) -> Result<Vec<Said>, Malformed> {
        self.received.extend_from_slice(piece);
        let mut lines = Vec::new();
        while let Some(end) = self.received[self.searched..].iter().position(|byte| *byte == b'\n')
        {
            let bytes = self.searched + end;
            let line = self.cut(bytes);
            self.searched = 0;
            match ContextEvent::parse(&line) {
                Ok(event) => lines.push(Said { event: Some(event), bytes }),
                Err(LineError::Excess) => lines.push(Said { event: None, bytes }),
                // The end of a line is never an event: it closes what it has not opened.
                Err(LineError::NoEvent) if self.is_torn => {}
                Err(LineError::NoEvent) => return Err(Malformed),
            }
            self.is_torn = false;
        }
        self.searched = self.received.len();
        if self.received.len() > CONTEXT_LINE_BYTES_MAX { Err(Malformed) } else { Ok(lines) }
    }

    /// Takes the first `bytes` out, and the end of line behind them.
    fn cut(&mut self, bytes: usize) -> Bytes {
        let mut line = self.received.split_to(bytes + 1);
        line.truncate(bytes);
        json::tame(&mut line);
        if bytes <= SHORT_BYTES_MAX {
            // A copy, so that a short line keeps no more memory than it has bytes.
            return Bytes::copy_from_slice(&line);
        }
        // The rest is short and must not keep the memory of the removed line alive.
        self.received = BytesMut::from(&self.received[..]);
        let mut share = self.share.take();
        let share = share.as_mut().and_then(|share| share.split(bytes.min(share.num_permits())));
        Bytes::from_owner(Held { line, _share: share })
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;
    use proptest::prelude::*;

    use super::*;

    const BUDGET: usize = 2 * CONTEXT_LINE_BYTES_MAX;

    fn lines() -> Lines {
        Lines::new(Arc::new(Semaphore::new(BUDGET)))
    }

    /// Gives `text` in pieces, and returns the events.
    fn read(text: &[u8], piece_bytes: usize) -> Result<Vec<Option<ContextEvent>>, Malformed> {
        let mut lines = lines();
        let mut events = Vec::new();
        for piece in text.chunks(piece_bytes) {
            lines.room().now_or_never().expect("there is room");
            events.extend(lines.push(piece)?.into_iter().map(|said| said.event));
        }
        Ok(events)
    }

    /// A line that displays a string of `bytes` bytes.
    fn display(bytes: usize) -> String {
        format!("{{\"event\":\"display\",\"data\":{{\"a\":\"{}\"}}}}\n", "x".repeat(bytes))
    }

    #[test]
    fn size_of_the_pieces_never_changes_the_events() {
        let text = b"{\"event\":\"ready\"}\n{\"event\":\"done\",\"execution_count\":2}\n{";
        let expect = [ContextEvent::Ready, ContextEvent::Done { execution_count: 2 }].map(Some);
        for piece_bytes in 1..=text.len() {
            assert_eq!(read(text, piece_bytes).unwrap(), expect, "{piece_bytes}");
        }
    }

    #[test]
    fn malformed_lines_are_refused() {
        for text in ["what\n", "{}\n", "\n", "{\"event\":\"sing\"}\n", "\u{ff}\n"] {
            assert_eq!(lines().push(text.as_bytes()), Err(Malformed), "{text}");
        }
        assert_eq!(
            lines().push(b"{\"event\":\"display\",\"data\":{\"\xff\":1}}\n"),
            Err(Malformed)
        );
        let mut lines = lines();
        assert_eq!(lines.push(&vec![b' '; CONTEXT_LINE_BYTES_MAX]), Ok(Vec::new()));
        assert_eq!(lines.push(b" "), Err(Malformed));
    }

    #[test]
    fn after_a_gap_the_first_whole_line_is_an_event_and_the_rest_of_one_is_not() {
        let done = b"{\"event\":\"done\",\"execution_count\":2}\n";
        let whole = display(9);
        for cut in 1..whole.len() {
            let mut lines = lines();
            lines.push(&whole.as_bytes()[..cut - 1]).unwrap();
            lines.skip();
            assert!(lines.has_skipped() && !lines.has_skipped());
            let events = lines.push(&[&whole.as_bytes()[cut..], done].concat()).unwrap();
            let [Said { event: Some(ContextEvent::Done { .. }), .. }] = events[..] else {
                panic!("{cut}: {events:?}")
            };
        }
        let mut lines = lines();
        lines.skip();
        assert_eq!(lines.push(done).unwrap().len(), 1);
        assert_eq!(lines.push(b"what\n"), Err(Malformed));
    }

    #[test]
    fn what_is_over_a_limit_is_left_out_and_the_rest_is_not() {
        let deep = "[".repeat(1 << 20);
        let text = format!("{{\"event\":\"display\",\"data\":{deep}\n{{\"event\":\"ready\"}}\n");
        assert_eq!(read(text.as_bytes(), 1 << 16), Ok(vec![None, Some(ContextEvent::Ready)]));
    }

    #[test]
    fn half_a_character_is_replaced() {
        let line =
            b"{\"event\":\"error\",\"name\":\"\\ud800\",\"value\":\"\",\"traceback\":\"\"}\n";
        let events = read(line, line.len()).unwrap();
        let [Some(ContextEvent::Error { name, .. })] = &events[..] else { panic!("{events:?}") };
        assert_eq!(name, "\u{fffd}");
    }

    #[test]
    fn a_long_line_is_passed_on_without_a_copy() {
        let line = display((8 << 20) - (1 << 10));
        let mut lines = lines();
        for piece in line.as_bytes().chunks(1 << 16) {
            lines.room().now_or_never().unwrap();
            let before = lines.received.as_ptr_range();
            let mut said = lines.push(piece).unwrap();
            let Some(Said { event, bytes }) = said.pop() else { continue };
            let Some(ContextEvent::Display { data }) = event else { panic!("{event:?}") };
            assert_eq!(bytes, line.len() - 1);
            assert!(before.contains(&data.json().as_ptr()));
            assert!(lines.received.capacity() <= 1 << 10, "{}", lines.received.capacity());
        }
    }

    #[test]
    fn long_lines_share_what_there_is_and_give_it_back() {
        let budget = Arc::new(Semaphore::new(BUDGET));
        let line = display(1 << 20);
        let [mut one, mut other, mut third] = [(); 3].map(|()| Lines::new(Arc::clone(&budget)));
        let (begin, end) = line.split_at(line.len() - 2);
        for lines in [&mut one, &mut other, &mut third] {
            assert_eq!(lines.push(begin.as_bytes()), Ok(Vec::new()));
        }
        assert!(one.room().now_or_never().is_some());
        assert!(other.room().now_or_never().is_some());
        assert!(third.room().now_or_never().is_none());
        assert_eq!(budget.available_permits(), 0);
        let said = one.push(end.as_bytes()).unwrap();
        assert_eq!(said[0].bytes, line.len() - 1);
        // The line itself is still held.
        assert_eq!(budget.available_permits(), CONTEXT_LINE_BYTES_MAX - (line.len() - 1));
        assert!(third.room().now_or_never().is_none());
        drop(said);
        assert_eq!(budget.available_permits(), CONTEXT_LINE_BYTES_MAX);
        assert!(third.room().now_or_never().is_some());
        drop((other, third));
        assert_eq!(budget.available_permits(), BUDGET);
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(
            text in prop::collection::vec(any::<u8>(), 0..256), piece_bytes in 1_usize..64,
        ) {
            let _outcome = read(&text, piece_bytes);
        }

        #[test]
        fn any_data_arrive_as_they_are(
            texts in prop::collection::vec(any::<String>(), 0..4), piece_bytes in 1_usize..512,
        ) {
            let mut stream = String::new();
            for text in &texts {
                let data = serde_json::json!({ "text/plain": text });
                let line = format!("{{\"event\":\"display\",\"data\":{data}}}\n");
                stream += &line;
            }
            let events = read(stream.as_bytes(), piece_bytes).unwrap();
            let read: Vec<_> = events
                .into_iter()
                .map(|event| match event {
                    Some(ContextEvent::Display { data }) => data.get::<String>("text/plain"),
                    _ => None,
                })
                .collect();
            let texts: Vec<_> = texts.into_iter().map(Some).collect();
            prop_assert_eq!(read, texts);
        }
    }
}
