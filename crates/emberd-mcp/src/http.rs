//! The server behind HTTP: a service for the route of a daemon.

use std::sync::Arc;

use hyper::http::request::Parts;
use rmcp::model::Extensions;
use rmcp::transport::streamable_http_server::session::never::NeverSessionManager;
use rmcp::transport::streamable_http_server::{StreamableHttpServerConfig, StreamableHttpService};

use crate::life::Life;
use crate::server::{Options, Server};
use crate::state::Daemon;

/// Largest body of a request, in bytes (64 MiB): that of the API.
pub const BODY_BYTES_MAX: usize = emberd_api::BODY_BYTES_MAX;

/// Answers `POST` requests, each alone: there are no sessions.
pub type HttpRoute = StreamableHttpService<Server, NeverSessionManager>;

/// A server for the route of a daemon, which `connect` reaches as the caller of a request does.
/// The route must have refused requests of web pages and to foreign hosts.
///
/// # Panics
/// Never: all tools are offered.
pub fn over_http(connect: impl Fn(&Parts) -> Daemon + Send + Sync + 'static) -> HttpRoute {
    let connect = move |extensions: &Extensions| {
        let parts = extensions.get().expect("every request came over HTTP");
        connect(parts)
    };
    let server = Server::new(Options::default(), Life::AsAsked, connect);
    let server = server.expect("no tool is named");
    let config = StreamableHttpServerConfig::default()
        .with_legacy_session_mode(false)
        .with_json_response(true)
        .disable_allowed_hosts()
        .with_max_request_body_bytes(BODY_BYTES_MAX);
    let sessions = Arc::new(NeverSessionManager::default());
    StreamableHttpService::new(move || Ok(server.clone()), sessions, config)
}
