//! The HTTP API: one file per resource, one line per path, one table per error enum.

use axum::middleware::{from_fn, from_fn_with_state};
use axum::{Extension, Router};
use emberd_api::{ADDR_DEFAULT, ErrorCode};
use emberd_sandbox::Sandboxes;
use tower::ServiceBuilder;
use utoipa::{OpenApi, openapi};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

mod audit;
mod audited;
mod auth;
mod awake;
mod body;
mod budget;
mod codes;
mod contexts;
mod cors;
mod credential;
mod egress;
mod ending;
mod errors;
mod events;
mod exec;
mod failures;
mod files;
mod host;
mod id;
mod idempotency;
mod info;
mod json;
mod keys;
mod limited;
mod limits;
mod logs;
mod mcp;
mod metrics;
mod operations;
mod origin;
mod outputs;
mod owned;
mod pack;
mod ports;
mod processes;
mod proxy;
mod query;
mod quota;
mod sandboxes;
mod scope;
mod scrape;
mod signed;
mod spans;
mod sse;
mod templates;
mod terms;
mod tunnel;
mod unknown;
mod url_token;
mod urls;
mod usage;
mod views;

use audited::Recorder;
pub use cors::Pages;
use errors::{ApiError, RouteError};
pub use host::Hosts;
pub use limits::Limits;
pub use proxy::through;
pub use scope::{CALLERS, Needs, PROXIED, PUBLIC, Role, SCOPES, Scope};
pub use urls::Front;

use crate::access::Access;
use crate::egress_file::EgressFile;
use crate::server::observe::{self, OnPanic};

/// The OpenAPI document without its operations.
#[derive(OpenApi)]
#[openapi(
    info(
        title = "emberd",
        description = "Creates microVMs and runs code in them. Every response has the header \
            `x-request-id`: the id of the request in the daemon's log. Every response that is not \
            a success has an `ErrorBody`; `x-error-codes` names the codes that a response of an \
            operation can have.",
        license(name = "MIT", identifier = "MIT"),
    ),
    tags(
        (name = "sandboxes", description = "Sandboxes, and code that runs in them."),
        (name = "processes", description = "Processes and terminals in a sandbox."),
        (name = "contexts", description = "Interpreters that keep their variables between runs."),
        (name = "files", description = "Files and directories in a sandbox."),
        (name = "ports", description = "Connections to servers in a sandbox."),
        (name = "egress", description = "Network access of sandboxes."),
        (name = "templates", description = "Templates, from which sandboxes are restored."),
        (name = "daemon", description = "The daemon itself."),
    ),
    components(schemas(
        emberd_api::ErrorBody,
        ErrorCode,
        emberd_api::ProcessMessage,
        emberd_api::RunEvent,
        emberd_api::EgressEvent,
        emberd_api::AuditEvent,
        emberd_api::DaemonEvent,
    ))
)]
struct Document;

/// The OpenAPI document.
pub fn document() -> openapi::OpenApi {
    let mut document = operations().into_openapi();
    let server = openapi::ServerBuilder::new()
        .url(format!("http://{ADDR_DEFAULT}"))
        .description(Some("The default address of a daemon."));
    document.servers = Some(vec![server.build()]);
    unknown::describe(&mut document);
    auth::describe(&mut document);
    document
}

/// Every operation: its path, its method and its part of the document. `scope` gives each a scope.
fn operations() -> OpenApiRouter<Sandboxes> {
    OpenApiRouter::with_openapi(Document::openapi())
        .routes(routes!(sandboxes::create, sandboxes::list))
        .routes(routes!(sandboxes::get, terms::update, sandboxes::delete))
        .routes(routes!(terms::touch))
        .routes(routes!(exec::exec))
        .routes(routes!(metrics::metrics))
        .routes(routes!(logs::logs))
        .routes(routes!(ports::connect))
        .routes(routes!(urls::create, urls::revoke))
        .routes(routes!(files::content::read, files::content::write, files::tree::remove))
        .routes(routes!(files::tree::stat))
        .routes(routes!(files::tree::list))
        .routes(routes!(files::tree::make_dir))
        .routes(routes!(files::tree::rename))
        .routes(routes!(files::watch::watch))
        .routes(routes!(files::content::pack, files::content::unpack))
        .routes(routes!(processes::start, processes::list))
        .routes(routes!(processes::get, processes::delete))
        .routes(routes!(processes::events::events))
        .routes(routes!(processes::stdin))
        .routes(routes!(processes::signal))
        .routes(routes!(processes::resize))
        .routes(routes!(contexts::open, contexts::list))
        .routes(routes!(contexts::delete))
        .routes(routes!(contexts::run))
        .routes(routes!(contexts::events))
        .routes(routes!(contexts::interrupt))
        .routes(routes!(contexts::restart))
        .routes(routes!(egress::get, egress::replace, egress::patch))
        .routes(routes!(egress::check))
        .routes(routes!(egress::log::log))
        .routes(routes!(egress::profiles))
        .routes(routes!(templates::list))
        .routes(routes!(templates::build, templates::delete))
        .routes(routes!(events::events))
        .routes(routes!(info::info))
        .routes(routes!(usage::usage))
        .routes(routes!(audit::read))
        .routes(routes!(scrape::metrics))
        .routes(routes!(info::drain))
        .routes(routes!(info::healthz))
        .routes(routes!(info::openapi))
}

/// The whole API over `sandboxes`, for requests to `hosts` by `front` within `limits`, of callers
/// to whom `access` is given. Policies of sandboxes are within what `egress` permits.
pub fn router(
    sandboxes: Sandboxes,
    hosts: Hosts,
    limits: Limits,
    egress: EgressFile,
    access: Access,
    front: Front,
) -> Router {
    let (routes, document) = operations().split_for_parts();
    let recorder = Recorder::new(limits.audit().clone(), document);
    let agents = front.origin_for_agents();
    let around = Around { sandboxes, hosts, limits, egress, access, front, recorder };
    let Some(origin) = agents else { return around.layer(routes) };
    // What agents ask for passes through all layers again, as requests of its own.
    let api = around.clone().layer(routes.clone());
    around.layer(routes.merge(mcp::route(api, &origin)))
}

/// The layers around the routes.
#[derive(Clone)]
struct Around {
    sandboxes: Sandboxes,
    hosts: Hosts,
    limits: Limits,
    egress: EgressFile,
    access: Access,
    front: Front,
    recorder: Recorder,
}

impl Around {
    fn layer(self, routes: Router<Sandboxes>) -> Router {
        let Self { sandboxes, hosts, limits, egress, access, front, recorder } = self;
        let (meters, is_tls) = (limits.meters().clone(), origin::IsTls(front.is_tls()));
        let shared = front.pages().on(is_tls);
        let gate = auth::Gate {
            access: access.clone(),
            sandboxes: sandboxes.clone(),
            front: front.clone(),
        };
        // One layer for the router, which boxes and clones a service per layer and request. The
        // first is the outermost.
        let layers = ServiceBuilder::new()
            .option_layer(shared.map(|shared| from_fn_with_state(shared, cors::share)))
            .layer(from_fn_with_state(errors::defect as OnPanic, observe::observe))
            .layer(from_fn_with_state(recorder, audited::record))
            .layer(from_fn_with_state(meters, scrape::count))
            .layer(from_fn_with_state(gate, auth::authorize))
            .layer(from_fn_with_state(sandboxes.clone(), proxy::divert))
            .layer(from_fn_with_state(is_tls, origin::refuse_pages))
            .layer(from_fn_with_state(hosts, host::refuse_strangers))
            .layer(Extension(egress))
            .layer(Extension(access))
            .layer(Extension(limits))
            .layer(Extension(front))
            .layer(from_fn_with_state(sandboxes.clone(), owned::hide))
            .layer(from_fn_with_state(sandboxes.clone(), ending::with_sandbox))
            .layer(from_fn_with_state(sandboxes.clone(), awake::keep))
            .layer(from_fn(unknown::name_unknown_fields));
        routes
            .fallback(async || ApiError::from(RouteError::Path))
            .method_not_allowed_fallback(async || ApiError::from(RouteError::Method))
            .layer(layers)
            .with_state(sandboxes)
    }
}
