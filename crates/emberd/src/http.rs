//! The HTTP API: one file per resource, one table of routes, one of errors.

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::middleware::from_fn;
use axum::routing::{MethodRouter, delete, get, post};
use emberd_api::{BODY_BYTES_MAX, ErrorCode, paths};
use emberd_sandbox::Sandboxes;
use emberd_vmm::SnapshotVmm;
use utoipa::OpenApi;

mod body;
mod contexts;
mod errors;
mod exec;
mod id;
mod info;
mod observe;
mod origin;
mod pack;
mod sandboxes;
mod templates;
mod text;

use errors::ApiError;

/// The OpenAPI document, from the routes and the bodies themselves.
#[derive(OpenApi)]
#[openapi(
    info(title = "emberd", description = "Runs code in microVMs."),
    paths(
        sandboxes::create,
        sandboxes::list,
        sandboxes::get,
        sandboxes::delete,
        exec::exec,
        contexts::open,
        contexts::list,
        contexts::delete,
        contexts::run,
        contexts::interrupt,
        contexts::restart,
        templates::list,
        templates::build,
        templates::delete,
        info::info,
        info::healthz,
        info::openapi,
    ),
    components(schemas(emberd_api::ErrorBody, ErrorCode, emberd_api::RunEvent))
)]
struct Document;

/// The OpenAPI document.
pub fn document() -> utoipa::openapi::OpenApi {
    Document::openapi()
}

/// The whole API over `sandboxes`.
pub fn router<V: SnapshotVmm>(sandboxes: Sandboxes<V>) -> Router {
    let router =
        routes().into_iter().fold(Router::new(), |router, (path, route)| router.route(path, route));
    router
        .fallback(async || ApiError::new(ErrorCode::UnknownRoute, "no such path"))
        .method_not_allowed_fallback(async || {
            ApiError::new(ErrorCode::MethodNotAllowed, "the path does not take this method")
        })
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .layer(from_fn(origin::refuse_pages))
        .layer(from_fn(observe::observe))
        .with_state(sandboxes)
}

/// Every path and what it answers.
pub fn routes<V: SnapshotVmm>() -> [(&'static str, MethodRouter<Sandboxes<V>>); 13] {
    [
        (paths::SANDBOXES, post(sandboxes::create::<V>).get(sandboxes::list::<V>)),
        (paths::SANDBOX, get(sandboxes::get::<V>).delete(sandboxes::delete::<V>)),
        (paths::EXEC, post(exec::exec::<V>)),
        (paths::CONTEXTS, post(contexts::open::<V>).get(contexts::list::<V>)),
        (paths::CONTEXT, delete(contexts::delete::<V>)),
        (paths::CONTEXT_RUN, post(contexts::run::<V>)),
        (paths::CONTEXT_INTERRUPT, post(contexts::interrupt::<V>)),
        (paths::CONTEXT_RESTART, post(contexts::restart::<V>)),
        (paths::TEMPLATES, get(templates::list::<V>)),
        (paths::TEMPLATE, post(templates::build::<V>).delete(templates::delete::<V>)),
        (paths::INFO, get(info::info::<V>)),
        (paths::HEALTHZ, get(info::healthz)),
        (paths::OPENAPI, get(info::openapi)),
    ]
}
