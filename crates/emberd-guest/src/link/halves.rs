//! The two directions of a connection apart, for operations that read and write at once.

use bytes::BytesMut;
use emberd_proto::frame::encode_message;
use emberd_proto::{Decoder, Frame, HostMessage, Kind};
use tokio::io::{AsyncRead, AsyncWrite, ReadHalf, WriteHalf};

use crate::error::ChannelError;
use crate::wire::{self, next_frame, write_frames};

/// Reading half of a greeted connection.
#[derive(Debug)]
pub(crate) struct Reader<S> {
    stream: ReadHalf<S>,
    decoder: Decoder,
}

impl<S: AsyncRead> Reader<S> {
    pub fn new(stream: ReadHalf<S>, decoder: Decoder) -> Self {
        Self { stream, decoder }
    }

    /// The whole stream of which `writer` is the other half, and what was read of it ahead.
    pub fn join(self, writer: Writer<S>) -> (S, Decoder)
    where
        S: Unpin,
    {
        (self.stream.unsplit(writer.0), self.decoder)
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

    /// Writes one message.
    pub async fn say(&mut self, message: &HostMessage) -> Result<(), ChannelError> {
        let mut out = BytesMut::new();
        encode_message(message, &mut out);
        wire::write(&mut self.0, &out).await
    }

    /// Writes `payload` in frames of one kind; an empty one as one frame.
    pub async fn send(&mut self, kind: Kind, payload: &[u8]) -> Result<(), ChannelError> {
        write_frames(&mut self.0, kind, payload).await
    }
}
