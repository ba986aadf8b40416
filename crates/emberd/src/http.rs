//! The HTTP API: one file per resource, one table of routes, one of errors.

use axum::middleware::{from_fn, from_fn_with_state};
use axum::routing::{MethodRouter, delete, get, post};
use axum::{Extension, Router};
use emberd_api::{ErrorCode, paths};
use emberd_sandbox::Sandboxes;
use emberd_vmm::SnapshotVmm;
use utoipa::OpenApi;

mod body;
mod budget;
mod contexts;
mod ending;
mod errors;
mod exec;
mod files;
mod host;
mod id;
mod info;
mod json;
mod limits;
mod logs;
mod metrics;
mod origin;
mod outputs;
mod pack;
mod ports;
mod processes;
mod proxy;
mod query;
mod sandboxes;
mod scope;
mod sse;
mod templates;
mod tunnel;

use errors::ApiError;
pub use host::Hosts;
pub use limits::Limits;
pub use scope::{PROXIED, Role, SCOPES, Scope};

use crate::server::observe::{self, OnPanic};

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
        metrics::metrics,
        logs::logs,
        ports::connect,
        files::content::read,
        files::content::write,
        files::tree::remove,
        files::tree::stat,
        files::tree::list,
        files::tree::make_dir,
        files::tree::rename,
        files::watch::watch,
        files::content::pack,
        files::content::unpack,
        processes::start,
        processes::list,
        processes::get,
        processes::delete,
        processes::events::events,
        processes::stdin,
        processes::signal,
        processes::resize,
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
    components(schemas(
        emberd_api::ErrorBody,
        ErrorCode,
        emberd_api::ProcessWord,
        emberd_api::RunEvent,
    ))
)]
struct Document;

/// The OpenAPI document.
pub fn document() -> utoipa::openapi::OpenApi {
    Document::openapi()
}

/// The whole API over `sandboxes`, for requests to `hosts` within `limits`.
pub fn router<V: SnapshotVmm>(sandboxes: Sandboxes<V>, hosts: Hosts, limits: Limits) -> Router {
    let router =
        routes().into_iter().fold(Router::new(), |router, (path, route)| router.route(path, route));
    router
        .fallback(async || ApiError::new(ErrorCode::UnknownRoute, "no such path"))
        .method_not_allowed_fallback(async || {
            ApiError::new(ErrorCode::MethodNotAllowed, "the path does not take this method")
        })
        .layer(from_fn_with_state(sandboxes.clone(), ending::with_sandbox))
        .layer(Extension(limits))
        .layer(from_fn_with_state(hosts, host::refuse_strangers))
        .layer(from_fn(origin::refuse_pages))
        .layer(from_fn_with_state(sandboxes.clone(), proxy::divert))
        .layer(from_fn_with_state(errors::defect as OnPanic, observe::observe))
        .with_state(sandboxes)
}

/// Every path and what it answers.
pub fn routes<V: SnapshotVmm>() -> [(&'static str, MethodRouter<Sandboxes<V>>); 29] {
    [
        (paths::SANDBOXES, post(sandboxes::create::<V>).get(sandboxes::list::<V>)),
        (paths::SANDBOX, get(sandboxes::get::<V>).delete(sandboxes::delete::<V>)),
        (paths::EXEC, post(exec::exec::<V>)),
        (paths::METRICS, get(metrics::metrics::<V>)),
        (paths::LOGS, get(logs::logs::<V>)),
        (paths::PORT, get(ports::connect::<V>)),
        (
            paths::FILES,
            get(files::content::read::<V>)
                .put(files::content::write::<V>)
                .delete(files::tree::remove::<V>),
        ),
        (paths::FILES_STAT, get(files::tree::stat::<V>)),
        (paths::FILES_LIST, get(files::tree::list::<V>)),
        (paths::FILES_DIR, post(files::tree::make_dir::<V>)),
        (paths::FILES_MOVE, post(files::tree::rename::<V>)),
        (paths::FILES_WATCH, get(files::watch::watch::<V>)),
        (paths::FILES_ARCHIVE, get(files::content::pack::<V>).put(files::content::unpack::<V>)),
        (paths::PROCESSES, post(processes::start::<V>).get(processes::list::<V>)),
        (paths::PROCESS, get(processes::get::<V>).delete(processes::delete::<V>)),
        (paths::PROCESS_EVENTS, get(processes::events::events::<V>)),
        (paths::PROCESS_STDIN, post(processes::stdin::<V>)),
        (paths::PROCESS_SIGNAL, post(processes::signal::<V>)),
        (paths::PROCESS_RESIZE, post(processes::resize::<V>)),
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
