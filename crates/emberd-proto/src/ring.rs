//! The latest events of a process or context: encoded frames, numbered and bounded in bytes.

use std::collections::VecDeque;

use crate::characters::Characters;
use crate::frame::{BULK_BYTES_MAX, Kind, header};
use bytes::BytesMut;

/// Size of the length prefix of a frame, which counts the bytes after it.
const LENGTH_BYTES: usize = 4;

/// The latest events of a process or context, and how far its attached host has read them.
#[derive(Debug, Default)]
pub struct Ring {
    frames: VecDeque<u8>,
    /// Number of the first event kept.
    first: u64,
    /// Number of the next event.
    next: u64,
    /// Bytes of the frames before the one to read next.
    read: usize,
    /// The character splitter of each output.
    outputs: [Characters; 2],
    /// Maximum size, in bytes, without unread events.
    pub bytes_max: usize,
}

impl Ring {
    /// Returns the number of the next event.
    pub fn next(&self) -> u64 {
        self.next
    }

    /// Returns the number of bytes to be read.
    pub fn unread_bytes(&self) -> usize {
        self.frames.len() - self.read
    }

    /// Adds one event. A character is never cut in two: its beginning waits for its rest, or for
    /// an event that is not output. Lines of an interpreter are cut apart, so that an event has at
    /// most one end of a line, at its own end.
    pub fn push(&mut self, kind: Kind, payload: &[u8]) {
        match kind {
            Kind::Stdout | Kind::Stderr => {
                let whole = self.outputs[usize::from(kind == Kind::Stderr)].take(payload);
                self.push_output(kind, &whole);
            }
            _ => {
                for (index, kind) in [Kind::Stdout, Kind::Stderr].into_iter().enumerate() {
                    let held = self.outputs[index].end();
                    self.push_output(kind, &held);
                }
                if kind == Kind::Data {
                    payload.split_inclusive(|byte| *byte == b'\n').for_each(|line| {
                        self.push_frame(kind, line);
                    });
                } else {
                    self.push_frame(kind, payload);
                }
            }
        }
    }

    fn push_output(&mut self, kind: Kind, bytes: &[u8]) {
        if !bytes.is_empty() {
            self.push_frame(kind, bytes);
        }
    }

    fn push_frame(&mut self, kind: Kind, payload: &[u8]) {
        self.frames.extend(&header(kind, payload.len()));
        self.frames.extend(payload);
        self.next += 1;
    }

    /// Drops the oldest events while there are more bytes than allowed; if there is a reader, only
    /// those that it has read.
    pub fn trim(&mut self, has_reader: bool) {
        while self.frames.len() > self.bytes_max {
            let bytes = self.frame_bytes(0);
            if has_reader && bytes > self.read {
                break;
            }
            self.frames.drain(..bytes);
            self.read = self.read.saturating_sub(bytes);
            self.first += 1;
        }
    }

    /// Reads from number `from` on, or from the first event kept. Returns its number.
    pub fn seek(&mut self, from: u64) -> u64 {
        let from = from.clamp(self.first, self.next);
        self.read = 0;
        for _ in self.first..from {
            self.read += self.frame_bytes(self.read);
        }
        from
    }

    /// Appends the next events to `out`, about [`BULK_BYTES_MAX`] of them.
    pub fn read_some(&mut self, out: &mut BytesMut) {
        let start = self.read;
        while self.read < self.frames.len() && self.read - start < BULK_BYTES_MAX {
            self.read += self.frame_bytes(self.read);
        }
        let (front, back) = self.frames.as_slices();
        let at = start.min(front.len());
        out.extend_from_slice(&front[at..self.read.clamp(at, front.len())]);
        let before = front.len();
        let (from, to) = (start.saturating_sub(before), self.read.saturating_sub(before));
        out.extend_from_slice(&back[from..to]);
    }

    /// Returns the size of the frame that starts at `offset`.
    fn frame_bytes(&self, offset: usize) -> usize {
        let length = (0..LENGTH_BYTES)
            .fold(0, |length, index| length << 8 | usize::from(self.frames[offset + index]));
        LENGTH_BYTES + length
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;
    use crate::Decoder;

    const KINDS: [Kind; 4] = [Kind::Stdout, Kind::Stderr, Kind::Data, Kind::Control];

    /// Reads everything from where `ring` is.
    fn read(ring: &mut Ring) -> Vec<(Kind, Vec<u8>)> {
        let mut decoder = Decoder::default();
        while ring.unread_bytes() > 0 {
            ring.read_some(decoder.buffer());
        }
        let frames = std::iter::from_fn(|| decoder.next_frame().unwrap());
        let frames = frames.map(|frame| (frame.kind, frame.payload.to_vec())).collect();
        decoder.finish().unwrap();
        frames
    }

    #[test]
    fn the_oldest_go_and_the_reader_is_spared() {
        let mut ring = Ring { bytes_max: 20, ..Ring::default() };
        for byte in *b"abcd" {
            ring.push(Kind::Data, &[byte; 5]);
        }
        ring.trim(true);
        assert_eq!(ring.seek(0), 0, "all of it is unread");
        assert_eq!(read(&mut ring).len(), 4);
        ring.trim(true);
        assert_eq!((ring.seek(0), ring.next()), (2, 4));
        ring.trim(false);
        assert_eq!(read(&mut ring), [(Kind::Data, b"ccccc".into()), (Kind::Data, b"ddddd".into())]);
        assert_eq!(ring.seek(9), 4);
        assert_eq!(read(&mut ring), []);
    }

    proptest! {
        #[test]
        fn reading_on_from_the_next_number_misses_nothing(
            pushes in vec((0..4_usize, vec(any::<u8>(), 0..40)), 0..60),
            bytes_max in 1..400_usize,
            turns in vec((any::<bool>(), 0..5_usize), 60),
        ) {
            let mut all = Ring { bytes_max: usize::MAX, ..Ring::default() };
            let mut ring = Ring { bytes_max, ..Ring::default() };
            let (mut got, mut next, mut attached) = (Vec::new(), 0, false);
            for ((kind, payload), (leaves, reads)) in pushes.iter().zip(turns) {
                all.push(KINDS[*kind], payload);
                ring.push(KINDS[*kind], payload);
                ring.trim(attached);
                if !attached {
                    let seq = ring.seek(next);
                    prop_assert!(seq >= next);
                    // A gap is what the model has in between.
                    let seq = usize::try_from(seq).unwrap();
                    all.seek(0);
                    got.extend(read(&mut all)[got.len()..seq].iter().cloned());
                    attached = true;
                }
                if reads > 0 {
                    got.extend(read(&mut ring));
                    next = got.len() as u64;
                }
                if leaves {
                    // What is unread by now may go.
                    next = got.len() as u64;
                    attached = false;
                }
            }
            prop_assert_eq!(ring.next(), all.next());
            let seq = ring.seek(got.len() as u64);
            all.seek(0);
            let expect = read(&mut all);
            got.extend(expect[got.len()..usize::try_from(seq).unwrap()].iter().cloned());
            got.extend(read(&mut ring));
            prop_assert_eq!(got, expect);
        }

        #[test]
        fn no_byte_is_lost_and_no_character_cut(
            pieces in vec((any::<bool>(), vec(any::<u8>(), 0..9)), 0..100),
        ) {
            let mut ring = Ring { bytes_max: usize::MAX, ..Ring::default() };
            let mut written = [Vec::new(), Vec::new()];
            for (is_error, piece) in pieces {
                ring.push(KINDS[usize::from(is_error)], &piece);
                written[usize::from(is_error)].extend_from_slice(&piece);
            }
            ring.push(Kind::Control, b"{}");
            let mut got = [Vec::new(), Vec::new()];
            let events = read(&mut ring);
            for (kind, payload) in &events[..events.len() - 1] {
                got[usize::from(*kind == Kind::Stderr)].extend_from_slice(payload);
            }
            prop_assert_eq!(got, written);
        }
    }
}
