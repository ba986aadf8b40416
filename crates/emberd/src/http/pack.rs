//! The language pack a body or a path names.

use axum::extract::{FromRequestParts, Path};
use axum::http::request::Parts;
use emberd_api::ErrorCode;
use emberd_image::{PackName, PackNameError};
use emberd_sandbox::Sandboxes;

use super::errors::ApiError;

/// An installed language pack, of the path.
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

/// The pack of that name.
///
/// # Errors
/// None is installed; the hint names those that are.
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
    ApiError::new(ErrorCode::UnknownPack, error)
        .hint(format!("installed are: {}", names.join(", ")))
}
