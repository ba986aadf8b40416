//! One method per route, and every way a call can end.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use emberd_api::{
    ADDR_DEFAULT, Address, AddressError, CreateSandbox, CreatedSandbox, ErrorBody, ExecBody,
    ExecOutcome, Health, Info, Metrics, SERVER_TIMING_HEADER, Sandbox, SandboxList, ServerTiming,
    Template, TemplateList, paths, socket_path,
};
use http_body_util::Full;
use hyper::header::{CONTENT_TYPE, HOST, HeaderMap, HeaderValue};
use hyper::{Method, Request, StatusCode};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::link::{Answering, LinkError, Links};

/// Largest answer that says why there is no stream, in bytes (1 MiB).
const ERROR_BYTES_MAX: usize = 1 << 20;

/// `Host` of a request that goes to a Unix socket.
const UNIX_HOST: &str = "emberd";

/// Why a call brought no result.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// No daemon answers at the address.
    #[error("cannot connect to a daemon at {addr}")]
    Connect {
        /// The address.
        addr: Address,
        /// Why.
        source: io::Error,
    },
    /// Whoever listens on the Unix socket must not hear what would be sent. Nothing was.
    #[error("{addr} belongs to user {uid}, who is neither you nor root")]
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
        /// What it said.
        body: ErrorBody,
    },
    /// The connection broke before the answer was complete.
    #[error("the connection to the daemon at {addr} broke")]
    Broken {
        /// The address.
        addr: Address,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// What answered is not an emberd, or one of another time.
    #[error("the answer of {addr} (HTTP {status}) is not one an emberd gives")]
    Protocol {
        /// The address.
        addr: Address,
        /// HTTP status.
        status: u16,
        /// What is wrong with the body.
        source: serde_json::Error,
    },
}

impl ClientError {
    /// A request to the daemon at `address` got no answer, or not all of it.
    pub(crate) fn unanswered(address: &Address, error: LinkError) -> Self {
        let addr = address.clone();
        match error {
            LinkError::Connect(source) => Self::Connect { addr, source },
            LinkError::Foreign(uid) => Self::Foreign { addr, uid },
            LinkError::Broken(source) => Self::Broken { addr, source },
        }
    }
}

/// An answer, and where its time went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Traced<T> {
    /// The answer.
    pub answer: T,
    /// From the request's first byte until the answer's last, by this client's clock.
    pub round_trip: Duration,
    /// The daemon's part of it. Empty if what answers does not say, or not so that it can be
    /// read: that is no reason to lose the answer.
    pub timing: ServerTiming,
}

/// A client of one daemon. Clones share its connections.
#[derive(Debug, Clone)]
pub struct Client {
    pub(crate) address: Address,
    /// `Host` of every request.
    pub(crate) host: HeaderValue,
    links: Arc<Links>,
}

impl Client {
    /// A client of the daemon at `addr`, `HOST:PORT` or `unix:PATH`. Nothing is sent yet.
    ///
    /// # Errors
    /// When `addr` is no address.
    pub fn new(addr: &str) -> Result<Self, AddressError> {
        let address: Address = addr.parse()?;
        let host = match &address {
            Address::Tcp(authority) => authority,
            Address::Unix(_) => UNIX_HOST,
        };
        let malformed = |_| AddressError::Malformed(addr.to_owned());
        let host = HeaderValue::from_str(host).map_err(malformed)?;
        Ok(Self { address, host, links: Arc::default() })
    }

    /// A client of this user's daemon: at its Unix socket if there is one, else at
    /// [`ADDR_DEFAULT`]. Of a socket nobody listens on, calls tell; no port takes its place, which
    /// anybody may have taken.
    ///
    /// # Panics
    /// Never: the default is an address.
    pub fn of_user() -> Self {
        let runtime_dir = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
        let socket = socket_path(rustix::process::geteuid().as_raw(), runtime_dir.as_deref());
        Self::of_socket(socket.filter(|path| is_there(path)))
    }

    fn of_socket(socket: Option<PathBuf>) -> Self {
        let (address, host) = match socket {
            Some(path) => (Address::Unix(path), UNIX_HOST),
            None => (Address::Tcp(ADDR_DEFAULT.to_owned()), ADDR_DEFAULT),
        };
        Self { address, host: HeaderValue::from_static(host), links: Arc::default() }
    }

    /// Creates a sandbox of `language_pack`, or of the daemon's default; waits until it is
    /// ready.
    ///
    /// # Errors
    /// [`ClientError`], as all calls.
    pub async fn create(&self, language_pack: Option<&str>) -> Result<CreatedSandbox, ClientError> {
        Ok(self.create_traced(language_pack).await?.answer)
    }

    /// As [`Self::create`], with where the time went.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn create_traced(
        &self,
        language_pack: Option<&str>,
    ) -> Result<Traced<CreatedSandbox>, ClientError> {
        let body = CreateSandbox { language_pack: language_pack.map(str::to_owned) };
        self.call_traced(Method::POST, paths::SANDBOXES, json(&body)).await
    }

    /// Runs code in a sandbox and waits for its end.
    ///
    /// # Errors
    /// [`ClientError`]; however the program ends is no error.
    pub async fn exec(&self, id: &str, body: &ExecBody) -> Result<ExecOutcome, ClientError> {
        Ok(self.exec_traced(id, body).await?.answer)
    }

    /// As [`Self::exec`], with where the time went.
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

    /// Deletes a sandbox. It is out of reach when this returns; what is left of it on the host
    /// goes soon after.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn delete(&self, id: &str) -> Result<(), ClientError> {
        self.delete_traced(id).await?;
        Ok(())
    }

    /// As [`Self::delete`], with where the time went.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn delete_traced(&self, id: &str) -> Result<Traced<()>, ClientError> {
        let Answer { round_trip, timing, .. } =
            self.send(Method::DELETE, &paths::sandbox(id), Bytes::new()).await?;
        Ok(Traced { answer: (), round_trip, timing })
    }

    /// One sandbox as it is now.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn get(&self, id: &str) -> Result<Sandbox, ClientError> {
        self.call(Method::GET, &paths::sandbox(id), Bytes::new()).await
    }

    /// All sandboxes as they are now, oldest first.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn list(&self) -> Result<SandboxList, ClientError> {
        self.call(Method::GET, paths::SANDBOXES, Bytes::new()).await
    }

    /// What a sandbox uses, by its guest's own account.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn metrics(&self, id: &str) -> Result<Metrics, ClientError> {
        self.call(Method::GET, &paths::metrics(id), Bytes::new()).await
    }

    /// The templates of all installed language packs, by name.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn templates(&self) -> Result<TemplateList, ClientError> {
        self.call(Method::GET, paths::TEMPLATES, Bytes::new()).await
    }

    /// Builds the template of a language pack if there is none, and waits until it is ready.
    /// The daemon goes on building when the future is dropped.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn build_template(&self, language_pack: &str) -> Result<Template, ClientError> {
        self.call(Method::POST, &paths::template(language_pack), Bytes::new()).await
    }

    /// Removes the template of a language pack; no error if there is none.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn delete_template(&self, language_pack: &str) -> Result<(), ClientError> {
        self.send(Method::DELETE, &paths::template(language_pack), Bytes::new()).await?;
        Ok(())
    }

    /// What the daemon is.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn info(&self) -> Result<Info, ClientError> {
        self.call(Method::GET, paths::INFO, Bytes::new()).await
    }

    /// Whether the daemon is up.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn healthz(&self) -> Result<Health, ClientError> {
        self.call(Method::GET, paths::HEALTHZ, Bytes::new()).await
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

    async fn call_traced<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<Traced<T>, ClientError> {
        let Answer { status, body, round_trip, timing } = self.send(method, path, body).await?;
        let answer = serde_json::from_slice(&body);
        let answer = answer.map_err(|source| self.protocol(status, source))?;
        Ok(Traced { answer, round_trip, timing })
    }

    /// Sends a request and returns the answer if it is a success.
    pub(crate) async fn send(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<Answer, ClientError> {
        let request = self.json_request(method, path, body);
        let sent = Instant::now();
        let asked = self.links.ask(&self.address, request).await;
        let (head, body) = asked.map_err(|error| self.unanswered(error))?;
        let (round_trip, status) = (sent.elapsed(), head.status);
        if status.is_success() {
            let timing = timing(&head.headers);
            return Ok(Answer { status, body, round_trip, timing });
        }
        Err(self.refused(status, &body))
    }

    /// Sends a request and returns as soon as the answer begins, if that is a success.
    pub(crate) async fn stream(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<(StatusCode, Answering), ClientError> {
        let request = self.json_request(method, path, body);
        let answer = self.links.stream(&self.address, request).await;
        let (head, mut answering) = answer.map_err(|error| self.unanswered(error))?;
        let status = head.status;
        if status.is_success() {
            return Ok((status, answering));
        }
        let body = answering.rest(ERROR_BYTES_MAX).await.map_err(|source| self.broken(source))?;
        Err(self.refused(status, &body))
    }

    /// The daemon's address.
    pub fn address(&self) -> &Address {
        &self.address
    }

    fn json_request(&self, method: Method, path: &str, body: Bytes) -> Request<Full<Bytes>> {
        let mut request = self.request(method, path, body);
        let json = HeaderValue::from_static("application/json");
        request.headers_mut().insert(CONTENT_TYPE, json);
        request
    }

    pub(crate) fn request(&self, method: Method, path: &str, body: Bytes) -> Request<Full<Bytes>> {
        let request = Request::builder().method(method).uri(path).header(HOST, &self.host);
        request.body(Full::new(body)).expect("paths are encoded")
    }

    /// What an answer that is no success says.
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

/// Whether something is at `path`; what cannot be looked at counts.
fn is_there(path: &Path) -> bool {
    !matches!(path.symlink_metadata(), Err(error) if error.kind() == io::ErrorKind::NotFound)
}

/// A success, as it came.
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
        // Nobody listens any more: that is to be told, not gone round.
        assert!(is_there(&path));
        assert_eq!(Client::of_socket(Some(path.clone())).address(), &Address::Unix(path));
        let by_port = Client::of_socket(None);
        assert_eq!(by_port.address().to_string(), format!("http://{ADDR_DEFAULT}"));
    }
}
