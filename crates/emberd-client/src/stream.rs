//! Bodies that are not held as a whole: a request's on its way out, an answer's on its way in.
//!
//! Each such request has a connection of its own, which a task moves the bytes of until the
//! answer has been read or dropped.

use std::convert::Infallible;
use std::fmt;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use emberd_api::Address;
use futures::{Stream, TryStreamExt as _, stream};
use http_body_util::BodyExt as _;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::client::conn::http1::handshake;
use hyper::{Request, Response, StatusCode};
use tokio::io::AsyncRead;
use tokio_util::io::ReaderStream;
use tokio_util::task::AbortOnDropHandle;

use crate::client::ClientError;
use crate::link::{LinkError, connect};

/// Bytes that are read from a file at once (64 KiB).
const READ_BYTES: usize = 64 << 10;

/// Largest answer that is read as a whole, in bytes (1 MiB).
const SMALL_BYTES_MAX: usize = 1 << 20;

type Source = Pin<Box<dyn Stream<Item = io::Result<Bytes>> + Send>>;

/// What is uploaded.
pub struct Upload {
    source: Source,
    length: Option<u64>,
}

impl Upload {
    /// The pieces of `source`, of a length nobody knows yet. An error of it ends the request.
    pub fn new(source: impl Stream<Item = io::Result<Bytes>> + Send + 'static) -> Self {
        Self { source: Box::pin(source), length: None }
    }

    /// All that `reader` has.
    pub fn reader(reader: impl AsyncRead + Send + 'static) -> Self {
        Self::new(ReaderStream::with_capacity(reader, READ_BYTES))
    }

    /// Bytes that are at hand.
    pub fn bytes(bytes: impl Into<Bytes>) -> Self {
        let bytes = bytes.into();
        let length = Some(bytes.len() as u64);
        let pieces = if bytes.is_empty() { None } else { Some(Ok(bytes)) };
        Self { source: Box::pin(stream::iter(pieces)), length }
    }

    /// Says how many bytes there are; fewer or more end the request.
    #[must_use]
    pub fn of_length(self, length: u64) -> Self {
        Self { length: Some(length), ..self }
    }

    /// Calls `told` with the size of each piece that is sent.
    #[must_use]
    pub fn told(self, mut told: impl FnMut(usize) + Send + 'static) -> Self {
        let source = self.source.inspect_ok(move |piece| told(piece.len()));
        Self { source: Box::pin(source), ..self }
    }
}

impl fmt::Debug for Upload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Upload").field("length", &self.length).finish_non_exhaustive()
    }
}

impl Body for Upload {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let next = self.source.as_mut().poll_next(context);
        next.map(|piece| piece.map(|piece| piece.map(Frame::data)))
    }

    fn size_hint(&self) -> SizeHint {
        self.length.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

/// An answer on its way in. Dropping it closes the connection.
#[derive(Debug)]
pub struct Download {
    address: Address,
    body: Incoming,
    _connection: AbortOnDropHandle<Infallible>,
}

impl Download {
    /// How many bytes there are, if the daemon said.
    pub fn length(&self) -> Option<u64> {
        self.body.size_hint().exact()
    }

    /// The next piece; none at the end.
    ///
    /// # Errors
    /// [`ClientError::Broken`] when the daemon could not send all.
    pub async fn next(&mut self) -> Result<Option<Bytes>, ClientError> {
        while let Some(frame) = self.body.frame().await {
            let frame = frame.map_err(|error| self.broken(error.into()))?;
            if let Ok(data) = frame.into_data() {
                return Ok(Some(data));
            }
        }
        Ok(None)
    }

    /// The whole of an answer that is small.
    pub(crate) async fn small(mut self) -> Result<Vec<u8>, ClientError> {
        let mut body = Vec::new();
        while let Some(piece) = self.next().await? {
            if body.len() + piece.len() > SMALL_BYTES_MAX {
                return Err(self.broken("the answer is larger than 1 MiB".into()));
            }
            body.extend_from_slice(&piece);
        }
        Ok(body)
    }

    fn broken(&self, source: Box<dyn std::error::Error + Send + Sync>) -> ClientError {
        ClientError::unanswered(&self.address, LinkError::Broken(source))
    }
}

/// Sends `request` to the daemon at `address` on a connection of its own.
pub(crate) async fn ask(
    address: &Address,
    request: Request<Upload>,
) -> Result<(StatusCode, Download), LinkError> {
    let stream = connect(address).await.map_err(LinkError::Connect)?;
    let broken = |error: hyper::Error| LinkError::Broken(error.into());
    let (mut sender, connection) = handshake(stream).await.map_err(broken)?;
    let connection = AbortOnDropHandle::new(tokio::spawn(async move {
        // What went wrong is told to whoever waits for the answer, which is not over before
        // it is dropped.
        connection.await.ok();
        std::future::pending().await
    }));
    let response = sender.send_request(request).await.map_err(broken)?;
    let (head, body) = Response::into_parts(response);
    Ok((head.status, Download { address: address.clone(), body, _connection: connection }))
}
