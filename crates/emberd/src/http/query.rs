//! The query of a path, with errors as bodies.

use axum::extract::{FromRequestParts, Query as RawQuery};
use axum::http::request::Parts;
use emberd_api::ErrorCode;
use serde::de::DeserializeOwned;

use super::errors::ApiError;

/// What stands after the `?`. Unknown names are ignored.
#[derive(Debug)]
pub struct Query<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Query<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        match RawQuery::from_request_parts(parts, state).await {
            Ok(RawQuery(query)) => Ok(Self(query)),
            Err(rejection) => Err(ApiError::new(ErrorCode::InvalidRequest, rejection.body_text())),
        }
    }
}
