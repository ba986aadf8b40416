//! Sends batches of spans to their endpoint: one request on a connection of its own.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use axum::body::Body;
use axum::http::header::HOST;
use axum::http::uri::{PathAndQuery, Scheme};
use axum::http::{HeaderValue, Uri};
use bytes::Bytes;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use opentelemetry_http::{HttpClient, HttpError, Request, Response};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::runtime::Handle;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

/// How long one batch may take.
const POST_MAX: Duration = Duration::from_secs(10);

/// Largest answer that is read, in bytes (64 KiB).
const ANSWER_BYTES_MAX: usize = 64 << 10;

/// Sends over `http` and `https`, on a runtime. The exporter's thread has none.
pub struct Post {
    runtime: Handle,
    /// Made for the first endpoint with TLS: reading what this host trusts takes a while.
    tls: OnceLock<TlsConnector>,
}

type Sending<'a> = Pin<Box<dyn Future<Output = Result<Response<Bytes>, HttpError>> + Send + 'a>>;

/// A connection to an endpoint.
trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

impl Post {
    pub fn new(runtime: Handle) -> Self {
        Self { runtime, tls: OnceLock::new() }
    }
}

impl fmt::Debug for Post {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Post").finish_non_exhaustive()
    }
}

impl HttpClient for Post {
    fn send_bytes<'post, 'sending>(&'post self, request: Request<Bytes>) -> Sending<'sending>
    where
        'post: 'sending,
        Self: 'sending,
    {
        let is_secured = request.uri().scheme() == Some(&Scheme::HTTPS);
        let tls = is_secured.then(|| self.tls.get_or_init(connector).clone());
        // A timer is made where the runtime is.
        let sending = async move { timeout(POST_MAX, send(request, tls)).await };
        let sending = self.runtime.spawn(sending);
        Box::pin(async move { sending.await?? })
    }
}

/// Trusts what this host trusts.
fn connector() -> TlsConnector {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("the provider has every version")
        .with_root_certificates(roots)
        .with_no_client_auth();
    TlsConnector::from(Arc::new(config))
}

async fn send(
    request: Request<Bytes>,
    tls: Option<TlsConnector>,
) -> Result<Response<Bytes>, HttpError> {
    let stream = connect(request.uri(), tls).await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let connection = tokio::spawn(connection);
    let (mut head, body) = request.into_parts();
    if let Some(authority) = head.uri.authority() {
        head.headers.insert(HOST, HeaderValue::try_from(authority.as_str())?);
    }
    head.uri = head.uri.path_and_query().map_or("/", PathAndQuery::as_str).parse()?;
    let response = sender.send_request(Request::from_parts(head, Body::from(body))).await?;
    let (head, body) = response.into_parts();
    let body = axum::body::to_bytes(Body::new(body), ANSWER_BYTES_MAX).await?;
    connection.abort();
    Ok(Response::from_parts(head, body))
}

async fn connect(uri: &Uri, tls: Option<TlsConnector>) -> io::Result<Box<dyn Stream>> {
    let unusable = || io::Error::new(io::ErrorKind::InvalidInput, "the endpoint names no host");
    let host = uri.host().ok_or_else(unusable)?.trim_matches(['[', ']']).to_owned();
    let port = uri.port_u16().unwrap_or(if tls.is_some() { 443 } else { 80 });
    let stream = TcpStream::connect((host.as_str(), port)).await?;
    let Some(tls) = tls else { return Ok(Box::new(stream)) };
    let name = ServerName::try_from(host).map_err(io::Error::other)?;
    Ok(Box::new(tls.connect(name, stream).await?))
}
