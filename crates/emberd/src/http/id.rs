//! The sandbox id of a path, and the process id.

use axum::extract::{FromRequestParts, Path};
use axum::http::request::Parts;
use emberd_api::ErrorCode;
use emberd_sandbox::SandboxId;
use serde::de::DeserializeOwned;

use super::errors::ApiError;

/// A sandbox's id. What is none names no sandbox: 404, like one that is unknown.
#[derive(Debug)]
pub struct Id(pub SandboxId);

impl<S: Send + Sync> FromRequestParts<S> for Id {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let Path(text) = texts::<String, S>(parts, state).await?;
        sandbox(&text).map(Self)
    }
}

/// A sandbox's id, and that of one of its processes.
#[derive(Debug)]
pub struct ProcessId(pub SandboxId, pub u32);

impl<S: Send + Sync> FromRequestParts<S> for ProcessId {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let Path((id, pid)) = texts::<(String, String), S>(parts, state).await?;
        let id = sandbox(&id)?;
        let none = |_| ApiError::new(ErrorCode::NotFound, "what is no number is no process's");
        Ok(Self(id, pid.parse().map_err(none)?))
    }
}

/// The sandbox `text` names.
///
/// # Errors
/// It is the id of none.
pub fn sandbox(text: &str) -> Result<SandboxId, ApiError> {
    text.parse().map_err(|error| unknown(format!("unknown sandbox: {error}")))
}

/// What a path names, as it is written.
async fn texts<T: DeserializeOwned + Send, S: Send + Sync>(
    parts: &mut Parts,
    state: &S,
) -> Result<Path<T>, ApiError> {
    let texts = Path::from_request_parts(parts, state).await;
    texts.map_err(|rejection| unknown(rejection.body_text()))
}

fn unknown(error: String) -> ApiError {
    ApiError::new(ErrorCode::UnknownSandbox, error)
}
