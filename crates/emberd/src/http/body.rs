//! Request bodies: as JSON, with errors that say where, and piece by piece.

use std::time::Duration;

use axum::body::{BodyDataStream, Bytes};
use axum::extract::rejection::{BytesRejection, FailedToBufferBody};
use axum::extract::{FromRequest, Request};
use emberd_api::{BODY_BYTES_MAX, BODY_LIMITS, ErrorCode, json};
use futures::StreamExt as _;
use serde::de::DeserializeOwned;

use super::errors::ApiError;

/// How long a body may take to arrive.
const BODY_TIMEOUT: Duration = Duration::from_secs(60);

/// How long a client may pause within a body that is read piece by piece.
const PAUSE_MAX: Duration = Duration::from_secs(60);

/// A whole request body, within its limits.
#[derive(Debug)]
pub struct Body(Bytes);

impl Body {
    /// The body as a `T`. Unknown fields are ignored.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T, ApiError> {
        json::check(&self.0, BODY_LIMITS).map_err(|excess| {
            ApiError::new(ErrorCode::InvalidJson, format!("the body is too much: {excess}"))
        })?;
        serde_json::from_slice(&self.0).map_err(|error| {
            ApiError::new(ErrorCode::InvalidJson, format!("invalid JSON: {error}"))
        })
    }

    /// As [`Self::json`]; an empty body stands for every default.
    pub fn json_or_default<T: DeserializeOwned + Default>(&self) -> Result<T, ApiError> {
        if self.0.trim_ascii().is_empty() { Ok(T::default()) } else { self.json() }
    }
}

impl<S: Send + Sync> FromRequest<S> for Body {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<Self, ApiError> {
        let read = tokio::time::timeout(BODY_TIMEOUT, Bytes::from_request(request, state));
        match read.await {
            Ok(Ok(bytes)) => Ok(Self(bytes)),
            Ok(Err(BytesRejection::FailedToBufferBody(FailedToBufferBody::LengthLimitError(
                _,
            )))) => {
                let error = format!("the body is over the limit of {BODY_BYTES_MAX} bytes");
                Err(ApiError::new(ErrorCode::BodyTooLarge, error))
            }
            Ok(Err(rejection)) => {
                Err(ApiError::new(ErrorCode::InvalidRequest, rejection.body_text()))
            }
            Err(_) => {
                let error = format!("the body did not arrive within {BODY_TIMEOUT:?}");
                Err(ApiError::new(ErrorCode::BodyTimeout, error))
            }
        }
    }
}

/// A request body piece by piece, of any length, and as slow as it may be.
pub struct Pieces(BodyDataStream);

impl Pieces {
    pub fn new(body: axum::body::Body) -> Self {
        Self(body.into_data_stream())
    }

    /// The next piece; none at its end.
    pub async fn next(&mut self) -> Result<Option<Bytes>, ApiError> {
        let Ok(piece) = tokio::time::timeout(PAUSE_MAX, self.0.next()).await else {
            let error = format!("nothing more of the body came within {PAUSE_MAX:?}");
            return Err(ApiError::new(ErrorCode::BodyTimeout, error));
        };
        piece.transpose().map_err(|error| {
            ApiError::new(ErrorCode::InvalidRequest, format!("the body broke off: {error}"))
        })
    }
}
