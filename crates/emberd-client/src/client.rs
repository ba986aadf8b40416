//! The client, its methods for sandboxes and the daemon, and every error of a call.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use emberd_api::{
    ADDR_DEFAULT, Address, AddressError, ErrorBody, ExecBody, ExecOutcome, Health, Info,
    ListSandboxes, Metrics, SERVER_TIMING_HEADER, Sandbox, SandboxList, ServerTiming, TouchSandbox,
    UNKNOWN_FIELDS_HEADER, UpdateSandbox, paths, socket_path,
};
use http_body_util::Full;
use hyper::body::Body;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST, HeaderMap, HeaderValue};
use hyper::http::request::Builder;
use hyper::{Method, Request, Response, StatusCode};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::key::{ApiKey, ApiKeyError};
use crate::link::{Answering, LinkError, Links};
use crate::local::{Cause, Local, LocalBody};
use crate::tls::Security;

/// Largest error response in place of a stream, in bytes (1 MiB).
const ERROR_BYTES_MAX: usize = 1 << 20;

/// `Host` of requests over a Unix socket.
const UNIX_HOST: &str = "emberd";

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// No daemon listens at the address.
    #[error("cannot connect to a daemon at {addr}")]
    Connect {
        /// The address.
        addr: Address,
        /// Error of the connection.
        source: io::Error,
    },
    /// Another user, who is not root, listens on the Unix socket. Nothing was sent.
    #[error("{addr} is owned by user {uid}, not by this user or root")]
    Foreign {
        /// The address.
        addr: Address,
        /// The user who listens there.
        uid: u32,
    },
    /// The daemon answered with an error.
    #[error("{}", body.error)]
    Api {
        /// HTTP status.
        status: u16,
        /// The error.
        body: ErrorBody,
    },
    /// The connection broke before the response was complete.
    #[error("the connection to the daemon at {addr} broke")]
    Broken {
        /// The address.
        addr: Address,
        /// Error of the connection.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The server is not emberd, or a version that this client does not understand.
    #[error("the response of {addr} (HTTP {status}) is not a response of emberd")]
    Protocol {
        /// The address.
        addr: Address,
        /// HTTP status.
        status: u16,
        /// Error in the body.
        source: serde_json::Error,
    },
}

impl ClientError {
    /// The error of a request to the daemon at `address` that had no complete response.
    pub(crate) fn unanswered(address: &Address, error: LinkError) -> Self {
        let addr = address.clone();
        match error {
            LinkError::Connect(source) => Self::Connect { addr, source },
            LinkError::Foreign(uid) => Self::Foreign { addr, uid },
            LinkError::Broken(source) => Self::Broken { addr, source },
        }
    }
}

/// The result of a call, and the time that its stages took.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Traced<T> {
    /// The result.
    pub answer: T,
    /// Time from the request's first byte to the response's last, by this client's clock.
    pub round_trip: Duration,
    /// The daemon's part of the time. Empty if the response has no readable `Server-Timing`.
    pub timing: ServerTiming,
}

/// A client of one daemon. Clones share its connections.
#[derive(Debug, Clone)]
pub struct Client {
    pub(crate) address: Address,
    /// `Host` of every request.
    pub(crate) host: HeaderValue,
    pub(crate) key: Option<ApiKey>,
    /// How connections in TLS are made.
    pub(crate) security: Security,
    pub(crate) links: Arc<Links>,
    /// Called with the unknown fields of each request that has some.
    tell_unknown: Option<fn(&str)>,
}

impl Client {
    /// Makes a client of the daemon at `addr`, `HOST:PORT`, `https://HOST:PORT` or
    /// `unix:PATH`. Nothing is sent yet.
    ///
    /// # Errors
    /// [`AddressError`] if `addr` is not an address.
    pub fn new(addr: &str) -> Result<Self, AddressError> {
        let address: Address = addr.parse()?;
        let host = match &address {
            Address::Tcp(authority) | Address::Tls(authority) => authority,
            Address::Unix(_) => UNIX_HOST,
        };
        let malformed = |_| AddressError::Malformed(addr.to_owned());
        let host = HeaderValue::from_str(host).map_err(malformed)?;
        let (security, links) = Default::default();
        Ok(Self { address, host, key: None, security, links, tell_unknown: None })
    }

    /// Makes a client of this user's daemon: at its Unix socket if that exists, else at
    /// [`ADDR_DEFAULT`]. If nothing listens on the socket, calls fail: another user could listen on
    /// the port.
    ///
    /// # Panics
    /// Never: the default is an address.
    pub fn of_user() -> Self {
        let runtime_dir = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
        let socket = socket_path(rustix::process::geteuid().as_raw(), runtime_dir.as_deref());
        Self::of_socket(socket.filter(|path| is_there(path)))
    }

    /// Makes a client of a daemon in this process: `respond` answers every request. Dropping the
    /// future of a call drops that of its response.
    ///
    /// [`Self::attach`] and [`Self::connect_port`], which need a connection, fail.
    pub fn over<F, R, B>(respond: F) -> Self
    where
        F: Fn(Request<LocalBody>) -> R + Send + Sync + 'static,
        R: Future<Output = Response<B>> + Send + 'static,
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<Cause>,
    {
        Self { links: Arc::new(Links::to(Local::new(respond))), ..Self::of_socket(None) }
    }

    fn of_socket(socket: Option<PathBuf>) -> Self {
        let (address, host) = match socket {
            Some(path) => (Address::Unix(path), UNIX_HOST),
            None => (Address::Tcp(ADDR_DEFAULT.to_owned()), ADDR_DEFAULT),
        };
        Self {
            address,
            host: HeaderValue::from_static(host),
            key: None,
            security: Security::default(),
            links: Arc::default(),
            tell_unknown: None,
        }
    }

    /// Sends the access key `key` with every request.
    ///
    /// # Errors
    /// [`ApiKeyError`] if the text cannot be a key.
    pub fn with_key(self, key: &str) -> Result<Self, ApiKeyError> {
        Ok(Self { key: Some(ApiKey::new(key)?), ..self })
    }

    /// Sends the access key in the environment variable `EMBERD_API_KEY` with every request, if
    /// that is set.
    ///
    /// # Errors
    /// [`ApiKeyError`] if the variable has what cannot be a key.
    pub fn with_key_of_process(self) -> Result<Self, ApiKeyError> {
        Ok(Self { key: ApiKey::of_process()?, ..self })
    }

    /// Calls `tell` with the names of the fields that the daemon does not know and has ignored,
    /// separated by commas, for each request that has some: the daemon is older than this client.
    #[must_use]
    pub fn on_unknown_fields(self, tell: fn(&str)) -> Self {
        Self { tell_unknown: Some(tell), ..self }
    }

    /// Runs code in a sandbox and waits for its end.
    ///
    /// # Errors
    /// [`ClientError`]. A program that fails is not an error.
    pub async fn exec(&self, id: &str, body: &ExecBody) -> Result<ExecOutcome, ClientError> {
        Ok(self.exec_traced(id, body).await?.answer)
    }

    /// As [`Self::exec`], with the time that each stage took.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn exec_traced(
        &self,
        id: &str,
        body: &ExecBody,
    ) -> Result<Traced<ExecOutcome>, ClientError> {
        self.call_traced(Method::POST, &paths::exec(id), json(body)).await
    }

    /// Deletes a sandbox. When this returns, no request can reach the sandbox; the rest of it on
    /// the host is removed soon after.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn delete(&self, id: &str) -> Result<(), ClientError> {
        self.delete_traced(id).await?;
        Ok(())
    }

    /// As [`Self::delete`], with the time that each stage took.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn delete_traced(&self, id: &str) -> Result<Traced<()>, ClientError> {
        let Answer { round_trip, timing, .. } =
            self.send(Method::DELETE, &paths::sandbox(id), Bytes::new()).await?;
        Ok(Traced { answer: (), round_trip, timing })
    }

    /// Shows one sandbox.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn get(&self, id: &str) -> Result<Sandbox, ClientError> {
        self.call(Method::GET, &paths::sandbox(id), Bytes::new()).await
    }

    /// Lists all sandboxes, oldest first.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn list(&self) -> Result<SandboxList, ClientError> {
        self.list_with(&ListSandboxes::default()).await
    }

    /// Lists the sandboxes that `list` asks for, oldest first.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn list_with(&self, list: &ListSandboxes) -> Result<SandboxList, ClientError> {
        self.call(Method::GET, &paths::sandboxes(list), Bytes::new()).await
    }

    /// Changes how long a sandbox may live, and its metadata: everything, or nothing.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn update(&self, id: &str, change: &UpdateSandbox) -> Result<Sandbox, ClientError> {
        self.call(Method::PATCH, &paths::sandbox(id), json(change)).await
    }

    /// Extends the time that a sandbox may live; never shortens it.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn touch(&self, id: &str, more: &TouchSandbox) -> Result<Sandbox, ClientError> {
        self.call(Method::POST, &paths::touch(id), json(more)).await
    }

    /// Shows what a sandbox uses of its machine, by its guest's own account.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn metrics(&self, id: &str) -> Result<Metrics, ClientError> {
        self.call(Method::GET, &paths::metrics(id), Bytes::new()).await
    }

    /// Has the daemon refuse to create sandboxes from now on, until it is restarted.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn drain(&self) -> Result<(), ClientError> {
        self.send(Method::POST, paths::DRAIN, Bytes::new()).await?;
        Ok(())
    }

    /// Shows version, VMM, guests and language packs of the daemon, and how much is in use.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn info(&self) -> Result<Info, ClientError> {
        self.call(Method::GET, paths::INFO, Bytes::new()).await
    }

    /// Reads what the daemon counts and times, in the text format of Prometheus (0.0.4).
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn daemon_metrics(&self) -> Result<String, ClientError> {
        let answer = self.send(Method::GET, paths::DAEMON_METRICS, Bytes::new()).await?;
        Ok(String::from_utf8_lossy(&answer.body).into_owned())
    }

    /// Asks whether the daemon is up.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn healthz(&self) -> Result<Health, ClientError> {
        self.call(Method::GET, paths::HEALTHZ, Bytes::new()).await
    }

    /// Reads the OpenAPI document of the daemon's API.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn openapi(&self) -> Result<serde_json::Value, ClientError> {
        self.call(Method::GET, paths::OPENAPI, Bytes::new()).await
    }

    /// `Host` of every request.
    pub(crate) fn host(&self) -> &HeaderValue {
        &self.host
    }

    pub(crate) async fn call<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<T, ClientError> {
        Ok(self.call_traced(method, path, body).await?.answer)
    }

    pub(crate) async fn call_traced<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<Traced<T>, ClientError> {
        let answer = self.send(method, path, body).await?;
        self.traced(answer)
    }

    pub(crate) fn traced<T: DeserializeOwned>(
        &self,
        answer: Answer,
    ) -> Result<Traced<T>, ClientError> {
        let Answer { status, body, round_trip, timing } = answer;
        let answer = serde_json::from_slice(&body);
        let answer = answer.map_err(|source| self.protocol(status, source))?;
        Ok(Traced { answer, round_trip, timing })
    }

    /// Sends a request and returns the response if it is a success.
    pub(crate) async fn send(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<Answer, ClientError> {
        self.ask(self.json_request(method, path, body)).await
    }

    pub(crate) async fn ask(&self, request: Request<Full<Bytes>>) -> Result<Answer, ClientError> {
        let sent = Instant::now();
        let asked = self.links.ask(&self.address, &self.security, request).await;
        let (head, body) = asked.map_err(|error| self.unanswered(error))?;
        let (round_trip, status) = (sent.elapsed(), head.status);
        self.note_unknown(&head.headers);
        if status.is_success() {
            let timing = timing(&head.headers);
            return Ok(Answer { status, body, round_trip, timing });
        }
        Err(self.refused(status, &body))
    }

    /// Sends a request and returns the beginning of the response, if it is a success.
    pub(crate) async fn stream(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<(StatusCode, Answering), ClientError> {
        let request = self.json_request(method, path, body);
        let answer = self.links.stream(&self.address, &self.security, request).await;
        let (head, answering) = answer.map_err(|error| self.unanswered(error))?;
        let status = head.status;
        self.note_unknown(&head.headers);
        if status.is_success() {
            return Ok((status, answering));
        }
        Err(self.refusal(status, answering).await)
    }

    /// The daemon's address.
    pub fn address(&self) -> &Address {
        &self.address
    }

    fn note_unknown(&self, headers: &HeaderMap) {
        let fields = headers.get(UNKNOWN_FIELDS_HEADER).and_then(|value| value.to_str().ok());
        if let Some((fields, tell)) = fields.zip(self.tell_unknown) {
            tell(fields);
        }
    }

    pub(crate) fn json_request(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Request<Full<Bytes>> {
        let mut request = self.request(method, path, body);
        let json = HeaderValue::from_static("application/json");
        request.headers_mut().insert(CONTENT_TYPE, json);
        request
    }

    pub(crate) fn request(&self, method: Method, path: &str, body: Bytes) -> Request<Full<Bytes>> {
        self.head(method, path).body(Full::new(body)).expect("paths are encoded")
    }

    /// The head of every request.
    pub(crate) fn head(&self, method: Method, path: &str) -> Builder {
        let head = Request::builder().method(method).uri(path).header(HOST, &self.host);
        match &self.key {
            Some(key) => head.header(AUTHORIZATION, key.field()),
            None => head,
        }
    }

    /// The error that `answering`, a response without success, contains.
    pub(crate) async fn refusal(
        &self,
        status: StatusCode,
        mut answering: Answering,
    ) -> ClientError {
        match answering.rest(ERROR_BYTES_MAX).await {
            Ok(body) => self.refused(status, &body),
            Err(source) => self.broken(source),
        }
    }

    /// The error that `body`, of a response without success, contains.
    pub(crate) fn refused(&self, status: StatusCode, body: &[u8]) -> ClientError {
        match serde_json::from_slice(body) {
            Ok(body) => ClientError::Api { status: status.as_u16(), body },
            Err(source) => self.protocol(status, source),
        }
    }

    pub(crate) fn unanswered(&self, error: LinkError) -> ClientError {
        ClientError::unanswered(&self.address, error)
    }

    pub(crate) fn broken(
        &self,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> ClientError {
        self.unanswered(LinkError::Broken(source.into()))
    }

    pub(crate) fn protocol(&self, status: StatusCode, source: serde_json::Error) -> ClientError {
        ClientError::Protocol { addr: self.address.clone(), status: status.as_u16(), source }
    }
}

/// Whether a file exists at `path`. A path that cannot be read counts as existing.
fn is_there(path: &Path) -> bool {
    !matches!(path.symlink_metadata(), Err(error) if error.kind() == io::ErrorKind::NotFound)
}

/// A successful response.
pub(crate) struct Answer {
    status: StatusCode,
    body: Bytes,
    round_trip: Duration,
    timing: ServerTiming,
}

fn timing(headers: &HeaderMap) -> ServerTiming {
    let header = headers.get(SERVER_TIMING_HEADER).and_then(|value| value.to_str().ok());
    header.and_then(|text| text.parse().ok()).unwrap_or_default()
}

pub(crate) fn json(body: &impl Serialize) -> Bytes {
    serde_json::to_vec(body).expect("bodies have string keys only").into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_goes_before_the_port() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        assert!(!is_there(&path));
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        // Nothing listens any more: calls fail instead of trying the port.
        assert!(is_there(&path));
        assert_eq!(Client::of_socket(Some(path.clone())).address(), &Address::Unix(path));
        let by_port = Client::of_socket(None);
        let with_key = by_port.clone().with_key("emb_0a1b2c3d_secret").unwrap();
        let request = with_key.request(Method::GET, "/", Bytes::new());
        assert_eq!(request.headers()[AUTHORIZATION], "Bearer emb_0a1b2c3d_secret");
        assert!(!format!("{with_key:?} {request:?}").contains("secret"));
        assert!(
            !by_port.request(Method::GET, "/", Bytes::new()).headers().contains_key(AUTHORIZATION)
        );
        assert_eq!(by_port.address().to_string(), format!("http://{ADDR_DEFAULT}"));
    }
}
