//! `/templates` and `/templates/{pack}`.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use emberd_api::{BuildTemplate, Template, TemplateList, paths};
use emberd_sandbox::{BuildTemplateError, RemoveTemplateError, Resources, Sandboxes};

use super::body::{Body, BodyError};
use super::errors::ApiError;
use super::failures::Failures;
use super::pack::{Pack, PackError};
use super::query::{Query, QueryError};
use super::views::IntoBody;

/// Lists the templates, by language pack and size.
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
/// The size is pinned: its template stays until it is deleted or the daemon ends, and with
/// `pool_size` microVMs of it are kept ready. A caller that hangs up does not end the build.
#[utoipa::path(
    post,
    path = paths::TEMPLATE,
    operation_id = "build_template",
    tag = "templates",
    params(Pack),
    request_body(content = Option<BuildTemplate>, description = "An empty body means `{}`."),
    responses(
        (status = 200, description = "The template is ready.", body = Template),
        Failures<(PackError, BodyError, BuildTemplateError)>,
    )
)]
pub async fn build(
    State(sandboxes): State<Sandboxes>,
    Pack(pack): Pack,
    body: Body,
) -> Result<Json<Template>, ApiError> {
    let BuildTemplate { vcpus, memory_mib, pool_size } = body.json_or_default()?;
    let size = Resources { vcpus, memory_mib, ..Resources::default() };
    Ok(Json(sandboxes.build_template(&pack, &size, pool_size).await?.into_body()))
}

/// Deletes the template of a language pack and the microVMs of its pool, and ends its build.
///
/// Sandboxes boot cold until the template is built again. The size is not pinned any more. A
/// template that does not exist is a success.
#[utoipa::path(
    delete,
    path = paths::TEMPLATE,
    operation_id = "delete_template",
    tag = "templates",
    params(
        Pack,
        ("vcpus" = Option<u64>, Query,
         description = "Number of virtual processors; the daemon's default when absent."),
        ("memory_mib" = Option<u64>, Query,
         description = "Memory, in MiB; the daemon's default when absent."),
    ),
    responses(
        (status = 204, description = "The template does not exist."),
        Failures<(PackError, QueryError, RemoveTemplateError)>,
    )
)]
pub async fn delete(
    State(sandboxes): State<Sandboxes>,
    Pack(pack): Pack,
    query: Query,
) -> Result<StatusCode, ApiError> {
    let (vcpus, memory_mib) = (query.number("vcpus")?, query.number("memory_mib")?);
    sandboxes
        .remove_template(&pack, &Resources { vcpus, memory_mib, ..Resources::default() })
        .await?;
    Ok(StatusCode::NO_CONTENT)
}
