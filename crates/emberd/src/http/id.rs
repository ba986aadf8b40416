//! The ids in a path.

use axum::extract::{FromRequestParts, Path};
use axum::http::request::Parts;
use emberd_sandbox::{ContextId, SandboxId};
use serde::de::DeserializeOwned;
use utoipa::openapi::path::{Parameter, ParameterBuilder, ParameterIn};
use utoipa::openapi::{Object, Required, Type};
use utoipa::{IntoParams, PartialSchema as _};

use super::errors::ApiError;

/// Why the ids in a path name nothing. A malformed id is like an unknown one: 404.
#[derive(Debug, thiserror::Error)]
pub enum PathError {
    /// The text is not the id of a sandbox.
    #[error("unknown sandbox: {0}")]
    Sandbox(String),
    /// The text is not a number.
    #[error("unknown process: a process id is a number")]
    Process,
    /// The text is not the id of a context.
    #[error("unknown context: {0}")]
    Context(String),
}

/// The sandbox id in a path.
#[derive(Debug)]
pub struct Id(pub SandboxId);

impl<S: Send + Sync> FromRequestParts<S> for Id {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let Path(text) = texts::<String, S>(parts, state).await?;
        Ok(Self(sandbox(&text)?))
    }
}

/// The sandbox id and the process id in a path.
#[derive(Debug)]
pub struct ProcessId(pub SandboxId, pub u32);

impl<S: Send + Sync> FromRequestParts<S> for ProcessId {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let Path((id, pid)) = texts::<(String, String), S>(parts, state).await?;
        let id = sandbox(&id)?;
        Ok(Self(id, pid.parse().map_err(|_| PathError::Process)?))
    }
}

/// The sandbox id and the context id in a path.
#[derive(Debug)]
pub struct Ids(pub SandboxId, pub ContextId);

impl<S: Send + Sync> FromRequestParts<S> for Ids {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let Path((id, context)) = texts::<(String, String), S>(parts, state).await?;
        let id = sandbox(&id)?;
        let unknown = |error| PathError::Context(format!("{error}"));
        Ok(Self(id, context.parse().map_err(unknown)?))
    }
}

impl IntoParams for Id {
    fn into_params(_: impl Fn() -> Option<ParameterIn>) -> Vec<Parameter> {
        vec![sandbox_parameter()]
    }
}

impl IntoParams for ProcessId {
    fn into_params(_: impl Fn() -> Option<ParameterIn>) -> Vec<Parameter> {
        let pid = path_parameter("pid", "Process id in the sandbox.");
        vec![sandbox_parameter(), pid.schema(Some(u32::schema())).build()]
    }
}

impl IntoParams for Ids {
    fn into_params(_: impl Fn() -> Option<ParameterIn>) -> Vec<Parameter> {
        let context = "Id of the context: `ctx_` and 12 hexadecimal digits.";
        vec![sandbox_parameter(), path_parameter("context", context).build()]
    }
}

/// The parameter `id` of every path below a sandbox.
pub fn sandbox_parameter() -> Parameter {
    path_parameter("id", "Id of the sandbox, such as `sb_5f0c1e7a9b3d`.").build()
}

/// A parameter of a path: a string, if it is given no other schema.
pub fn path_parameter(name: &str, description: &str) -> ParameterBuilder {
    ParameterBuilder::new()
        .name(name)
        .parameter_in(ParameterIn::Path)
        .required(Required::True)
        .description(Some(description))
        .schema(Some(Object::with_type(Type::String)))
}

/// Reads the id of a sandbox.
///
/// # Errors
/// [`PathError::Sandbox`].
pub fn sandbox(text: &str) -> Result<SandboxId, PathError> {
    text.parse().map_err(|error| PathError::Sandbox(format!("{error}")))
}

/// The texts of a path's parameters.
async fn texts<T: DeserializeOwned + Send, S: Send + Sync>(
    parts: &mut Parts,
    state: &S,
) -> Result<Path<T>, ApiError> {
    let texts = Path::from_request_parts(parts, state).await;
    texts.map_err(|rejection| PathError::Sandbox(rejection.body_text()).into())
}
