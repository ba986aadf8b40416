//! Logs as they grow, and connections to ports.

use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};

use bytes::Bytes;
use emberd_api::{TUNNEL_PROTOCOL, paths};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1::handshake;
use hyper::header::{CONNECTION, HeaderValue, UPGRADE};
use hyper::upgrade::Upgraded;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::client::{Client, ClientError};
use crate::link::{LinkError, connect};

/// Largest error body that is read, in bytes (1 MiB).
const ERROR_BYTES_MAX: usize = 1 << 20;

impl Client {
    /// Reads the console log of a sandbox: the last `tail` lines, or all that are kept. With
    /// `follow`, the log goes on until the sandbox or the daemon ends.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn logs(
        &self,
        id: &str,
        tail: Option<usize>,
        follow: bool,
    ) -> Result<Logs, ClientError> {
        let request = self.request(Method::GET, &paths::logs(id, tail, follow), Bytes::new());
        let (answer, mover) = self.begin(request).await?;
        if answer.status() != StatusCode::OK {
            return Err(self.refusal(answer, mover).await);
        }
        Ok(Logs { client: self.clone(), body: answer.into_body(), mover })
    }

    /// Connects to a TCP port inside a sandbox.
    ///
    /// # Errors
    /// [`ClientError`], also if nothing listens on the port.
    pub async fn connect_port(&self, id: &str, port: u16) -> Result<Tunnel, ClientError> {
        let mut request = self.request(Method::GET, &paths::port(id, port), Bytes::new());
        let headers = request.headers_mut();
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(UPGRADE, HeaderValue::from_static(TUNNEL_PROTOCOL));
        let (mut answer, mut mover) = self.begin(request).await?;
        if answer.status() != StatusCode::SWITCHING_PROTOCOLS {
            return Err(self.refusal(answer, mover).await);
        }
        let upgraded = mover.moving(hyper::upgrade::on(&mut answer)).await;
        let upgraded = upgraded.map_err(|error| self.broken(error))?;
        Ok(Tunnel(TokioIo::new(upgraded)))
    }

    /// Sends a request on its own connection and waits for the head of the response.
    async fn begin(
        &self,
        request: Request<Full<Bytes>>,
    ) -> Result<(Response<Incoming>, Mover), ClientError> {
        let stream = connect(self.address()).await.map_err(|error| self.unanswered(error))?;
        let (mut sender, connection) =
            handshake(stream).await.map_err(|error| self.broken(error))?;
        let mut mover = Mover(Some(Box::pin(connection.with_upgrades())));
        let answer = mover.moving(sender.send_request(request)).await;
        Ok((answer.map_err(|error| self.broken(error))?, mover))
    }

    async fn refusal(&self, answer: Response<Incoming>, mut mover: Mover) -> ClientError {
        let (status, body) = (answer.status(), Limited::new(answer.into_body(), ERROR_BYTES_MAX));
        match mover.moving(body.collect()).await {
            Ok(body) => self.refused(status, &body.to_bytes()),
            Err(source) => self.unanswered(LinkError::Broken(source)),
        }
    }
}

/// Moves the bytes of a connection until it ends.
struct Mover(Option<Pin<Box<dyn Future<Output = hyper::Result<()>> + Send>>>);

impl Mover {
    fn advance(&mut self, context: &mut Context<'_>) {
        // Bytes that arrived before the end count; the body reports whether they are all.
        if self.0.as_mut().is_some_and(|moved| moved.as_mut().poll(context).is_ready()) {
            self.0 = None;
        }
    }

    /// Waits for `wanted`, and moves the bytes of the connection meanwhile.
    async fn moving<T>(&mut self, wanted: impl Future<Output = T>) -> T {
        let mut wanted = pin!(wanted);
        poll_fn(|context| {
            self.advance(context);
            wanted.as_mut().poll(context)
        })
        .await
    }
}

/// A console log that is being read. Dropping it closes the connection.
pub struct Logs {
    client: Client,
    body: Incoming,
    mover: Mover,
}

impl Logs {
    /// Reads the next piece; `None` at the end. Cancel safe.
    ///
    /// # Errors
    /// [`ClientError::Broken`].
    pub async fn next(&mut self) -> Result<Option<Bytes>, ClientError> {
        loop {
            match self.mover.moving(self.body.frame()).await {
                None => return Ok(None),
                Some(Err(error)) => return Err(self.client.broken(error)),
                Some(Ok(frame)) => {
                    if let Ok(bytes) = frame.into_data() {
                        return Ok(Some(bytes));
                    }
                }
            }
        }
    }
}

/// A connection to a port inside a sandbox. Shutting it down ends the bytes to the port.
#[derive(Debug)]
pub struct Tunnel(TokioIo<Upgraded>);

impl AsyncRead for Tunnel {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(context, buffer)
    }
}

impl AsyncWrite for Tunnel {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(context)
    }
}
