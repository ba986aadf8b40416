//! The HTTP API: one file per resource, one table of routes, one of errors.

use axum::middleware::{from_fn, from_fn_with_state};
use axum::routing::{MethodRouter, delete, get, post};
use axum::{Extension, Router};
use emberd_api::{ErrorCode, paths};
use emberd_sandbox::Sandboxes;
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
mod logs;
mod metrics;
mod observe;
mod origin;
mod pack;
mod ports;
mod processes;
mod proxy;
mod query;
mod sandboxes;
mod sse;
mod templates;
mod tunnel;

pub use budget::Budget;
use errors::ApiError;
pub use host::Hosts;
pub use proxy::through;

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

/// The whole API over `sandboxes`, for requests to `hosts` whose bodies together keep to the
/// budget `bodies`.
pub fn router(sandboxes: Sandboxes, hosts: Hosts, bodies: Budget) -> Router {
    let router =
        routes().into_iter().fold(Router::new(), |router, (path, route)| router.route(path, route));
    router
        .fallback(async || ApiError::new(ErrorCode::UnknownRoute, "no such path"))
        .method_not_allowed_fallback(async || {
            ApiError::new(ErrorCode::MethodNotAllowed, "the path does not take this method")
        })
        .layer(from_fn_with_state(sandboxes.clone(), ending::with_sandbox))
        .layer(Extension(bodies))
        .layer(from_fn_with_state(hosts, host::refuse_strangers))
        .layer(from_fn(origin::refuse_pages))
        .layer(from_fn_with_state(sandboxes.clone(), proxy::divert))
        .layer(from_fn(observe::observe))
        .with_state(sandboxes)
}

/// Every path and what it answers.
pub fn routes() -> [(&'static str, MethodRouter<Sandboxes>); 29] {
    [
        (paths::SANDBOXES, post(sandboxes::create).get(sandboxes::list)),
        (paths::SANDBOX, get(sandboxes::get).delete(sandboxes::delete)),
        (paths::EXEC, post(exec::exec)),
        (paths::METRICS, get(metrics::metrics)),
        (paths::LOGS, get(logs::logs)),
        (paths::PORT, get(ports::connect)),
        (
            paths::FILES,
            get(files::content::read).put(files::content::write).delete(files::tree::remove),
        ),
        (paths::FILES_STAT, get(files::tree::stat)),
        (paths::FILES_LIST, get(files::tree::list)),
        (paths::FILES_DIR, post(files::tree::make_dir)),
        (paths::FILES_MOVE, post(files::tree::rename)),
        (paths::FILES_WATCH, get(files::watch::watch)),
        (paths::FILES_ARCHIVE, get(files::content::pack).put(files::content::unpack)),
        (paths::PROCESSES, post(processes::start).get(processes::list)),
        (paths::PROCESS, get(processes::get).delete(processes::delete)),
        (paths::PROCESS_EVENTS, get(processes::events::events)),
        (paths::PROCESS_STDIN, post(processes::stdin)),
        (paths::PROCESS_SIGNAL, post(processes::signal)),
        (paths::PROCESS_RESIZE, post(processes::resize)),
        (paths::CONTEXTS, post(contexts::open).get(contexts::list)),
        (paths::CONTEXT, delete(contexts::delete)),
        (paths::CONTEXT_RUN, post(contexts::run)),
        (paths::CONTEXT_INTERRUPT, post(contexts::interrupt)),
        (paths::CONTEXT_RESTART, post(contexts::restart)),
        (paths::TEMPLATES, get(templates::list)),
        (paths::TEMPLATE, post(templates::build).delete(templates::delete)),
        (paths::INFO, get(info::info)),
        (paths::HEALTHZ, get(info::healthz)),
        (paths::OPENAPI, get(info::openapi)),
    ]
}
