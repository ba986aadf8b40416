//! Headers of yamux's frames, which carry many streams over one.
//!
//! ```text
//! version 0 │ kind │ flags, 2 bytes │ stream, 4 bytes │ length, 4 bytes │ data, if DATA
//! ```
//! Numbers are big-endian (yamux specification).

/// Size of a header, in bytes.
pub const HEADER_BYTES: usize = 12;

/// Bytes that each side may send on a new stream (256 KiB).
pub const WINDOW_BYTES: usize = 256 << 10;

/// Kind of a frame with data of a stream.
pub const DATA: u8 = 0;
/// Kind of a frame that lets the other side send more.
pub const WINDOW_UPDATE: u8 = 1;
/// Kind of a question whether the other side is there.
pub const PING: u8 = 2;
/// Kind of a frame that ends the session.
pub const GO_AWAY: u8 = 3;

/// Flag of the first frame of a stream.
pub const SYN: u16 = 1;
/// Flag of the first frame that answers it.
pub const ACK: u16 = 2;
/// Flag of a frame after which the sender has no more data for the stream.
pub const FIN: u16 = 4;
/// Flag of a frame that resets the stream.
pub const RST: u16 = 8;

/// A header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// [`DATA`] and so on; other values are possible.
    pub kind: u8,
    /// [`SYN`] and so on.
    pub flags: u16,
    /// The stream; 0 for the session.
    pub id: u32,
    /// Number of bytes that follow, or may be sent more; the value of a ping.
    pub length: u32,
}

impl Header {
    /// Decodes a header; none of another version.
    pub fn decode(bytes: [u8; HEADER_BYTES]) -> Option<Self> {
        let [version, kind, f0, f1, i0, i1, i2, i3, l0, l1, l2, l3] = bytes;
        (version == 0).then_some(Self {
            kind,
            flags: u16::from_be_bytes([f0, f1]),
            id: u32::from_be_bytes([i0, i1, i2, i3]),
            length: u32::from_be_bytes([l0, l1, l2, l3]),
        })
    }

    /// Encodes the header.
    pub fn encode(self) -> [u8; HEADER_BYTES] {
        let [f0, f1] = self.flags.to_be_bytes();
        let [i0, i1, i2, i3] = self.id.to_be_bytes();
        let [l0, l1, l2, l3] = self.length.to_be_bytes();
        [0, self.kind, f0, f1, i0, i1, i2, i3, l0, l1, l2, l3]
    }

    /// Number of bytes of data that follow the header.
    pub fn body_bytes(self) -> usize {
        if self.kind == DATA { self.length as usize } else { 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn header_is_what_the_specification_says() {
        let header = Header { kind: WINDOW_UPDATE, flags: SYN | FIN, id: 0x0102_0304, length: 5 };
        let bytes = [0, 1, 0, 5, 1, 2, 3, 4, 0, 0, 0, 5];
        assert_eq!(header.encode(), bytes);
        assert_eq!(Header::decode(bytes), Some(header));
        assert_eq!(header.body_bytes(), 0);
        assert_eq!(Header { kind: DATA, ..header }.body_bytes(), 5);
        assert_eq!(Header::decode([1; HEADER_BYTES]), None);
    }
}
