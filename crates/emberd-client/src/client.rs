//! One method per route, and every way a call can end.

use std::time::Duration;

use bytes::Bytes;
use emberd_api::{
    Address, AddressError, CreateSandbox, CreatedSandbox, ErrorBody, ExecBody, ExecOutcome, Health,
    Info, Sandbox, SandboxList, paths,
};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::header::CONTENT_TYPE;
use hyper::{Method, Request, StatusCode};
use hyper_util::client::legacy;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::connector::Connector;

/// Largest answer that is read, in bytes (256 MiB): 8 MiB of standard output and of standard
/// error, each byte escaped in JSON as six, and once more as base64.
const ANSWER_BYTES_MAX: usize = 256 << 20;

/// How long an unused connection is kept: less than the 30 s after which the daemon closes it,
/// so that a request does not meet a connection being closed.
const IDLE_MAX: Duration = Duration::from_secs(15);

/// Host in the URI of a request that goes to a Unix socket.
const UNIX_AUTHORITY: &str = "emberd";

/// Why a call brought no result.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// No daemon answers at the address.
    #[error("cannot connect to a daemon at {addr}")]
    Connect {
        /// The address.
        addr: Address,
        /// Why.
        source: legacy::Error,
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

/// A client of one daemon. Clones share its connections.
#[derive(Debug, Clone)]
pub struct Client {
    address: Address,
    base: String,
    http: legacy::Client<Connector, Full<Bytes>>,
}

impl Client {
    /// A client of the daemon at `addr`, `HOST:PORT` or `unix:PATH`. Nothing is sent yet.
    ///
    /// # Errors
    /// When `addr` is no address.
    pub fn new(addr: &str) -> Result<Self, AddressError> {
        let address: Address = addr.parse()?;
        let base = match &address {
            Address::Tcp(_) => address.to_string(),
            Address::Unix(_) => format!("http://{UNIX_AUTHORITY}"),
        };
        let http = legacy::Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE_MAX)
            .build(Connector(address.clone()));
        Ok(Self { address, base, http })
    }

    /// Creates a sandbox of `language_pack`, or of the daemon's default; waits until it is
    /// ready.
    ///
    /// # Errors
    /// [`ClientError`], as all calls.
    pub async fn create(&self, language_pack: Option<&str>) -> Result<CreatedSandbox, ClientError> {
        let body = CreateSandbox { language_pack: language_pack.map(str::to_owned) };
        self.call(Method::POST, paths::SANDBOXES, json(&body)).await
    }

    /// Runs code in a sandbox and waits for its end.
    ///
    /// # Errors
    /// [`ClientError`]; however the program ends is no error.
    pub async fn exec(&self, id: &str, body: &ExecBody) -> Result<ExecOutcome, ClientError> {
        self.call(Method::POST, &paths::exec(id), json(body)).await
    }

    /// Deletes a sandbox; nothing of it is left when this returns.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn delete(&self, id: &str) -> Result<(), ClientError> {
        self.send(Method::DELETE, &paths::sandbox(id), Bytes::new()).await?;
        Ok(())
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

    async fn call<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<T, ClientError> {
        let (status, body) = self.send(method, path, body).await?;
        serde_json::from_slice(&body).map_err(|source| self.protocol(status, source))
    }

    /// Sends a request and returns the body of a success.
    async fn send(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<(StatusCode, Bytes), ClientError> {
        let request = Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.base))
            .header(CONTENT_TYPE, "application/json")
            .body(Full::new(body))
            .expect("addresses and paths are checked or encoded");
        let addr = || self.address.clone();
        let response = self.http.request(request).await.map_err(|source| {
            if source.is_connect() {
                ClientError::Connect { addr: addr(), source }
            } else {
                ClientError::Broken { addr: addr(), source: source.into() }
            }
        })?;
        let status = response.status();
        let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX)
            .collect()
            .await
            .map_err(|source| ClientError::Broken { addr: addr(), source })?
            .to_bytes();
        if status.is_success() {
            return Ok((status, body));
        }
        let body = serde_json::from_slice(&body).map_err(|source| self.protocol(status, source))?;
        Err(ClientError::Api { status: status.as_u16(), body })
    }

    fn protocol(&self, status: StatusCode, source: serde_json::Error) -> ClientError {
        ClientError::Protocol { addr: self.address.clone(), status: status.as_u16(), source }
    }
}

fn json(body: &impl Serialize) -> Bytes {
    serde_json::to_vec(body).expect("bodies have string keys only").into()
}
