//! The guest wire: one frame is a `u32` big-endian byte count, then that many bytes: one kind
//! byte and the payload.
//!
//! The decoder does no I/O. The guest feeds it from a vsock or a virtio port, and the host from a
//! Unix socket or a mux stream, each with its own runtime.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::json::{self, JsonExcess, JsonLimits};

/// Maximum size of a frame, in bytes after the length prefix (64 MiB). It limits how much memory
/// a hostile length prefix can make the peer use.
pub const FRAME_BYTES_MAX: usize = 64 << 20;

/// Maximum bulk payload that a sender puts into one frame, in bytes (64 KiB). It keeps stdout and
/// stderr interleaved and a receiver's buffer small.
pub const BULK_BYTES_MAX: usize = 64 << 10;

/// Maximum size of a message from a guest, in bytes (512 KiB): twice a batch of a listing.
pub const GUEST_MESSAGE_BYTES_MAX: usize = 512 << 10;

/// Limits of the JSON of a message in either direction. The largest messages are four deep and
/// have about 10,000 values.
pub const MESSAGE_LIMITS: JsonLimits =
    JsonLimits { depth_max: 16, values_max: 16 << 10, number_bytes_max: 64 };

/// Size of the length prefix and the kind byte.
pub const HEADER_BYTES: usize = 5;

const LENGTH_BYTES: usize = 4;

/// The kind of a payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// A JSON [`HostMessage`](crate::HostMessage) or [`GuestMessage`](crate::GuestMessage).
    Control = 1,
    /// Raw bytes for the program's standard input.
    Stdin = 2,
    /// End of standard input; the payload is empty. It is a separate message because a vsock does
    /// not pass on a half-close.
    StdinEnd = 3,
    /// Raw bytes of the program's standard output.
    Stdout = 4,
    /// Raw bytes of the program's standard error.
    Stderr = 5,
    /// Raw bytes of a file, a TCP connection or a context's channel, in either direction.
    Data = 6,
    /// End of the `Data` in one direction; the payload is empty.
    DataEnd = 7,
}

impl Kind {
    const ALL: [Self; 7] = [
        Self::Control,
        Self::Stdin,
        Self::StdinEnd,
        Self::Stdout,
        Self::Stderr,
        Self::Data,
        Self::DataEnd,
    ];

    fn from_byte(byte: u8) -> Result<Self, FrameError> {
        Self::ALL.into_iter().find(|kind| *kind as u8 == byte).ok_or(FrameError::UnknownKind(byte))
    }
}

/// One decoded frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// Kind of the payload.
    pub kind: Kind,
    /// The bytes after the kind byte; at most [`FRAME_BYTES_MAX`] − 1.
    pub payload: Bytes,
}

impl Frame {
    /// Parses the payload of a [`Kind::Control`] frame.
    ///
    /// # Errors
    /// [`FrameError::NotControl`] for any other kind, [`FrameError::Excess`] for a payload that
    /// is over [`MESSAGE_LIMITS`], [`FrameError::Json`] for one that is not a `T`.
    pub fn message<T: DeserializeOwned>(&self) -> Result<T, FrameError> {
        if self.kind != Kind::Control {
            return Err(FrameError::NotControl(self.kind));
        }
        json::check(&self.payload, MESSAGE_LIMITS).map_err(FrameError::Excess)?;
        serde_json::from_slice(&self.payload).map_err(FrameError::Json)
    }
}

/// Why a byte stream is not a sequence of frames. The stream cannot be resynchronised, so the
/// connection has to be closed.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The length prefix exceeds [`FRAME_BYTES_MAX`].
    #[error("frame of {0} bytes exceeds the limit of {FRAME_BYTES_MAX}")]
    TooLong(usize),
    /// The length prefix is zero: there is no kind byte.
    #[error("frame without a kind byte")]
    Empty,
    /// The kind byte is unknown to this generation.
    #[error("unknown frame kind {0:#04x}")]
    UnknownKind(u8),
    /// The stream ended within a frame.
    #[error("stream ended inside a frame, after {0} of its bytes")]
    Truncated(usize),
    /// A control message was expected.
    #[error("expected a control frame, got {0:?}")]
    NotControl(Kind),
    /// A control frame is longer than its sender may send.
    #[error("control frame of {0} bytes is longer than a peer may send")]
    MessageTooLong(usize),
    /// A control payload is over [`MESSAGE_LIMITS`].
    #[error("control frame is not a message")]
    Excess(#[source] JsonExcess),
    /// A control payload is not the expected JSON.
    #[error("control frame is not a valid message")]
    Json(#[source] serde_json::Error),
}

/// Splits bytes, in pieces of any size, into frames.
///
/// Its memory grows with the bytes received, never with the size in a length prefix.
#[derive(Debug)]
pub struct Decoder {
    buffer: BytesMut,
    message_bytes_max: usize,
}

impl Default for Decoder {
    fn default() -> Self {
        Self { buffer: BytesMut::new(), message_bytes_max: FRAME_BYTES_MAX }
    }
}

impl Decoder {
    /// Returns a decoder for frames from a guest, whose messages are limited further.
    pub fn of_guest() -> Self {
        Self { message_bytes_max: GUEST_MESSAGE_BYTES_MAX, ..Self::default() }
    }

    /// Returns the buffer for received bytes, so that a reader can fill it in place.
    pub fn buffer(&mut self) -> &mut BytesMut {
        &mut self.buffer
    }

    /// Takes the next whole frame, or `None` until more bytes are in.
    ///
    /// # Errors
    /// [`FrameError::TooLong`], [`FrameError::Empty`], [`FrameError::UnknownKind`],
    /// [`FrameError::MessageTooLong`], each as soon as the offending bytes are in.
    pub fn next_frame(&mut self) -> Result<Option<Frame>, FrameError> {
        let Some(prefix) = self.buffer.first_chunk::<LENGTH_BYTES>() else { return Ok(None) };
        let length = u32::from_be_bytes(*prefix) as usize;
        if length > FRAME_BYTES_MAX {
            return Err(FrameError::TooLong(length));
        }
        if length == 0 {
            return Err(FrameError::Empty);
        }
        let Some(&kind_byte) = self.buffer.get(LENGTH_BYTES) else { return Ok(None) };
        let kind = Kind::from_byte(kind_byte)?;
        if kind == Kind::Control && length > self.message_bytes_max {
            return Err(FrameError::MessageTooLong(length));
        }
        if self.buffer.len() < LENGTH_BYTES + length {
            return Ok(None);
        }
        self.buffer.advance(HEADER_BYTES);
        Ok(Some(Frame { kind, payload: self.buffer.split_to(length - 1).freeze() }))
    }

    /// Checks that the stream ended between two frames.
    ///
    /// # Errors
    /// [`FrameError::Truncated`] if it ended within a frame.
    pub fn finish(&self) -> Result<(), FrameError> {
        if self.buffer.is_empty() { Ok(()) } else { Err(FrameError::Truncated(self.buffer.len())) }
    }
}

/// Returns the five bytes before a payload of `payload_bytes`, so that a sender can write header
/// and payload in one vectored call without copying the payload.
///
/// # Panics
/// If the frame would exceed [`FRAME_BYTES_MAX`]; senders split bulk data before.
pub fn header(kind: Kind, payload_bytes: usize) -> [u8; HEADER_BYTES] {
    assert!(payload_bytes < FRAME_BYTES_MAX, "a {payload_bytes} byte payload must be split");
    let length = u32::try_from(payload_bytes + 1).expect("bounded by FRAME_BYTES_MAX");
    let [a, b, c, d] = length.to_be_bytes();
    [a, b, c, d, kind as u8]
}

/// Appends one frame to `out`.
///
/// # Panics
/// As [`header`].
pub fn encode(kind: Kind, payload: &[u8], out: &mut BytesMut) {
    out.reserve(HEADER_BYTES + payload.len());
    out.put_slice(&header(kind, payload.len()));
    out.put_slice(payload);
}

/// Appends `payload` as frames of at most [`BULK_BYTES_MAX`] bytes each; none when empty.
pub fn encode_bulk(kind: Kind, payload: &[u8], out: &mut BytesMut) {
    for chunk in payload.chunks(BULK_BYTES_MAX) {
        encode(kind, chunk, out);
    }
}

/// Appends one control frame with `message` as JSON.
///
/// # Panics
/// As [`header`], and if `message` has map keys that are not strings, which emberd's messages do
/// not have.
pub fn encode_message(message: &impl Serialize, out: &mut BytesMut) {
    let json = serde_json::to_vec(message).expect("messages have string keys only");
    encode(Kind::Control, &json, out);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Feeds `stream` in pieces of `chunk_bytes` and returns its frames.
    fn decode(stream: &[u8], chunk_bytes: usize) -> Result<Vec<Frame>, FrameError> {
        let mut decoder = Decoder::default();
        let mut frames = Vec::new();
        for chunk in stream.chunks(chunk_bytes) {
            decoder.buffer().extend_from_slice(chunk);
            while let Some(frame) = decoder.next_frame()? {
                frames.push(frame);
            }
        }
        decoder.finish()?;
        Ok(frames)
    }

    fn prefix(length: usize) -> [u8; LENGTH_BYTES] {
        u32::try_from(length).unwrap().to_be_bytes()
    }

    fn frame(kind: Kind, payload: &'static [u8]) -> Frame {
        Frame { kind, payload: Bytes::from_static(payload) }
    }

    #[test]
    fn chunk_size_never_changes_the_frames() {
        let stream = b"\0\0\0\x03\x01{}\0\0\0\x01\x03\0\0\0\x04\x04\xff\0\n";
        let expect = [
            frame(Kind::Control, b"{}"),
            frame(Kind::StdinEnd, b""),
            frame(Kind::Stdout, b"\xff\0\n"),
        ];
        for chunk_bytes in 1..=stream.len() {
            assert_eq!(decode(stream, chunk_bytes).unwrap(), expect, "chunks of {chunk_bytes}");
        }
    }

    #[test]
    fn golden_bytes() {
        let mut out = BytesMut::new();
        encode(Kind::Stdin, b"hi", &mut out);
        encode(Kind::StdinEnd, b"", &mut out);
        assert_eq!(&out[..], b"\0\0\0\x03\x02hi\0\0\0\x01\x03");
    }

    #[test]
    fn hostile_length_is_refused_before_anything_is_allocated() {
        let mut decoder = Decoder::default();
        decoder.buffer().extend_from_slice(&prefix(FRAME_BYTES_MAX + 1));
        let capacity_before = decoder.buffer().capacity();
        assert!(matches!(decoder.next_frame(), Err(FrameError::TooLong(67_108_865))));
        assert_eq!(decoder.buffer().capacity(), capacity_before);
    }

    #[test]
    fn largest_length_allocates_nothing_ahead_of_its_bytes() {
        let mut decoder = Decoder::default();
        decoder.buffer().extend_from_slice(&prefix(FRAME_BYTES_MAX));
        decoder.buffer().extend_from_slice(&[Kind::Stdout as u8]);
        assert!(decoder.next_frame().unwrap().is_none());
        assert!(decoder.buffer().capacity() < 1 << 10);
    }

    #[test]
    fn truncated_stream_is_an_error_at_every_cut() {
        let stream = b"\0\0\0\x03\x01{}";
        for cut in 1..stream.len() {
            let error = decode(&stream[..cut], cut).unwrap_err();
            assert!(matches!(error, FrameError::Truncated(n) if n == cut), "cut at {cut}: {error}");
        }
    }

    #[test]
    fn zero_length_and_unknown_kinds_are_errors() {
        assert!(matches!(decode(b"\0\0\0\0", 4), Err(FrameError::Empty)));
        assert!(matches!(decode(b"\0\0\0\x01\x7f", 5), Err(FrameError::UnknownKind(0x7f))));
    }

    #[test]
    fn messages_of_a_guest_are_short_and_shallow() {
        let mut decoder = Decoder::of_guest();
        decoder.buffer().extend_from_slice(&prefix(GUEST_MESSAGE_BYTES_MAX + 1));
        decoder.buffer().extend_from_slice(&[Kind::Control as u8]);
        assert!(matches!(decoder.next_frame(), Err(FrameError::MessageTooLong(524_289))));
        let mut decoder = Decoder::of_guest();
        decoder.buffer().extend_from_slice(&prefix(GUEST_MESSAGE_BYTES_MAX + 1));
        decoder.buffer().extend_from_slice(&[Kind::Data as u8]);
        assert!(decoder.next_frame().unwrap().is_none());
        for json in ["[".repeat(1 << 18), "0".repeat(1 << 18), "{},".repeat(1 << 17)] {
            let json = format!(r#"{{"answer":"pong","more":{json}"#).into_bytes();
            let frame = Frame { kind: Kind::Control, payload: json.into() };
            let message = frame.message::<crate::GuestMessage>();
            assert!(matches!(message, Err(FrameError::Excess(_))));
        }
    }

    #[test]
    fn message_of_a_bulk_frame_is_refused() {
        let error = frame(Kind::Stdout, b"{}").message::<crate::HostMessage>().unwrap_err();
        assert!(matches!(error, FrameError::NotControl(Kind::Stdout)));
    }

    #[test]
    fn bulk_is_split_at_the_limit() {
        let payload = vec![7; BULK_BYTES_MAX * 2 + 1];
        let mut out = BytesMut::new();
        encode_bulk(Kind::Stdout, &payload, &mut out);
        let lengths: Vec<_> =
            decode(&out, 4096).unwrap().iter().map(|frame| frame.payload.len()).collect();
        assert_eq!(lengths, [BULK_BYTES_MAX, BULK_BYTES_MAX, 1]);
    }

    fn any_kind() -> impl Strategy<Value = Kind> {
        proptest::sample::select(Kind::ALL.to_vec())
    }

    fn any_bytes(bytes_max: usize) -> impl Strategy<Value = Vec<u8>> {
        prop::collection::vec(any::<u8>(), 0..bytes_max)
    }

    proptest! {
        #[test]
        fn any_frames_round_trip(
            frames in prop::collection::vec((any_kind(), any_bytes(300)), 0..8),
            chunk_bytes in 1_usize..64,
        ) {
            let mut stream = BytesMut::new();
            for (kind, payload) in &frames {
                encode(*kind, payload, &mut stream);
            }
            let decoded = decode(&stream, chunk_bytes).unwrap();
            let expect: Vec<_> = frames
                .into_iter()
                .map(|(kind, payload)| Frame { kind, payload: payload.into() })
                .collect();
            prop_assert_eq!(decoded, expect);
        }

        #[test]
        fn any_stream_never_panics(stream in any_bytes(512), chunk_bytes in 1_usize..32) {
            let _outcome = decode(&stream, chunk_bytes);
        }
    }
}
