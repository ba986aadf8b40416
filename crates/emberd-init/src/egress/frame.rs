//! One answer of the host at the beginning of a stream.

use std::io;

use emberd_proto::egress::{EgressAnswer, decode_frame, frame_bytes};
use tokio::io::{AsyncRead, AsyncReadExt as _};

/// Reads an answer, and nothing after it.
///
/// # Errors
/// `InvalidData` if the host sends something else; as the stream.
pub async fn read_answer(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<EgressAnswer> {
    let mut header = [0; 2];
    stream.read_exact(&mut header).await?;
    let invalid = |error| io::Error::new(io::ErrorKind::InvalidData, error);
    let mut json = vec![0; frame_bytes(header).map_err(invalid)?];
    stream.read_exact(&mut json).await?;
    decode_frame(&json).map_err(invalid)
}
