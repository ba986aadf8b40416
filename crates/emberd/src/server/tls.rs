//! TLS over accepted connections: the handshake, its limits, and certificates that are replaced.
//!
//! ```text
//! Socket ─▶ first byte ─┬─ no TLS ──▶ an error in plain HTTP, and the end
//!                       └─ handshake (some under way, each for some time) ─▶ Secured ─▶ HTTP
//! ```
//!
//! A connection keeps the certificate that it began with. Only TLS 1.3 and HTTP/1.1 are spoken.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use emberd_api::{ErrorBody, ErrorCode};
use parking_lot::RwLock;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::server::TlsStream;

use super::connection::{Connection, ConnectionHandle, Peer};
use super::permits::ConnectionPermits;
use super::socket::Socket;

pub(crate) mod files;

/// How long a handshake may take. It is one round trip, and milliseconds of work.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// Most handshakes under way at once. For one more, the oldest is given up: a client that begins
/// them and does not go on locks nobody out.
const HANDSHAKES_MAX: usize = 128;

/// First byte of every TLS connection: a record of the handshake (RFC 8446 §5.1).
const HANDSHAKE_RECORD: u8 = 22;

/// How long a client that is refused may take to read why.
const REFUSAL_TIMEOUT: Duration = Duration::from_secs(1);

/// Most bytes of such a client that are read (64 KiB), so that the answer is not reset.
const REFUSED_BYTES_MAX: u64 = 64 << 10;

/// TLS of one listener. Clones share it.
#[derive(Debug, Clone)]
pub(crate) struct Tls {
    config: Arc<RwLock<Arc<ServerConfig>>>,
    handshakes: Arc<ConnectionPermits>,
}

impl Tls {
    /// TLS with the certificate of `config`.
    pub fn new(config: ServerConfig) -> Self {
        let config = Arc::new(RwLock::new(Arc::new(config)));
        Self { config, handshakes: ConnectionPermits::new(HANDSHAKES_MAX) }
    }

    /// Uses another certificate for connections from now on.
    pub fn replace(&self, config: ServerConfig) {
        *self.config.write() = Arc::new(config);
    }

    /// Makes the handshake on `socket`.
    ///
    /// # Errors
    /// The client speaks no TLS, breaks it, has no certificate where it must, takes too long, or
    /// was given up for another.
    pub async fn secure(&self, socket: Socket) -> io::Result<Secured> {
        let _permit = self.handshakes.acquire().await;
        // Until it is over, the connection is idle: it may be given up.
        let handle = ConnectionHandle::default();
        let _entry = self.handshakes.add(handle.clone());
        tokio::select! {
            secured = timeout(HANDSHAKE_TIMEOUT, self.shake_hands(socket)) => {
                let late = "the TLS handshake took too long";
                secured.unwrap_or_else(|_| Err(io::Error::new(io::ErrorKind::TimedOut, late)))
            }
            () = handle.aborted() => Err(io::Error::other("given up for another TLS handshake")),
        }
    }

    async fn shake_hands(&self, socket: Socket) -> io::Result<Secured> {
        if socket.first_byte().await? != Some(HANDSHAKE_RECORD) {
            // A client that does not read it has no use for it.
            timeout(REFUSAL_TIMEOUT, answer_in_plain(socket)).await.ok();
            return Err(io::Error::other("the client speaks no TLS"));
        }
        let config = Arc::clone(&self.config.read());
        match TlsAcceptor::from(config).accept(socket).into_fallible().await {
            Ok(stream) => Ok(Secured(stream)),
            Err((error, socket)) => {
                timeout(REFUSAL_TIMEOUT, end(socket)).await.ok();
                Err(error)
            }
        }
    }
}

/// Answers a client that speaks no TLS, as HTTP/1.1 does.
async fn answer_in_plain(mut socket: Socket) -> io::Result<()> {
    let body = ErrorBody {
        error: "this port takes TLS only".to_owned(),
        code: ErrorCode::InvalidRequest,
        hint: Some("begin the address with https://".to_owned()),
        limit: None,
    };
    let body = serde_json::to_string(&body).expect("bodies have string keys only");
    let length = body.len();
    let head = "HTTP/1.1 400 Bad Request\r\nconnection: close\r\ncontent-type: application/json";
    let answer = format!("{head}\r\ncontent-length: {length}\r\n\r\n{body}");
    socket.write_all(answer.as_bytes()).await?;
    end(socket).await
}

/// Ends a connection whose client has yet to read why. What is not read here would reset the
/// connection before that.
async fn end(mut socket: Socket) -> io::Result<()> {
    socket.shutdown().await?;
    let mut rest = socket.take(REFUSED_BYTES_MAX);
    tokio::io::copy(&mut rest, &mut tokio::io::sink()).await.map(drop)
}

/// A connection in TLS.
#[derive(Debug)]
pub(crate) struct Secured(TlsStream<Socket>);

impl Connection for Secured {
    fn peer(&self) -> Peer {
        self.0.get_ref().0.peer()
    }

    fn abort(&self) {
        self.0.get_ref().0.abort();
    }
}

impl AsyncRead for Secured {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(context, buffer)
    }
}

impl AsyncWrite for Secured {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write_vectored(context, pieces)
    }

    fn is_write_vectored(&self) -> bool {
        self.0.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertifiedKey, generate_simple_self_signed};
    use tokio::net::{TcpListener, TcpStream};
    use tokio::time::Instant;

    use super::*;

    /// TLS with a certificate of its own, and both ends of a connection.
    async fn begin() -> (Tls, Socket, TcpStream) {
        let dir = tempfile::tempdir().unwrap();
        let CertifiedKey { cert, signing_key } =
            generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let file = |name: &str, text: String| {
            let path = dir.path().join(name);
            std::fs::write(&path, text).unwrap();
            path
        };
        let options = emberd_config::TlsOptions {
            cert: file("cert", cert.pem()),
            key: file("key", signing_key.serialize_pem()),
            client_ca: None,
        };
        let (tls, _) = files::open(&options).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let theirs = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        (tls, listener.accept().await.unwrap().0.into(), theirs)
    }

    #[tokio::test(start_paused = true)]
    async fn half_a_handshake_is_waited_for_some_time_only() {
        for sent in [&[][..], &[HANDSHAKE_RECORD, 3, 1], &[HANDSHAKE_RECORD, 3, 1, 0, 200, 1]] {
            let (tls, socket, mut theirs) = begin().await;
            theirs.write_all(sent).await.unwrap();
            let start = Instant::now();
            let error = tls.secure(socket).await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::TimedOut, "{sent:?}");
            assert!(start.elapsed() >= HANDSHAKE_TIMEOUT);
        }
    }

    #[tokio::test]
    async fn the_oldest_handshake_is_given_up_for_one_too_many() {
        let (tls, first, _theirs) = begin().await;
        let mut held = Vec::new();
        let given_up = tokio::spawn({
            let tls = tls.clone();
            async move { tls.secure(first).await.unwrap_err().to_string() }
        });
        for _ in 0..HANDSHAKES_MAX {
            tokio::task::yield_now().await;
            let (_, socket, theirs) = begin().await;
            let tls = tls.clone();
            held.push((theirs, tokio::spawn(async move { tls.secure(socket).await })));
        }
        assert_eq!(given_up.await.unwrap(), "given up for another TLS handshake");
        assert!(held.iter().all(|(_, handshake)| !handshake.is_finished()));
    }

    #[tokio::test]
    async fn a_client_without_tls_is_told_so() {
        let (tls, socket, mut theirs) = begin().await;
        theirs.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
        let (secured, answer) = tokio::join!(tls.secure(socket), async {
            let mut answer = String::new();
            theirs.read_to_string(&mut answer).await.unwrap();
            drop(theirs);
            answer
        });
        assert_eq!(secured.unwrap_err().to_string(), "the client speaks no TLS");
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 400 "), "{head}");
        let body: ErrorBody = serde_json::from_str(body).unwrap();
        assert!(body.hint.unwrap().contains("https://"));
    }
}
