//! What was sent to a program and has perhaps not arrived.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};
use emberd_proto::frame::encode;
use emberd_proto::{Attached, Kind};

/// Most frames kept for which the guest has not answered. Input has its own window, so these are
/// signals and sizes.
const FRAMES_MAX: usize = 4096;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    frames: VecDeque<Sent>,
    /// Number of the first of them.
    first: u64,
    /// Bytes of input sent and consumed so far.
    input: u64,
    taken: u64,
}

#[derive(Debug)]
struct Sent {
    kind: Kind,
    payload: Bytes,
    /// Bytes of input up to its end.
    input: u64,
}

impl Outbox {
    /// Begins where the guest is.
    pub fn at(attached: &Attached) -> Self {
        let Attached { received, input, taken, .. } = *attached;
        Self { frames: VecDeque::new(), first: received, input, taken }
    }

    /// Returns how many frames have been sent.
    pub fn sent(&self) -> u64 {
        self.first + self.frames.len() as u64
    }

    pub fn push(&mut self, kind: Kind, payload: Bytes) {
        if kind == Kind::Stdin {
            self.input += payload.len() as u64;
        }
        self.frames.push_back(Sent { kind, payload, input: self.input });
        if self.frames.len() > FRAMES_MAX {
            self.forget(1);
        }
    }

    /// Records that `bytes` more of the input were consumed; `false` if fewer were sent.
    pub fn take(&mut self, bytes: u64) -> bool {
        let Some(taken) = self.taken.checked_add(bytes).filter(|taken| *taken <= self.input) else {
            return false;
        };
        self.taken = taken;
        let is_taken = |sent: &Sent| sent.kind == Kind::Stdin && sent.input <= taken;
        if let Some(last) = self.frames.iter().rposition(is_taken) {
            self.forget(last + 1);
        }
        true
    }

    /// Forgets all frames: they have arrived.
    pub fn settle(&mut self) {
        self.forget(self.frames.len());
    }

    /// Drops what a new connection says has arrived. Returns how much more of the input was
    /// consumed; none if the guest counts other frames.
    pub fn arrived(&mut self, attached: &Attached) -> Option<u64> {
        let count = attached.received.checked_sub(self.first)?;
        let count = usize::try_from(count).ok().filter(|count| *count <= self.frames.len())?;
        let more = attached.taken.checked_sub(self.taken)?;
        self.forget(count);
        self.take(more).then_some(more)
    }

    /// Appends all frames to `out`.
    pub fn encode(&self, out: &mut BytesMut) {
        for Sent { kind, payload, .. } in &self.frames {
            encode(*kind, payload, out);
        }
    }

    fn forget(&mut self, count: usize) {
        self.frames.drain(..count);
        self.first += count as u64;
    }
}

#[cfg(test)]
mod tests {
    use emberd_proto::Decoder;
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn attached(received: u64, input: u64, taken: u64) -> Attached {
        Attached { id: 1, seq: 0, received, input, taken }
    }

    #[test]
    fn a_guest_that_counts_otherwise_is_noticed() {
        let mut outbox = Outbox::at(&attached(5, 10, 7));
        outbox.push(Kind::Stdin, Bytes::from_static(b"abc"));
        outbox.push(Kind::Control, Bytes::from_static(b"{}"));
        assert_eq!(outbox.arrived(&attached(4, 10, 7)), None, "fewer than before");
        assert_eq!(outbox.arrived(&attached(8, 13, 7)), None, "more than were sent");
        assert_eq!(outbox.arrived(&attached(6, 13, 14)), None, "more input than was sent");
        assert_eq!(outbox.arrived(&attached(6, 13, 6)), None, "less input than before");
        assert!(!outbox.take(7));
        let mut outbox = Outbox::at(&attached(5, 10, 7));
        outbox.push(Kind::Stdin, Bytes::from_static(b"abc"));
        assert_eq!(outbox.arrived(&attached(6, 13, 12)), Some(5));
        assert_eq!((outbox.sent(), outbox.frames.len()), (6, 0));
    }

    #[test]
    fn signals_without_end_are_forgotten() {
        let mut outbox = Outbox::default();
        for _ in 0..2 * FRAMES_MAX {
            outbox.push(Kind::Control, Bytes::from_static(b"{}"));
        }
        assert_eq!((outbox.frames.len(), outbox.sent()), (FRAMES_MAX, 2 * FRAMES_MAX as u64));
    }

    proptest! {
        #[test]
        fn every_frame_arrives_once_however_often_the_connection_breaks(
            steps in vec((any::<bool>(), 0..5_usize, 0..200_usize, any::<bool>()), 1..40),
        ) {
            let mut outbox = Outbox::default();
            // What the guest has: the connection's bytes so far, and whole frames.
            let (mut all, mut arrived) = (Vec::new(), Vec::new());
            let mut wire = BytesMut::new();
            let (mut input, mut taken) = (0, 0);
            for (number, (is_stdin, count, delivered, breaks)) in steps.into_iter().enumerate() {
                for index in 0..count {
                    let kind = if is_stdin { Kind::Stdin } else { Kind::Control };
                    let payload = Bytes::from(format!("{number}-{index}"));
                    encode(kind, &payload, &mut wire);
                    all.push((kind, payload.clone()));
                    outbox.push(kind, payload);
                }
                if !breaks && delivered % 2 == 0 {
                    continue;
                }
                // So many bytes of what is under way arrive before the connection breaks.
                let mut decoder = Decoder::default();
                decoder.buffer().extend_from_slice(&wire[..delivered.min(wire.len())]);
                while let Some(frame) = decoder.next_frame().unwrap() {
                    if frame.kind == Kind::Stdin {
                        input += frame.payload.len() as u64;
                    }
                    arrived.push((frame.kind, frame.payload));
                }
                // Some of the input is consumed; half of the time, the host is told.
                if delivered % 3 == 0 {
                    taken = input;
                }
                let counted = attached(arrived.len() as u64, input, taken);
                prop_assert!(outbox.arrived(&counted).is_some());
                wire.clear();
                outbox.encode(&mut wire);
            }
            let mut decoder = Decoder::default();
            decoder.buffer().extend_from_slice(&wire);
            while let Some(frame) = decoder.next_frame().unwrap() {
                arrived.push((frame.kind, frame.payload));
            }
            prop_assert_eq!(outbox.sent(), all.len() as u64);
            prop_assert_eq!(arrived, all);
        }
    }
}
