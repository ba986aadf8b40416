//! `/templates` and `/templates/{pack}`.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use emberd_api::{Template, TemplateList, paths};
use emberd_sandbox::{BuildTemplateError, RemoveTemplateError, Sandboxes};

use super::errors::ApiError;
use super::failures::Failures;
use super::pack::{Pack, PackError};
use super::views::IntoBody;

/// Lists the templates, one for each installed language pack.
#[utoipa::path(
    get,
    path = paths::TEMPLATES,
    operation_id = "list_templates",
    tag = "templates",
    responses((status = 200, description = "All templates.", body = TemplateList), Failures<()>)
)]
pub async fn list(State(sandboxes): State<Sandboxes>) -> Json<TemplateList> {
    Json(TemplateList {
        templates: sandboxes.templates().into_iter().map(IntoBody::into_body).collect(),
    })
}

/// Builds the template of a language pack unless it exists, and answers once it is ready.
///
/// A caller that hangs up does not end the build.
#[utoipa::path(
    post,
    path = paths::TEMPLATE,
    operation_id = "build_template",
    tag = "templates",
    params(Pack),
    responses(
        (status = 200, description = "The template is ready.", body = Template),
        Failures<(PackError, BuildTemplateError)>,
    )
)]
pub async fn build(
    State(sandboxes): State<Sandboxes>,
    Pack(pack): Pack,
) -> Result<Json<Template>, ApiError> {
    Ok(Json(sandboxes.build_template(&pack).await?.into_body()))
}

/// Deletes the template of a language pack and the microVMs of its pool, and ends its build.
///
/// Sandboxes boot cold until the template is built again. A template that does not exist is a
/// success.
#[utoipa::path(
    delete,
    path = paths::TEMPLATE,
    operation_id = "delete_template",
    tag = "templates",
    params(Pack),
    responses(
        (status = 204, description = "The template does not exist."),
        Failures<(PackError, RemoveTemplateError)>,
    )
)]
pub async fn delete(
    State(sandboxes): State<Sandboxes>,
    Pack(pack): Pack,
) -> Result<StatusCode, ApiError> {
    sandboxes.remove_template(&pack).await?;
    Ok(StatusCode::NO_CONTENT)
}
