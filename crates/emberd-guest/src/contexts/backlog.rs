//! Output of a run that arrives before its `started` event, kept in few pieces.
//!
//! Output may overtake the event before it, so such output belongs to the run. A piece costs more
//! than its bytes, so bytes are appended to the piece before them.

use bytes::{Bytes, BytesMut};
use emberd_proto::frame::BULK_BYTES_MAX;

use super::event::RunEvent;

/// Most bytes kept (8 MiB). While an interpreter receives its code, it can print what pipes hold
/// and what its threads print.
const BYTES_MAX: usize = 8 << 20;

/// Pieces whose order is kept; what comes then joins the last one of its output.
const PIECES_MAX: usize = 1024;

/// Which output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Output {
    Stdout,
    Stderr,
}

impl Output {
    /// Returns the event that carries `text`.
    pub fn event(self, text: Bytes) -> RunEvent {
        match self {
            Self::Stdout => RunEvent::Stdout(text),
            Self::Stderr => RunEvent::Stderr(text),
        }
    }
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Backlog {
    pieces: Vec<(Output, BytesMut)>,
    bytes: usize,
}

impl Backlog {
    /// Adds `text`; returns false if it does not fit.
    pub fn push(&mut self, output: Output, text: &[u8]) -> bool {
        if self.bytes + text.len() > BYTES_MAX {
            return false;
        }
        self.bytes += text.len();
        let looked_at = if self.pieces.len() < PIECES_MAX { 1 } else { self.pieces.len() };
        let last = self.pieces.iter_mut().rev().take(looked_at).find(|(kind, _)| *kind == output);
        match last {
            Some((_, piece)) if piece.len() + text.len() <= BULK_BYTES_MAX => {
                piece.extend_from_slice(text);
            }
            _ => self.pieces.push((output, BytesMut::from(text))),
        }
        true
    }

    /// Removes all pieces, as events.
    pub fn drain(&mut self) -> impl Iterator<Item = RunEvent> + use<> {
        let Self { pieces, .. } = std::mem::take(self);
        pieces.into_iter().map(|(output, text)| output.event(text.freeze()))
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    /// Bytes of each output, in order.
    fn drained(backlog: &mut Backlog) -> [Vec<u8>; 2] {
        let mut texts = [Vec::new(), Vec::new()];
        for event in backlog.drain() {
            match event {
                RunEvent::Stdout(text) => texts[0].extend_from_slice(&text),
                RunEvent::Stderr(text) => texts[1].extend_from_slice(&text),
                other => panic!("{other:?}"),
            }
        }
        texts
    }

    #[test]
    fn order_is_kept_and_neighbours_are_one_piece() {
        let mut backlog = Backlog::default();
        for (output, text) in [
            (Output::Stdout, "a"),
            (Output::Stdout, "b"),
            (Output::Stderr, "c"),
            (Output::Stdout, "d"),
        ] {
            assert!(backlog.push(output, text.as_bytes()));
        }
        let events: Vec<_> = backlog.drain().collect();
        let text = Bytes::from_static;
        assert_eq!(
            events,
            [
                RunEvent::Stdout(text(b"ab")),
                RunEvent::Stderr(text(b"c")),
                RunEvent::Stdout(text(b"d"))
            ]
        );
        assert_eq!(drained(&mut backlog), [Vec::<u8>::new(), Vec::new()]);
    }

    #[test]
    fn pieces_are_few_however_small_and_mixed() {
        for mixed in [false, true] {
            let mut backlog = Backlog::default();
            let mut kept = [0, 0];
            for index in 0..BYTES_MAX + 10 {
                let second = mixed && index % 2 == 1;
                let output = if second { Output::Stderr } else { Output::Stdout };
                kept[usize::from(second)] += usize::from(backlog.push(output, b"x"));
            }
            assert_eq!(kept.iter().sum::<usize>(), BYTES_MAX);
            let pieces_max = PIECES_MAX + 2 * BYTES_MAX.div_ceil(BULK_BYTES_MAX);
            assert!(backlog.pieces.len() <= pieces_max, "{}", backlog.pieces.len());
            let capacity: usize = backlog.pieces.iter().map(|(_, piece)| piece.capacity()).sum();
            assert!(capacity <= 3 * BYTES_MAX, "{capacity}");
            assert_eq!(drained(&mut backlog).map(|text| text.len()), kept);
        }
    }

    /// Text of one output, with all that follows it without text of the other between.
    type Stretch = (Output, Vec<u8>);

    fn extend(stretches: &mut Vec<Stretch>, output: Output, text: &[u8]) {
        match stretches.last_mut() {
            _ if text.is_empty() => {}
            Some((last, stretch)) if *last == output => stretch.extend_from_slice(text),
            _ => stretches.push((output, text.to_vec())),
        }
    }

    /// The text of one output among `stretches`.
    fn of(stretches: &[Stretch], output: Output) -> Vec<u8> {
        let own = stretches.iter().filter(|(other, _)| *other == output);
        own.flat_map(|(_, text)| text.iter().copied()).collect()
    }

    /// Pushes: which output, how many bytes, how many times; the outputs alternate if `mixed`.
    fn pushes() -> impl Strategy<Value = (bool, bool, usize, usize)> {
        prop_oneof![
            (any::<bool>(), any::<bool>(), 0..5_usize, 1..PIECES_MAX),
            (any::<bool>(), any::<bool>(), 0..=BULK_BYTES_MAX, 1..60_usize),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        #[test]
        fn a_backlog_keeps_all_it_takes_and_refuses_only_what_does_not_fit(
            rounds in vec(vec(pushes(), 0..10), 1..3),
        ) {
            let (mut backlog, mut number) = (Backlog::default(), 0);
            for round in rounds {
                let (mut taken, mut bytes) = (Vec::new(), 0);
                for (is_error, mixed, size, times) in round {
                    for time in 0..times {
                        let second = is_error ^ (mixed && time % 2 == 1);
                        let output = if second { Output::Stderr } else { Output::Stdout };
                        // One letter for each push, so that none can stand for its neighbour.
                        number += 1;
                        let text = vec![b'a' + u8::try_from(number % 26).unwrap(); size];
                        let fits = bytes + size <= BYTES_MAX;
                        prop_assert_eq!(backlog.push(output, &text), fits);
                        if fits {
                            bytes += size;
                            extend(&mut taken, output, &text);
                        }
                    }
                }
                let pieces = backlog.pieces.len();
                prop_assert!(pieces <= PIECES_MAX + 2 * BYTES_MAX.div_ceil(BULK_BYTES_MAX));
                let mut drained = Vec::new();
                for event in backlog.drain() {
                    let (output, text) = match event {
                        RunEvent::Stdout(text) => (Output::Stdout, text),
                        RunEvent::Stderr(text) => (Output::Stderr, text),
                        other => panic!("{other:?}"),
                    };
                    prop_assert!(text.len() <= BULK_BYTES_MAX);
                    extend(&mut drained, output, &text);
                }
                if pieces < PIECES_MAX {
                    prop_assert!(drained == taken, "the order of the outputs is kept");
                }
                for output in [Output::Stdout, Output::Stderr] {
                    prop_assert!(of(&drained, output) == of(&taken, output), "{output:?}");
                }
                prop_assert_eq!(backlog.drain().count(), 0);
            }
        }
    }
}
