//! The egress session of a guest: a connection that carries what its programs connect to.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::{Buf as _, BytesMut};
use emberd_proto::{EgressCapture, GuestMessage, HostMessage, RefusalCode};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::error::GuestError;
use crate::host::ByteStream;
use crate::line::Line;
use crate::session::Session;

/// A guest's answer to the question for its egress session.
#[derive(Debug)]
pub enum EgressLink<S> {
    /// The guest sends the connections of its programs over this stream, in the session of
    /// [`emberd_proto::egress`].
    Ready(EgressStream<S>),
    /// The guest cannot capture them.
    Unavailable {
        /// Why, for people. The guest may say anything.
        why: String,
    },
}

/// The raw bytes of a connection after its last frame.
#[derive(Debug)]
pub struct EgressStream<S> {
    /// Bytes that came together with the last frame.
    ahead: BytesMut,
    stream: S,
}

/// Asks for the session over a connection of its own: the idle ones are for execs.
pub(crate) async fn open<S: ByteStream>(
    session: Arc<Session<S>>,
) -> Result<EgressLink<S>, GuestError> {
    let mut line = Line::open_another(session).await?;
    match line.ask(&HostMessage::Egress).await {
        Ok(GuestMessage::Egress(EgressCapture::Ready)) => {
            let (stream, ahead) = line.into_raw();
            Ok(EgressLink::Ready(EgressStream { ahead, stream }))
        }
        Ok(GuestMessage::Egress(EgressCapture::Unavailable { why })) => {
            line.done();
            Ok(EgressLink::Unavailable { why })
        }
        Ok(_) => Err(line.broken("unexpected answer to an egress request").await),
        Err(GuestError::Refused(refusal)) if refusal.code == RefusalCode::UnknownOperation => {
            line.done();
            let why = "the image's agent is older than egress: build the initramfs again";
            Ok(EgressLink::Unavailable { why: why.to_owned() })
        }
        Err(error) => Err(error),
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for EgressStream<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.ahead.is_empty() {
            return Pin::new(&mut self.stream).poll_read(context, buffer);
        }
        let bytes = self.ahead.len().min(buffer.remaining());
        buffer.put_slice(&self.ahead[..bytes]);
        self.ahead.advance(bytes);
        if self.ahead.is_empty() {
            self.ahead = BytesMut::new();
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for EgressStream<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
