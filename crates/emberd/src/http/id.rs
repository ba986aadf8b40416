//! The sandbox id of a path, and the process id.

use axum::extract::{FromRequestParts, Path};
use axum::http::request::Parts;
use emberd_api::ErrorCode;
use emberd_sandbox::SandboxId;

use super::errors::ApiError;

/// A sandbox's id. What is none names no sandbox: 404, like one that is unknown.
#[derive(Debug)]
pub struct Id(pub SandboxId);

impl<S: Send + Sync> FromRequestParts<S> for Id {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let text = Path::<String>::from_request_parts(parts, state).await;
        let unknown = |error: String| ApiError::new(ErrorCode::UnknownSandbox, error);
        let Path(text) = text.map_err(|rejection| unknown(rejection.body_text()))?;
        text.parse().map(Self).map_err(|error| unknown(format!("unknown sandbox: {error}")))
    }
}

/// A sandbox's id, and that of one of its processes.
#[derive(Debug)]
pub struct ProcessId(pub SandboxId, pub u32);

impl<S: Send + Sync> FromRequestParts<S> for ProcessId {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let texts = Path::<(String, String)>::from_request_parts(parts, state).await;
        let unknown = |error: String| ApiError::new(ErrorCode::UnknownSandbox, error);
        let Path((id, pid)) = texts.map_err(|rejection| unknown(rejection.body_text()))?;
        let id = id.parse().map_err(|error| unknown(format!("unknown sandbox: {error}")))?;
        let none = |_| ApiError::new(ErrorCode::NotFound, "what is no number is no process's");
        Ok(Self(id, pid.parse().map_err(none)?))
    }
}
