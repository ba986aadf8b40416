//! Error responses, and the table from code to status: the only place that knows status codes.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::error::Error;
use std::time::Duration;

use axum::Json;
use axum::http::header::{RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use emberd_api::{ErrorBody, ErrorCode, KeyLimit};
use emberd_proto::chain;

use super::limited::{Limited, LimitsHit};
use crate::log::excerpt;
use crate::server::observe::Reported;

/// Longest message of an error, in bytes (16 KiB): some repeat what a guest said.
const ERROR_BYTES_MAX: usize = 16 << 10;

/// `Retry-After` where a limit that callers share is reached, or a VMM is busy, in seconds.
const RETRY_SECONDS: u64 = 1;

/// How a caller says who it is (RFC 6750 §3).
const CHALLENGE: HeaderValue = HeaderValue::from_static("Bearer realm=\"emberd\"");

/// An error that an operation can end with.
pub trait Failure {
    /// The code of this error, and advice on how to mend it.
    fn judge(&self) -> (ErrorCode, Option<&'static str>);

    /// Adds every code that an error of this type can have.
    fn every_code(codes: &mut BTreeSet<ErrorCode>);

    /// The limit of the caller's key that the error tells of, if it does.
    fn limited(&self) -> Option<Limited> {
        None
    }
}

/// Marks an error response with its code.
#[derive(Debug, Clone, Copy)]
pub struct Coded(pub ErrorCode);

/// An error response.
#[derive(Debug)]
pub struct ApiError {
    body: ErrorBody,
    limited: Option<Box<Limited>>,
}

impl ApiError {
    fn new(code: ErrorCode, error: impl Into<String>) -> Self {
        let mut error = error.into();
        if let Cow::Owned(shorter) = excerpt(&error, ERROR_BYTES_MAX) {
            error = shorter;
        }
        let body = ErrorBody { error, code, hint: None, limit: None };
        Self { body, limited: None }
    }

    /// Adds advice on how to mend the error.
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.body.hint = Some(hint.into());
        self
    }

    /// The body alone, for a response that has begun already.
    pub fn into_body(self) -> ErrorBody {
        self.body
    }
}

/// The response to a request whose route panicked.
pub fn defect() -> Response {
    ApiError::from(Defect).into_response()
}

/// The request is for no operation.
#[derive(Debug, thiserror::Error)]
pub enum RouteError {
    /// The path does not exist.
    #[error("unknown path")]
    Path,
    /// The path exists, but not with this method.
    #[error("the path does not support this method")]
    Method,
    /// The method is `CONNECT`, for a port inside a sandbox.
    #[error("ports inside a sandbox do not support CONNECT")]
    Connect,
}

/// A route panicked.
#[derive(Debug, thiserror::Error)]
#[error("internal error; the log of emberd has the details")]
pub struct Defect;

/// The table from code to status.
pub(super) fn status(code: ErrorCode) -> StatusCode {
    match code {
        ErrorCode::InvalidJson
        | ErrorCode::InvalidRequest
        | ErrorCode::UnknownPack
        | ErrorCode::UnknownProfile => StatusCode::BAD_REQUEST,
        ErrorCode::Unauthenticated => StatusCode::UNAUTHORIZED,
        ErrorCode::ForeignHost => StatusCode::MISDIRECTED_REQUEST,
        ErrorCode::ForeignOrigin
        | ErrorCode::CrossSite
        | ErrorCode::Forbidden
        | ErrorCode::KeyForbids
        | ErrorCode::Denied
        | ErrorCode::EgressForbidden => StatusCode::FORBIDDEN,
        ErrorCode::UnknownRoute | ErrorCode::UnknownSandbox | ErrorCode::NotFound => {
            StatusCode::NOT_FOUND
        }
        ErrorCode::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
        ErrorCode::BodyTimeout => StatusCode::REQUEST_TIMEOUT,
        ErrorCode::SandboxNotReady
        | ErrorCode::SandboxFrozen
        | ErrorCode::LimitUnavailable
        | ErrorCode::NoTemplates
        | ErrorCode::AuditOff
        | ErrorCode::EgressUnavailable
        | ErrorCode::AlreadyExists
        | ErrorCode::ProcessEnded
        | ErrorCode::ContextDead => StatusCode::CONFLICT,
        ErrorCode::KeyReused | ErrorCode::NotStarted => StatusCode::UNPROCESSABLE_ENTITY,
        ErrorCode::NoSpace | ErrorCode::HostFull => StatusCode::INSUFFICIENT_STORAGE,
        ErrorCode::SandboxGone => StatusCode::GONE,
        ErrorCode::BodyTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
        ErrorCode::RangeNotSatisfiable => StatusCode::RANGE_NOT_SATISFIABLE,
        ErrorCode::TooManyBytes
        | ErrorCode::QuotaExceeded
        | ErrorCode::TooManySandboxes
        | ErrorCode::NoCapacity
        | ErrorCode::TooManyConnections
        | ErrorCode::TooManyContexts
        | ErrorCode::ContextBusy
        | ErrorCode::TooMany => StatusCode::TOO_MANY_REQUESTS,
        ErrorCode::Internal | ErrorCode::Other => StatusCode::INTERNAL_SERVER_ERROR,
        ErrorCode::GuestFailed | ErrorCode::PortClosed | ErrorCode::PortFailed => {
            StatusCode::BAD_GATEWAY
        }
        ErrorCode::PortTimeout => StatusCode::GATEWAY_TIMEOUT,
        ErrorCode::BootFailed
        | ErrorCode::TemplateFailed
        | ErrorCode::ResumeFailed
        | ErrorCode::SandboxUnreachable
        | ErrorCode::AuditFailing
        | ErrorCode::Draining
        | ErrorCode::KeysUnreadable
        | ErrorCode::ShuttingDown => StatusCode::SERVICE_UNAVAILABLE,
    }
}

impl<E: Failure + Error> From<E> for ApiError {
    fn from(error: E) -> Self {
        let (code, hint) = error.judge();
        let mut answer = Self::new(code, chain(&error));
        answer.body.hint = hint.map(str::to_owned);
        let limited = error.limited();
        answer.body.limit = limited.map(|Limited { name, value, .. }| {
            let name = name.name().to_owned();
            Box::new(KeyLimit { name, value })
        });
        answer.limited = limited.map(Box::new);
        answer
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let Self { body, limited } = self;
        let (reported, code) = (Reported(body.error.clone()), body.code);
        let mut response = (status(code), Json(body)).into_response();
        let may_pass = matches!(
            code,
            ErrorCode::TooManyBytes | ErrorCode::ResumeFailed | ErrorCode::SandboxUnreachable
        );
        if may_pass {
            response.headers_mut().insert(RETRY_AFTER, RETRY_SECONDS.into());
        }
        if let Some(limited) = limited {
            if let Some(wait) = limited.retry_after {
                response.headers_mut().insert(RETRY_AFTER, whole_seconds(wait).into());
            }
            response.extensions_mut().insert(LimitsHit(vec![limited.name.name()]));
            response.extensions_mut().insert(*limited);
        }
        if code == ErrorCode::Unauthenticated {
            response.headers_mut().insert(WWW_AUTHENTICATE, CHALLENGE);
        }
        response.extensions_mut().insert(reported);
        response.extensions_mut().insert(Coded(code));
        response
    }
}

/// Seconds after which `wait` is over: at least one.
fn whole_seconds(wait: Duration) -> u64 {
    (wait.as_secs() + u64::from(wait.subsec_nanos() > 0)).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_defect_is_an_internal_error() {
        let response = defect();
        assert_eq!(response.status().as_u16(), 500);
        let body = axum::body::to_bytes(response.into_body(), 1024).await.unwrap();
        let body: ErrorBody = serde_json::from_slice(&body).unwrap();
        assert_eq!(body.code, ErrorCode::Internal);
    }
}
