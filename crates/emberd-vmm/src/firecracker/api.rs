//! Firecracker's API: HTTP/1.1 over one keep-alive Unix connection per microVM.
//!
//! Firecracker serves one request at a time and at most ten connections, so calls are
//! serialised here. A connection whose call failed or was cut short is not used again: an
//! answer that comes late must not be taken for the next one's.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::header::{ACCEPT, CONTENT_TYPE, HOST};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use tokio::sync::Mutex;

use crate::root::Root;

pub(crate) mod types;

/// Name of the API's socket in the VMM's directory.
pub(super) const API_SOCKET: &str = "api.sock";

/// Largest answer that is read, in bytes (64 KiB): faults are a few hundred.
const ANSWER_BYTES_MAX: usize = 64 << 10;

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// Firecracker refused the call.
    #[error("{message} (status {status})")]
    Fault {
        /// HTTP status: 400, rarely 413.
        status: u16,
        /// Its `fault_message`: for people, it has no fixed form.
        message: String,
    },
    /// No answer came in time; Firecracker is stuck.
    #[error("no answer within {0:?}")]
    TimedOut(Duration),
    /// The connection broke, or nothing listens: Firecracker has usually ended.
    #[error("the API connection is closed")]
    Closed(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The answer is not one of Firecracker's.
    #[error("unexpected answer with status {0}")]
    Unexpected(u16),
}

/// The API of one microVM.
#[derive(Debug)]
pub(crate) struct Api {
    root: Arc<Root>,
    connection: Mutex<Option<SendRequest<Full<Bytes>>>>,
}

impl Api {
    /// The API that listens, or will listen, on [`API_SOCKET`] in `root`.
    pub(super) fn new(root: Arc<Root>) -> Self {
        Self { root, connection: Mutex::default() }
    }

    /// Opens the connection; calls do so themselves where it is missing.
    pub(crate) async fn open(&self) -> Result<(), ApiError> {
        let connection = self.dial().await?;
        *self.connection.lock().await = Some(connection);
        Ok(())
    }

    /// Sends `body` by PUT to `path` and waits `deadline` for the answer.
    pub(crate) async fn put(
        &self,
        path: &str,
        body: &impl Serialize,
        deadline: Duration,
    ) -> Result<(), ApiError> {
        self.send(Method::PUT, path, body, deadline).await
    }

    /// Sends `body` by PATCH to `path` and waits `deadline` for the answer.
    pub(crate) async fn patch(
        &self,
        path: &str,
        body: &impl Serialize,
        deadline: Duration,
    ) -> Result<(), ApiError> {
        self.send(Method::PATCH, path, body, deadline).await
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        body: &impl Serialize,
        deadline: Duration,
    ) -> Result<(), ApiError> {
        let body = serde_json::to_vec(body).expect("the bodies are plain data");
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(HOST, "localhost")
            .header(ACCEPT, "application/json")
            .header(CONTENT_TYPE, "application/json")
            .body(Full::from(body))
            .expect("paths are constants");
        let mut slot = self.connection.lock().await;
        // Taken out: a caller that goes away takes the unfinished connection along.
        let kept = slot.take();
        let call = async {
            let mut connection = match kept {
                Some(connection) => connection,
                None => self.dial().await?,
            };
            let answer = exchange(&mut connection, request).await?;
            Ok((connection, answer))
        };
        let (connection, answer) = tokio::time::timeout(deadline, call)
            .await
            .map_err(|_| ApiError::TimedOut(deadline))??;
        *slot = Some(connection);
        answer.outcome()
    }

    async fn dial(&self) -> Result<SendRequest<Full<Bytes>>, ApiError> {
        let stream = self.root.connect(API_SOCKET).await.map_err(closed)?;
        let (sender, connection) = handshake(TokioIo::new(stream)).await.map_err(closed)?;
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "Firecracker's API connection failed");
            }
        });
        Ok(sender)
    }
}

struct Answer {
    status: StatusCode,
    body: Bytes,
}

impl Answer {
    fn outcome(self) -> Result<(), ApiError> {
        let status = self.status.as_u16();
        if self.status.is_success() {
            return Ok(());
        }
        match serde_json::from_slice::<types::Fault>(&self.body) {
            Ok(fault) => Err(ApiError::Fault { status, message: fault.fault_message }),
            Err(_) => Err(ApiError::Unexpected(status)),
        }
    }
}

async fn exchange(
    connection: &mut SendRequest<Full<Bytes>>,
    request: Request<Full<Bytes>>,
) -> Result<Answer, ApiError> {
    connection.ready().await.map_err(closed)?;
    let response = connection.send_request(request).await.map_err(closed)?;
    let status = response.status();
    let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX);
    let body = body.collect().await.map_err(ApiError::Closed)?.to_bytes();
    Ok(Answer { status, body })
}

fn closed(source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> ApiError {
    ApiError::Closed(source.into())
}

#[cfg(test)]
mod tests;
