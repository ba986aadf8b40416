//! The ids in a path.

use axum::extract::{FromRequestParts, RawPathParams};
use axum::http::request::Parts;
use emberd_sandbox::{ContextId, SandboxId};
use utoipa::openapi::path::{Parameter, ParameterBuilder, ParameterIn};
use utoipa::openapi::{Object, Required, Type};
use utoipa::{IntoParams, PartialSchema as _};

use super::errors::ApiError;

/// Name of the parameter with the id of a sandbox.
const SANDBOX: &str = "id";

/// The sandbox that the path of a request names, if it does and the id is well formed.
pub async fn in_path(parts: &mut Parts) -> Option<SandboxId> {
    let params = RawPathParams::from_request_parts(parts, &()).await.ok()?;
    let (_, id) = params.iter().find(|(name, _)| *name == SANDBOX)?;
    id.parse().ok()
}

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

/// The sandbox id in a path, and the id of what the path names in the sandbox.
#[derive(Debug)]
pub struct Within<T>(pub SandboxId, pub T);

/// Something in a sandbox that a path names by an id.
pub trait Named: Sized {
    /// Name of the parameter.
    const PARAMETER: &str;

    /// Reads the id.
    ///
    /// # Errors
    /// [`PathError`].
    fn parse(text: &str) -> Result<Self, PathError>;

    /// The parameter in the OpenAPI document.
    fn parameter() -> ParameterBuilder;
}

/// A process, by its id in the guest.
impl Named for u32 {
    const PARAMETER: &str = "pid";

    fn parse(text: &str) -> Result<Self, PathError> {
        text.parse().map_err(|_| PathError::Process)
    }

    fn parameter() -> ParameterBuilder {
        let parameter = path_parameter(Self::PARAMETER, "Process id in the sandbox.");
        parameter.schema(Some(Self::schema()))
    }
}

impl Named for ContextId {
    const PARAMETER: &str = "context";

    fn parse(text: &str) -> Result<Self, PathError> {
        text.parse().map_err(|error| PathError::Context(format!("{error}")))
    }

    fn parameter() -> ParameterBuilder {
        let description = "Id of the context: `ctx_` and 12 hexadecimal digits.";
        path_parameter(Self::PARAMETER, description)
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Id {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let path = path(parts, state).await?;
        Ok(Self(sandbox(text(&path, SANDBOX))?))
    }
}

impl<T: Named, S: Send + Sync> FromRequestParts<S> for Within<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let path = path(parts, state).await?;
        Ok(Self(sandbox(text(&path, SANDBOX))?, T::parse(text(&path, T::PARAMETER))?))
    }
}

impl IntoParams for Id {
    fn into_params(_: impl Fn() -> Option<ParameterIn>) -> Vec<Parameter> {
        vec![sandbox_parameter()]
    }
}

impl<T: Named> IntoParams for Within<T> {
    fn into_params(_: impl Fn() -> Option<ParameterIn>) -> Vec<Parameter> {
        vec![sandbox_parameter(), T::parameter().build()]
    }
}

/// The parameter `id` of every path below a sandbox.
pub fn sandbox_parameter() -> Parameter {
    path_parameter(SANDBOX, "Id of the sandbox, such as `sb_5f0c1e7a9b3d`.").build()
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

/// The parameters of a path.
async fn path(parts: &mut Parts, state: &(impl Send + Sync)) -> Result<RawPathParams, ApiError> {
    let parameters = RawPathParams::from_request_parts(parts, state).await;
    parameters.map_err(|rejection| PathError::Sandbox(rejection.body_text()).into())
}

/// The parameter `name` of a path, which its route has.
fn text<'a>(path: &'a RawPathParams, name: &str) -> &'a str {
    path.iter().find(|(known, _)| *known == name).map_or("", |(_, text)| text)
}
