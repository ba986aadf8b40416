//! The query of a path, with errors as JSON.

use axum::extract::{FromRequestParts, Query as RawQuery};
use axum::http::request::Parts;
use serde::de::DeserializeOwned;

use super::errors::ApiError;

/// Why a query cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum QueryError {
    /// A `%` stands for itself.
    #[error("the query has a `%` without two hexadecimal digits")]
    Percent,
    /// A parameter is missing or has a wrong value.
    #[error("{0}")]
    Invalid(String),
}

/// The parameters after the `?`. Unknown names are ignored.
#[derive(Debug)]
pub struct Query<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Query<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        match RawQuery::from_request_parts(parts, state).await {
            Ok(RawQuery(query)) => Ok(Self(query)),
            Err(rejection) => Err(QueryError::Invalid(rejection.body_text()).into()),
        }
    }
}
