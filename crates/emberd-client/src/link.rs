//! Connections to the daemon, with one request at a time on each.
//!
//! The future that waits for a response moves the bytes of its connection: no task is woken for a
//! request or a response.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::time::{Duration, Instant};
use std::{fmt, io};

use bytes::Bytes;
use emberd_api::Address;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::{Body, Frame, Incoming};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::http::response::Parts;
use hyper::upgrade::Upgraded;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use parking_lot::{Mutex, MutexGuard};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::client::TlsStream;
use tokio_util::either::Either;

use crate::local::{Cause, Local, LocalBody};
use crate::tls::Security;

/// Largest response that is read, in bytes (256 MiB): 8 MiB of standard output and of standard
/// error, each byte escaped in JSON as six, and again as base64.
const ANSWER_BYTES_MAX: usize = 256 << 20;

/// How long an unused connection is kept: less than the 10 s after which the daemon closes it, so
/// that no request meets a closing connection.
const IDLE_MAX: Duration = Duration::from_secs(5);

/// Most unused connections that are kept.
const IDLE_LINKS_MAX: usize = 64;

/// A connection to the daemon.
pub(crate) type Stream = TokioIo<Either<Either<TcpStream, UnixStream>, TlsStream<TcpStream>>>;

/// Why a request has no response.
#[derive(Debug)]
pub(crate) enum LinkError {
    /// The connection could not be opened.
    Connect(io::Error),
    /// Another user, who is not root, listens on the socket.
    Foreign(u32),
    /// The connection ended before the response was complete.
    Broken(Cause),
}

/// The unused connections to one daemon, or the daemon itself if it is in this process.
#[derive(Debug, Default)]
pub(crate) struct Links {
    idle: Mutex<Vec<(Instant, Link)>>,
    local: Option<Local>,
}

impl Links {
    /// No connections: `local` answers.
    pub fn to(local: Local) -> Self {
        Self { idle: Mutex::default(), local: Some(local) }
    }

    /// Sends `request` to the daemon at `address` and reads the whole response.
    ///
    /// Dropping the future closes the connection, which ends the operation.
    pub async fn ask(
        &self,
        address: &Address,
        security: &Security,
        request: Request<Full<Bytes>>,
    ) -> Result<(Parts, Bytes), LinkError> {
        if let Some(local) = &self.local {
            let (head, body) = local.begin(request).await;
            let mut answering = Answering::<Full<Bytes>>(Source::Local(body));
            let body = answering.rest(ANSWER_BYTES_MAX).await.map_err(LinkError::Broken)?;
            return Ok((head, body.into()));
        }
        let mut link = match self.idle().await {
            Some(link) => link,
            None => Link::open(address, security).await?,
        };
        let answer = link.ask(request).await.map_err(LinkError::Broken)?;
        if link.is_open().await {
            let mut idle = self.lock();
            if idle.len() < IDLE_LINKS_MAX {
                idle.push((Instant::now(), link));
            }
        }
        Ok(answer)
    }

    /// Sends `request` on an unused connection, or a new one, and returns once the response begins.
    ///
    /// Dropping the response closes the connection, which ends the operation.
    pub async fn stream(
        &self,
        address: &Address,
        security: &Security,
        request: Request<Full<Bytes>>,
    ) -> Result<(Parts, Answering), LinkError> {
        match self.idle().await {
            Some(link) => begin(link, request).await,
            None => self.stream_apart(address, security, request).await,
        }
    }

    /// As [`Self::stream`], on a connection of its own.
    pub async fn stream_apart<B>(
        &self,
        address: &Address,
        security: &Security,
        request: Request<B>,
    ) -> Result<(Parts, Answering<B>), LinkError>
    where
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<Cause>,
    {
        if let Some(local) = &self.local {
            let (head, body) = local.begin(request).await;
            return Ok((head, Answering(Source::Local(body))));
        }
        begin(Link::open(address, security).await?, request).await
    }

    /// Connects as [`connect`] does.
    pub async fn connect(
        &self,
        address: &Address,
        security: &Security,
    ) -> Result<Stream, LinkError> {
        if self.local.is_some() {
            return Err(without_connection());
        }
        connect(address, security).await
    }

    /// Sends a request that asks for another protocol, on a connection of its own.
    pub async fn upgrade(
        &self,
        address: &Address,
        security: &Security,
        request: Request<Full<Bytes>>,
    ) -> Result<(Parts, Answering), LinkError> {
        if self.local.is_some() {
            return Err(without_connection());
        }
        begin(Link::open(address, security).await?, request).await
    }

    /// The connection that was used last, if it is still open.
    async fn idle(&self) -> Option<Link> {
        loop {
            let (since, mut link) = self.lock().pop()?;
            if since.elapsed() > IDLE_MAX {
                // The others were used before it.
                self.lock().clear();
            } else if link.is_open().await {
                return Some(link);
            }
        }
    }

    /// No code that could panic runs under this lock.
    fn lock(&self) -> MutexGuard<'_, Vec<(Instant, Link)>> {
        self.idle.lock()
    }
}

/// Why there is no other protocol with a daemon in this process.
fn without_connection() -> LinkError {
    let error = "there is no connection to a daemon in this process";
    LinkError::Connect(io::Error::new(io::ErrorKind::Unsupported, error))
}

/// Connects to the daemon at `address` without sending anything. Only this user or root may listen
/// on a Unix socket.
async fn connect(address: &Address, security: &Security) -> Result<Stream, LinkError> {
    let stream = match address {
        Address::Tcp(authority) => Either::Left(Either::Left(connect_tcp(authority).await?)),
        Address::Tls(authority) => {
            let stream = connect_tcp(authority).await?;
            let secured = security.secure(authority, stream).await;
            Either::Right(secured.map_err(LinkError::Connect)?)
        }
        Address::Unix(path) => {
            let stream = UnixStream::connect(path).await.map_err(LinkError::Connect)?;
            let listener = stream.peer_cred().map_err(LinkError::Connect)?.uid();
            if !is_trusted(listener, rustix::process::geteuid().as_raw()) {
                return Err(LinkError::Foreign(listener));
            }
            Either::Left(Either::Right(stream))
        }
    };
    Ok(TokioIo::new(stream))
}

async fn connect_tcp(authority: &str) -> Result<TcpStream, LinkError> {
    let stream = TcpStream::connect(authority).await.map_err(LinkError::Connect)?;
    stream.set_nodelay(true).map_err(LinkError::Connect)?;
    Ok(stream)
}

/// Whether `user` may send requests to a daemon of `listener`.
fn is_trusted(listener: u32, user: u32) -> bool {
    listener == user || listener == 0
}

/// One connection, for requests with bodies of type `B`.
struct Link<B: Body + 'static = Full<Bytes>> {
    sender: SendRequest<B>,
    /// Moves the bytes. None once it has ended, or speaks another protocol.
    connection: Option<Pin<Box<dyn Future<Output = hyper::Result<()>> + Send>>>,
}

impl<B: Body> fmt::Debug for Link<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link").field("ended", &self.connection.is_none()).finish_non_exhaustive()
    }
}

impl<B> Link<B>
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Cause>,
{
    async fn open(address: &Address, security: &Security) -> Result<Self, LinkError> {
        let stream = connect(address, security).await?;
        let shaken = handshake(stream).await;
        let (sender, connection) =
            shaken.map_err(|error| LinkError::Connect(io::Error::other(error)))?;
        Ok(Self { sender, connection: Some(Box::pin(connection.with_upgrades())) })
    }

    /// Whether another request may be sent. Reads the state of the connection without waiting.
    async fn is_open(&mut self) -> bool {
        self.attend(async {}).await;
        self.connection.is_some() && self.sender.is_ready()
    }

    /// Sends a request and waits for the head of the response.
    async fn begin(&mut self, request: Request<B>) -> Result<Response<Incoming>, Cause> {
        let answer = self.sender.send_request(request);
        Ok(self.attend(answer).await?)
    }

    async fn ask(&mut self, request: Request<B>) -> Result<(Parts, Bytes), Cause> {
        let answer = self.sender.send_request(request);
        let answer = async move {
            let (head, body) = Response::into_parts(answer.await?);
            let body = Limited::new(body, ANSWER_BYTES_MAX).collect().await?;
            Ok((head, body.to_bytes()))
        };
        self.attend(answer).await
    }

    /// Waits for `awaited`, and moves the bytes of the connection meanwhile.
    ///
    /// Bytes that arrived before the connection's end count; `awaited` reports whether they are
    /// all.
    async fn attend<F: Future>(&mut self, awaited: F) -> F::Output {
        let mut awaited = pin!(awaited);
        poll_fn(|context| {
            if self.connection.as_mut().is_some_and(|moved| moved.as_mut().poll(context).is_ready())
            {
                self.connection = None;
            }
            awaited.as_mut().poll(context)
        })
        .await
    }
}

/// A response that is read piece by piece. Dropping it ends the operation.
#[derive(Debug)]
pub(crate) struct Answering<B: Body + 'static = Full<Bytes>>(Source<B>);

/// Where a response comes from.
#[derive(Debug)]
enum Source<B: Body + 'static> {
    Link(Link<B>, Incoming),
    Local(LocalBody),
}

impl<B> Answering<B>
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Cause>,
{
    /// Length in bytes, if the daemon named it.
    pub fn length(&self) -> Option<u64> {
        match &self.0 {
            Source::Link(_, body) => body.size_hint().exact(),
            Source::Local(body) => body.size_hint().exact(),
        }
    }

    /// Reads the next piece; `None` at the end. Cancel safe.
    pub async fn piece(&mut self) -> Result<Option<Bytes>, Cause> {
        loop {
            let frame = match &mut self.0 {
                Source::Link(link, body) => link.attend(body.frame()).await.transpose()?,
                Source::Local(body) => body.frame().await.transpose()?,
            };
            match frame.map(Frame::into_data) {
                None => return Ok(None),
                Some(Ok(piece)) => return Ok(Some(piece)),
                Some(Err(_trailers)) => {}
            }
        }
    }

    /// Waits until the connection speaks the protocol that the response, whose head is `head`,
    /// switches to.
    pub async fn upgraded(self, head: Parts) -> Result<Upgraded, Cause> {
        let Source::Link(mut link, _body) = self.0 else {
            return Err("the response came over no connection".into());
        };
        let upgraded = hyper::upgrade::on(Response::from_parts(head, ()));
        Ok(link.attend(upgraded).await?)
    }

    /// Reads the rest, at most `bytes_max` bytes.
    pub async fn rest(&mut self, bytes_max: usize) -> Result<Vec<u8>, Cause> {
        let mut rest = Vec::new();
        while let Some(piece) = self.piece().await? {
            rest.extend_from_slice(&piece);
            if rest.len() > bytes_max {
                return Err(format!("the response has more than {bytes_max} bytes").into());
            }
        }
        Ok(rest)
    }
}

async fn begin<B>(
    mut link: Link<B>,
    request: Request<B>,
) -> Result<(Parts, Answering<B>), LinkError>
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Cause>,
{
    let head = link.begin(request).await.map_err(LinkError::Broken)?;
    let (head, body) = Response::into_parts(head);
    Ok((head, Answering(Source::Link(link, body))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_for_daemons_of_the_user_and_of_root() {
        assert!(is_trusted(7, 7) && is_trusted(0, 7) && is_trusted(0, 0));
        assert!(!is_trusted(8, 7) && !is_trusted(7, 0));
    }
}
