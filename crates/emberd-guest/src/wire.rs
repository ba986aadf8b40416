//! Frames on a byte stream, read and written one at a time.

use std::io;

use bytes::BytesMut;
use emberd_proto::frame::{BULK_BYTES_MAX, HEADER_BYTES, encode, encode_bulk};
use emberd_proto::{Decoder, Frame, Kind};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use crate::error::ChannelError;

/// Most bytes of a frame not yet complete that are held (1 MiB): an agent's largest frame is
/// a 64 KiB piece of output.
pub(crate) const PENDING_BYTES_MAX: usize = 1 << 20;

/// Bytes there is room for in one read: the largest frame an agent sends.
const READ_BYTES: usize = HEADER_BYTES + BULK_BYTES_MAX;

/// Reads until one frame is whole. Cancel safe: what was read stays in `decoder`.
pub(crate) async fn next_frame(
    reader: &mut (impl AsyncRead + Unpin),
    decoder: &mut Decoder,
) -> Result<Frame, ChannelError> {
    loop {
        if let Some(frame) = decoder.next_frame().map_err(ChannelError::Frame)? {
            return Ok(frame);
        }
        let buffer = decoder.buffer();
        if buffer.len() > PENDING_BYTES_MAX {
            return Err(ChannelError::Protocol("frame larger than allowed"));
        }
        buffer.reserve(READ_BYTES);
        let count = match reader.read_buf(buffer).await {
            Err(error) if is_closed(&error) => 0,
            outcome => outcome.map_err(ChannelError::Io)?,
        };
        if count == 0 {
            decoder.finish().map_err(ChannelError::Frame)?;
            return Err(ChannelError::Closed);
        }
    }
}

/// Writes `payload` in frames of one kind; an empty one as one frame.
pub(crate) async fn write_frames(
    writer: &mut (impl AsyncWrite + Unpin),
    kind: Kind,
    payload: &[u8],
) -> Result<(), ChannelError> {
    let mut out = BytesMut::new();
    match payload {
        [] => encode(kind, payload, &mut out),
        _ => encode_bulk(kind, payload, &mut out),
    }
    write(writer, &out).await
}

/// Writes frames as they are.
pub(crate) async fn write(
    writer: &mut (impl AsyncWrite + Unpin),
    frames: &[u8],
) -> Result<(), ChannelError> {
    delivered(writer.write_all(frames).await)?;
    delivered(writer.flush().await)?;
    Ok(())
}

/// Whether a write arrived. A write on a closed connection did not, but reading continues: what
/// the guest sent before it closed explains more.
pub(crate) fn delivered(write: io::Result<()>) -> Result<bool, ChannelError> {
    match write {
        Ok(()) => Ok(true),
        Err(error) if is_closed(&error) => Ok(false),
        Err(error) => Err(ChannelError::Io(error)),
    }
}

fn is_closed(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionReset};
    matches!(error.kind(), BrokenPipe | ConnectionReset)
}
