//! The language pack that a body or a path names.

use axum::extract::{FromRequestParts, Path};
use axum::http::request::Parts;
use emberd_image::{PackName, PackNameError};
use emberd_sandbox::Sandboxes;
use utoipa::IntoParams;
use utoipa::openapi::path::{Parameter, ParameterIn};

use super::errors::ApiError;
use super::id::path_parameter;

/// The installed language pack in a path.
#[derive(Debug)]
pub struct Pack(pub PackName);

impl FromRequestParts<Sandboxes> for Pack {
    type Rejection = ApiError;

    async fn from_request_parts(
        parts: &mut Parts,
        sandboxes: &Sandboxes,
    ) -> Result<Self, ApiError> {
        let text = Path::<String>::from_request_parts(parts, sandboxes).await;
        let Path(text) = text.map_err(|rejection| unknown(sandboxes, rejection.body_text()))?;
        installed(sandboxes, &text).map(Self)
    }
}

impl IntoParams for Pack {
    fn into_params(_: impl Fn() -> Option<ParameterIn>) -> Vec<Parameter> {
        vec![path_parameter("pack", "Name of the language pack, such as `python`.").build()]
    }
}

/// The language pack is not installed.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct PackError(String);

/// Finds the installed pack `name`.
///
/// # Errors
/// [`PackError`], with a hint that names the installed packs.
pub fn installed(sandboxes: &Sandboxes, name: &str) -> Result<PackName, ApiError> {
    let pack: PackName =
        name.parse().map_err(|error: PackNameError| unknown(sandboxes, error.to_string()))?;
    if sandboxes.images().packs.contains_key(&pack) {
        Ok(pack)
    } else {
        Err(unknown(sandboxes, format!("unknown language pack `{pack}`")))
    }
}

fn unknown(sandboxes: &Sandboxes, error: String) -> ApiError {
    let names: Vec<_> = sandboxes.images().packs.keys().map(PackName::as_str).collect();
    ApiError::from(PackError(error)).hint(format!("installed packs: {}", names.join(", ")))
}
