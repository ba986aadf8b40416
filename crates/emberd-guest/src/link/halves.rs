//! The two directions of a connection apart, for operations that read and write at once.

use emberd_proto::{Decoder, Frame};
use tokio::io::{AsyncRead, AsyncWrite, ReadHalf, WriteHalf};

use crate::error::ChannelError;
use crate::wire::{self, next_frame};

/// Reading half of a greeted connection.
#[derive(Debug)]
pub(crate) struct Reader<S> {
    stream: ReadHalf<S>,
    decoder: Decoder,
    generation: u32,
}

impl<S: AsyncRead> Reader<S> {
    pub fn new(stream: ReadHalf<S>, decoder: Decoder, generation: u32) -> Self {
        Self { stream, decoder, generation }
    }

    /// The whole stream of which `writer` is the other half, what was read of it ahead, and the
    /// generation.
    pub fn join(self, writer: Writer<S>) -> (S, Decoder, u32)
    where
        S: Unpin,
    {
        (self.stream.unsplit(writer.0), self.decoder, self.generation)
    }

    /// Reads the next frame. Cancel safe.
    pub async fn frame(&mut self) -> Result<Frame, ChannelError> {
        next_frame(&mut self.stream, &mut self.decoder).await
    }
}

/// Writing half of a greeted connection.
#[derive(Debug)]
pub(crate) struct Writer<S>(WriteHalf<S>);

impl<S: AsyncWrite> Writer<S> {
    pub fn new(stream: WriteHalf<S>) -> Self {
        Self(stream)
    }

    /// Writes frames as they are.
    pub async fn write(&mut self, frames: &[u8]) -> Result<(), ChannelError> {
        wire::write(&mut self.0, frames).await
    }
}
