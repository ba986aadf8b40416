//! One request to a port and its response, over its own connection.
//!
//! The future of the response, and then its body, move the bytes of the connection. Dropping them
//! closes it.

use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Body;
use axum::extract::Request;
use axum::response::Response;
use emberd_sandbox::GuestTcp;
use hyper::body::{Body as HttpBody, Bytes, Frame, Incoming, SizeHint};
use hyper::client::conn::http1::{Builder, SendRequest};
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio::time::{sleep, timeout};

/// Largest head of a response, in bytes (128 KiB). As many bytes are read ahead of the body.
const HEAD_BYTES_MAX: usize = 128 << 10;

/// Most fields in the head of a response.
const HEAD_FIELDS_MAX: usize = 200;

/// How long the server on a port may take until the head of its response.
const HEAD_MAX: Duration = Duration::from_secs(600);

/// How long an exchange may go on once the daemon shuts down: the sandbox is about to end.
const DRAIN_MAX: Duration = Duration::from_secs(2);

/// Why a port has no response.
#[derive(Debug, thiserror::Error)]
pub enum ExchangeError {
    /// The server speaks another protocol, or closed the connection.
    #[error("the server on the port did not answer with HTTP")]
    NotHttp(#[source] hyper::Error),
    /// The server switches to a protocol without a request.
    #[error("the server on the port switched to a protocol without a request")]
    NotAsked,
    /// The server took too long.
    #[error("the server on the port did not answer within {0:?}")]
    Late(Duration),
    /// The daemon is shutting down.
    #[error("the daemon is shutting down")]
    ShuttingDown,
}

/// Moves the bytes of a connection.
type Inner = Pin<Box<dyn Future<Output = hyper::Result<()>> + Send>>;

/// A connection to a port, before its request.
pub struct Exchange {
    sender: SendRequest<Body>,
    connection: Inner,
}

/// Starts HTTP on `tcp`.
pub async fn open(tcp: GuestTcp) -> Result<Exchange, ExchangeError> {
    let mut builder = Builder::new();
    builder.max_buf_size(HEAD_BYTES_MAX).max_headers(HEAD_FIELDS_MAX);
    let (sender, connection) =
        builder.handshake(TokioIo::new(tcp)).await.map_err(ExchangeError::NotHttp)?;
    Ok(Exchange { sender, connection: Box::pin(connection.with_upgrades()) })
}

impl Exchange {
    /// Sends the request and waits for the head of the response, until some time after `closed`.
    pub async fn ask(
        mut self,
        request: Request,
        closed: impl Future<Output = ()>,
    ) -> Result<(Response<Incoming>, Connection), ExchangeError> {
        let mut connection = Connection { inner: Some(self.connection) };
        let answer = self.sender.send_request(request);
        let answer = {
            let drained = async {
                closed.await;
                sleep(DRAIN_MAX).await;
            };
            tokio::select! {
                answer = timeout(HEAD_MAX, connection.moving(answer)) => answer,
                () = drained => return Err(ExchangeError::ShuttingDown),
            }
        };
        let answer = answer.map_err(|_| ExchangeError::Late(HEAD_MAX))?;
        Ok((answer.map_err(ExchangeError::NotHttp)?, connection))
    }
}

/// A connection on which a response has begun.
pub struct Connection {
    /// None once it has ended.
    inner: Option<Inner>,
}

impl Connection {
    /// Moves the bytes that are ready.
    fn advance(&mut self, context: &mut Context<'_>) {
        if let Some(inner) = &mut self.inner
            && inner.as_mut().poll(context).is_ready()
        {
            self.inner = None;
        }
    }

    /// Waits for `wanted`, and moves the bytes of the connection meanwhile. Bytes that arrived
    /// before the end of the connection count.
    async fn moving<T>(&mut self, wanted: impl Future<Output = T>) -> T {
        let mut wanted = pin!(wanted);
        poll_fn(|context| {
            self.advance(context);
            wanted.as_mut().poll(context)
        })
        .await
    }

    /// The body of the response, which moves the bytes of this connection; cut some time after
    /// `closed`.
    pub fn body(self, body: Incoming, closed: impl Future<Output = ()> + Send + 'static) -> Body {
        let cut = Box::pin(async {
            closed.await;
            sleep(DRAIN_MAX).await;
        });
        Body::new(AnswerBody { body, connection: self, cut })
    }

    /// Waits until the guest's side of the connection is free for other bytes than HTTP.
    pub async fn hand_over(mut self, upgrade: OnUpgrade) -> Option<Upgraded> {
        self.moving(upgrade).await.ok()
    }
}

struct AnswerBody {
    body: Incoming,
    connection: Connection,
    cut: Pin<Box<dyn Future<Output = ()> + Send>>,
}

impl HttpBody for AnswerBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        if self.cut.as_mut().poll(context).is_ready() {
            let cut =
                io::Error::new(io::ErrorKind::ConnectionAborted, "the daemon is shutting down");
            return Poll::Ready(Some(Err(axum::Error::new(cut))));
        }
        self.connection.advance(context);
        let frame = Pin::new(&mut self.body).poll_frame(context);
        frame.map(|frame| frame.map(|frame| frame.map_err(axum::Error::new)))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
