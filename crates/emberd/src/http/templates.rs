//! `/templates` and `/templates/{pack}`.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use emberd_api::{ErrorBody, Template, TemplateList, TemplateState, paths};
use emberd_sandbox::{Sandboxes, TemplateState as State_, TemplateView};

use super::errors::ApiError;
use super::pack::Pack;
use super::sandboxes::epoch_ms;

/// List the templates, one for each installed language pack.
#[utoipa::path(
    get,
    path = paths::TEMPLATES,
    operation_id = "list_templates",
    responses((status = 200, description = "All templates", body = TemplateList))
)]
pub async fn list(State(sandboxes): State<Sandboxes>) -> Json<TemplateList> {
    Json(TemplateList { templates: sandboxes.templates().into_iter().map(shown).collect() })
}

/// Build the template of a language pack, if there is none; answers when it is ready. A caller
/// that hangs up does not end the build.
#[utoipa::path(
    post,
    path = paths::TEMPLATE,
    operation_id = "build_template",
    params(("pack" = String, Path, description = "Name of a language pack")),
    responses(
        (status = 200, description = "The template is ready", body = Template),
        (status = 400, description = "There is no such pack", body = ErrorBody),
        (status = 409, description = "This daemon makes no templates", body = ErrorBody),
        (status = 503, description = "It could not be built, was removed meanwhile, or the \
            daemon stops", body = ErrorBody),
    )
)]
pub async fn build(
    State(sandboxes): State<Sandboxes>,
    Pack(pack): Pack,
) -> Result<Json<Template>, ApiError> {
    Ok(Json(shown(sandboxes.build_template(&pack).await?)))
}

/// Remove the template of a language pack and the microVMs of its pool, and cut off its being
/// built. Sandboxes boot cold until it is built again. No error if there is none.
#[utoipa::path(
    delete,
    path = paths::TEMPLATE,
    operation_id = "delete_template",
    params(("pack" = String, Path, description = "Name of a language pack")),
    responses(
        (status = 204, description = "There is no template"),
        (status = 400, description = "There is no such pack", body = ErrorBody),
        (status = 409, description = "This daemon makes no templates", body = ErrorBody),
    )
)]
pub async fn delete(
    State(sandboxes): State<Sandboxes>,
    Pack(pack): Pack,
) -> Result<StatusCode, ApiError> {
    sandboxes.remove_template(&pack).await?;
    Ok(StatusCode::NO_CONTENT)
}

fn shown(view: TemplateView) -> Template {
    Template {
        language_pack: view.pack.to_string(),
        state: match view.state {
            State_::Absent => TemplateState::Absent,
            State_::Building => TemplateState::Building,
            State_::Ready => TemplateState::Ready,
            State_::Failed => TemplateState::Failed,
        },
        error: view.error,
        dir: view.dir.map(|dir| dir.display().to_string()),
        disk_bytes: view.disk_bytes,
        made_at_ms: view.made_at.map(epoch_ms),
    }
}
