//! `/mcp`: sandboxes as tools of agents.
//!
//! A call makes requests of the API, in this process and as its caller: with the caller's key and
//! over its connection. So scopes, owners, limits and the journal apply to each of them, once, and
//! the route itself needs no more than a caller who is known.

use axum::Router;
use axum::body::Body as AxumBody;
use axum::http::header::{AUTHORIZATION, HOST};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, Request};
use axum::response::{IntoResponse as _, Response};
use axum::routing::post;
use emberd_api::paths;
use emberd_client::{Client, LocalBody};
use emberd_mcp::{Daemon, HttpRoute, over_http};
use hyper::service::Service as _;
use hyper_util::service::TowerToHyperService;

use super::body::Body;
use super::credential::API_KEY;
use crate::server::caller::Caller;
use crate::server::connection::Peer;
use crate::server::guarded::guarded;
use crate::server::principal::Principal;

/// The route, whose calls are answered by `api`. `origin` is where browsers find the daemon, unless
/// a caller found it elsewhere.
pub fn route<S: Clone + Send + Sync + 'static>(api: Router, origin: &str) -> Router<S> {
    let (api, origin) = (TowerToHyperService::new(api), origin.to_owned());
    let tools = over_http(move |parts| daemon(&api, &origin, parts));
    let answer = async move |parts: Parts, body: Body| answer(tools, parts, body).await;
    Router::new().route(paths::MCP, post(answer))
}

/// Answers one request. Its body counts against the budget until the answer is sent.
async fn answer(tools: HttpRoute, parts: Parts, body: Body) -> Response {
    let (bytes, share) = body.into_bytes();
    let request = Request::from_parts(parts, AxumBody::from(bytes));
    let response = tools.handle(request).await.into_response();
    response.map(|body| guarded(AxumBody::new(body), share))
}

/// The API, as the caller of the request of `parts` reaches it.
fn daemon(api: &TowerToHyperService<Router>, origin: &str, parts: &Parts) -> Daemon {
    let mut fields = HeaderMap::new();
    for name in [API_KEY, AUTHORIZATION] {
        parts.headers.get_all(&name).iter().for_each(|value| {
            fields.append(name.clone(), value.clone());
        });
    }
    let caller = parts.extensions.get::<Caller>().cloned();
    let principal = parts.extensions.get::<Principal>().copied();
    let origin = origin_of(origin, caller.as_ref(), parts.headers.get(HOST));
    let api = api.clone();
    let client = Client::over(move |mut request: Request<LocalBody>| {
        request.headers_mut().extend(fields.clone());
        let extensions = request.extensions_mut();
        if let Some(caller) = &caller {
            extensions.insert(caller.clone());
        }
        if let Some(principal) = principal {
            extensions.insert(principal);
        }
        let answer = api.call(request.map(AxumBody::new));
        async move { answer.await.unwrap_or_else(|never| match never {}) }
    });
    Daemon { client, origin }
}

/// Where a browser of the caller finds the daemon: where the caller found it, if that was over TCP.
fn origin_of(origin: &str, caller: Option<&Caller>, host: Option<&HeaderValue>) -> String {
    let over_tcp = caller.is_none_or(|caller| matches!(caller.peer, Peer::Address(_)));
    let host = host.and_then(|host| host.to_str().ok()).filter(|_| over_tcp);
    match (host, origin.split_once("://")) {
        (Some(host), Some((scheme, _))) => format!("{scheme}://{host}"),
        _ => origin.to_owned(),
    }
}
