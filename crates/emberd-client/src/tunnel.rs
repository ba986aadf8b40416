//! Logs as they grow, and connections to ports.

use bytes::Bytes;
use emberd_api::{TUNNEL_PROTOCOL, paths};
use hyper::header::{CONNECTION, HeaderValue, UPGRADE};
use hyper::upgrade::Upgraded;
use hyper::{Method, StatusCode};
use hyper_util::rt::TokioIo;

use crate::client::{Client, ClientError};
use crate::link::Answering;

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
        let path = paths::logs(id, tail, follow);
        let (_, answering) = self.stream(Method::GET, &path, Bytes::new()).await?;
        Ok(Logs { client: self.clone(), answering })
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
        let answer = self.links.upgrade(self.address(), &self.security, request).await;
        let (head, answering) = answer.map_err(|error| self.unanswered(error))?;
        if head.status != StatusCode::SWITCHING_PROTOCOLS {
            return Err(self.refusal(head.status, answering).await);
        }
        let upgraded = answering.upgraded(head).await.map_err(|source| self.broken(source))?;
        Ok(TokioIo::new(upgraded))
    }
}

/// A connection to a port inside a sandbox. Shutting it down ends the bytes to the port.
pub type Tunnel = TokioIo<Upgraded>;

/// A console log that is being read. Dropping it closes the connection.
#[derive(Debug)]
pub struct Logs {
    client: Client,
    answering: Answering,
}

impl Logs {
    /// Reads the next piece; `None` at the end. Cancel safe.
    ///
    /// # Errors
    /// [`ClientError::Broken`].
    pub async fn next(&mut self) -> Result<Option<Bytes>, ClientError> {
        self.answering.piece().await.map_err(|source| self.client.broken(source))
    }
}
