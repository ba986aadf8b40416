//! The guest's end of one stream: a request, its answer, and what the guest sends first.

use std::io;
use std::time::Duration;

use bytes::BytesMut;
use emberd_proto::egress::{EgressAnswer, EgressRequest, decode_frame, encode_frame, frame_bytes};
use tokio::time::timeout;

use crate::mux::MuxStream;

/// Time that the guest may take for its request, and to take an answer that ends the stream.
const REQUEST_WAIT_MAX: Duration = Duration::from_secs(10);

/// See the module.
pub(crate) struct Peer {
    pub stream: MuxStream,
    /// Bytes that the guest has sent and nobody has dealt with.
    pub head: BytesMut,
    /// Whether the request is answered.
    pub answered: bool,
}

impl Peer {
    pub fn new(stream: MuxStream) -> Self {
        Self { stream, head: BytesMut::new(), answered: false }
    }

    /// Reads the request. None if there is none in time.
    pub async fn request(&mut self) -> Option<EgressRequest> {
        timeout(REQUEST_WAIT_MAX, self.read_request()).await.ok()?.ok()
    }

    async fn read_request(&mut self) -> io::Result<EgressRequest> {
        let malformed = |error| io::Error::new(io::ErrorKind::InvalidData, error);
        loop {
            if let Some(header) = self.head.first_chunk() {
                let end = 2 + frame_bytes(*header).map_err(malformed)?;
                if self.head.len() >= end {
                    let frame = self.head.split_to(end);
                    self.stream.took(end);
                    return decode_frame(&frame[2..]).map_err(malformed);
                }
            }
            if !self.more().await? {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }

    /// Waits for more of what the guest sends; returns whether it has not ended. Cancel safe.
    ///
    /// # Errors
    /// When the guest reset the stream.
    pub async fn more(&mut self) -> io::Result<bool> {
        let Some(chunk) = self.stream.chunk().await? else { return Ok(false) };
        if self.head.is_empty() {
            self.head = chunk.into();
        } else {
            self.head.extend_from_slice(&chunk);
        }
        Ok(true)
    }

    /// Answers the request.
    ///
    /// # Errors
    /// When the guest reset the stream.
    pub async fn answer(&mut self, answer: &EgressAnswer) -> io::Result<()> {
        let frame = encode_frame(answer).map_err(io::Error::other)?;
        self.answered = true;
        self.stream.write_all(&frame).await
    }

    /// Says something to the guest's program and ends the connection in order: it may still be
    /// sending, and would lose what it has not read by then.
    pub async fn end_saying(&mut self, bytes: &[u8]) {
        self.head = BytesMut::new();
        self.stream.discard();
        let ending = async {
            self.stream.write_all(bytes).await?;
            self.stream.finish().await?;
            self.stream.chunk().await
        };
        drop(timeout(REQUEST_WAIT_MAX, ending).await);
    }

    /// Answers the request, and ends the stream.
    pub async fn end_with(&mut self, answer: &EgressAnswer) {
        self.head = BytesMut::new();
        self.stream.discard();
        let ending = async {
            self.answer(answer).await?;
            self.stream.finish().await
        };
        // A guest that takes no answer gets none.
        drop(timeout(REQUEST_WAIT_MAX, ending).await);
    }
}
