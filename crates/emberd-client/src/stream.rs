//! Bodies of requests and responses that are streams. Each such request has its own connection.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use emberd_api::Address;
use futures::{Stream, TryStreamExt as _, stream};
use hyper::body::{Body, Frame, SizeHint};
use hyper::{Request, StatusCode};
use tokio::io::AsyncRead;
use tokio_util::io::ReaderStream;

use crate::client::{Client, ClientError};
use crate::link::{Answering, LinkError};
use crate::local::Cause;

/// Most bytes that are read from a file at once (64 KiB).
const READ_BYTES: usize = 64 << 10;

/// Largest response that is read as a whole, in bytes (1 MiB).
const SMALL_BYTES_MAX: usize = 1 << 20;

type Source = Pin<Box<dyn Stream<Item = io::Result<Bytes>> + Send>>;

/// Content of an upload.
pub struct Upload {
    source: Source,
    length: Option<u64>,
}

impl Upload {
    /// Uploads the pieces of `source`, of unknown length. An error of `source` ends the request.
    pub fn new(source: impl Stream<Item = io::Result<Bytes>> + Send + 'static) -> Self {
        Self { source: Box::pin(source), length: None }
    }

    /// Uploads all that `reader` yields.
    pub fn reader(reader: impl AsyncRead + Send + 'static) -> Self {
        Self::new(ReaderStream::with_capacity(reader, READ_BYTES))
    }

    /// Uploads `bytes`.
    pub fn bytes(bytes: impl Into<Bytes>) -> Self {
        let bytes = bytes.into();
        let length = Some(bytes.len() as u64);
        let pieces = if bytes.is_empty() { None } else { Some(Ok(bytes)) };
        Self { source: Box::pin(stream::iter(pieces)), length }
    }

    /// Sets the length in bytes. Fewer or more bytes end the request.
    #[must_use]
    pub fn of_length(self, length: u64) -> Self {
        Self { length: Some(length), ..self }
    }

    /// Calls `told` with the size in bytes of each piece that is sent.
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

/// A response that is read piece by piece. Dropping it closes the connection.
#[derive(Debug)]
pub struct Download {
    address: Address,
    answering: Answering<Upload>,
}

impl Download {
    /// Length in bytes, if the daemon named it.
    pub fn length(&self) -> Option<u64> {
        self.answering.length()
    }

    /// Reads the next piece; none at the end. Cancel safe.
    ///
    /// # Errors
    /// [`ClientError::Broken`] if the response breaks off.
    pub async fn next(&mut self) -> Result<Option<Bytes>, ClientError> {
        self.answering.piece().await.map_err(|cause| self.broken(cause))
    }

    /// Reads the whole of a small response.
    pub(crate) async fn small(mut self) -> Result<Vec<u8>, ClientError> {
        self.answering.rest(SMALL_BYTES_MAX).await.map_err(|cause| self.broken(cause))
    }

    fn broken(&self, cause: Cause) -> ClientError {
        ClientError::unanswered(&self.address, LinkError::Broken(cause))
    }
}

/// Sends `request` to the daemon of `client` on its own connection.
pub(crate) async fn ask(
    client: &Client,
    request: Request<Upload>,
) -> Result<(StatusCode, Download), LinkError> {
    let address = &client.address;
    let asked = client.links.stream_apart(address, &client.security, request).await;
    let (head, answering) = asked?;
    Ok((head.status, Download { address: address.clone(), answering }))
}
