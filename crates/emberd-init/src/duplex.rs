//! The transport of a connection from the host.

use std::io;
use std::pin::pin;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use emberd_proto::frame::BULK_BYTES_MAX;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite};
use tokio::net::UnixStream;
use tokio_vsock::VsockStream;

/// Minimum number of bytes that a read has room for (4 KiB): most of what comes is shorter.
const ROOM_BYTES_MIN: usize = 4 << 10;

/// The transport of a connection: a Unix socket, a vsock or a stream of the mux. Each sends
/// written bytes without a flush.
pub trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {
    /// Reads what comes next; empty at the end. `room` is kept by the caller for the next call.
    fn poll_piece(
        &mut self,
        context: &mut Context<'_>,
        room: &mut BytesMut,
    ) -> Poll<io::Result<Bytes>> {
        room.reserve(ROOM_BYTES_MIN);
        ready!(pin!(self.read_buf(room)).poll(context))?;
        let bytes = room.len();
        let piece = room.split().freeze();
        if bytes > ROOM_BYTES_MIN / 2 {
            room.reserve((2 * bytes).min(BULK_BYTES_MAX));
        }
        Poll::Ready(Ok(piece))
    }
}

impl Duplex for UnixStream {}

impl Duplex for VsockStream {}
