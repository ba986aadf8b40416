//! Requests to ports inside sandboxes, recognised by their host, `PORT-ID.anything`, or by two
//! headers. They never reach the API. The server on the port receives them unchanged, without the
//! fields that concern one connection only.

use axum::extract::{Request, State};
use axum::http::{Method, StatusCode, Uri};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use emberd_sandbox::{GuestTcp, SandboxId, Sandboxes};
use futures::future::join;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio_util::sync::CancellationToken;

use super::errors::{ApiError, RouteError};
use super::{ending, owned, tunnel, url_token};
use crate::server::caller::Caller;
use crate::server::observe::Proxied;

mod exchange;
mod fields;
mod target;

pub use exchange::ExchangeError;
pub use target::{Target, TargetError, host_target, is_for_port, port};

/// Answers a request to a port inside a sandbox, and passes on all others.
pub async fn divert(State(sandboxes): State<Sandboxes>, request: Request, next: Next) -> Response {
    match target::of(&request) {
        Ok(None) => next.run(request).await,
        Ok(Some(target)) => {
            forward(&sandboxes, target, request).await.unwrap_or_else(ApiError::into_response)
        }
        Err(error) => error.into_response(),
    }
}

/// The sandbox that a request to a port inside one names; the inner one is none if it names none
/// that can be. None for other requests.
#[expect(clippy::option_option, reason = "a request of the API, and one to no sandbox")]
pub fn sandbox_of(request: &Request) -> Option<Option<SandboxId>> {
    target::of(request).map(|target| target.map(|target| target.id)).transpose().map(Result::ok)
}

async fn forward(
    sandboxes: &Sandboxes,
    target: Target,
    request: Request,
) -> Result<Response, ApiError> {
    if request.method() == Method::CONNECT {
        return Err(RouteError::Connect.into());
    }
    let sandbox = owned::find(sandboxes, request.extensions().get(), target.id)?;
    // To the head of the response; what follows is a use as it comes.
    let _in_use = sandbox.enter().await?;
    let tcp = sandbox.ports()?.dial(target.port).await?;
    exchange_over(tcp, request, sandboxes.closing(), sandboxes.ended(target.id)).await
}

/// The answer to `request` of what is at the other end of `tcp`, or why there is none. What goes
/// on then ends some time after `closing`, and when the sandbox has `ended`.
pub async fn through(
    tcp: GuestTcp,
    request: Request,
    closing: CancellationToken,
    ended: impl Future<Output = ()> + Send + 'static,
) -> Response {
    let answer = exchange_over(tcp, request, closing, ended).await;
    answer.unwrap_or_else(ApiError::into_response)
}

async fn exchange_over(
    tcp: GuestTcp,
    mut request: Request,
    closing: CancellationToken,
    ended: impl Future<Output = ()> + Send + 'static,
) -> Result<Response, ApiError> {
    let closed = || closing.clone().cancelled_owned();
    let caller = request.extensions_mut().remove::<Caller>();
    let on_upgrade = request.extensions_mut().remove::<OnUpgrade>();
    let ip = caller.as_ref().and_then(|caller| caller.peer.ip());
    let protocol = fields::for_guest(request.headers_mut(), ip);
    *request.uri_mut() = origin_form(request.uri());
    let exchange = exchange::open(tcp).await?;
    let (mut answer, connection) = exchange.ask(request, closed()).await?;
    if answer.status() != StatusCode::SWITCHING_PROTOCOLS {
        fields::for_caller(answer.headers_mut());
        let mut answer = answer.map(|body| connection.body(body, closed()));
        answer.extensions_mut().insert(Proxied);
        return Ok(ending::until(ended, caller.as_ref(), answer));
    }
    // A switch that the caller did not ask for would leave it in another protocol.
    let Some((on_upgrade, _)) = on_upgrade.zip(protocol) else {
        return Err(ExchangeError::NotAsked.into());
    };
    let upgraded_guest = hyper::upgrade::on(&mut answer);
    let protocol = answer.headers().get(axum::http::header::UPGRADE).cloned();
    fields::for_caller(answer.headers_mut());
    fields::upgrade(answer.headers_mut(), protocol);
    let on_tunnel = caller.clone();
    tokio::spawn(async move {
        let (guest, caller_side) = join(connection.hand_over(upgraded_guest), on_upgrade).await;
        if let (Some(guest), Ok(caller_side)) = (guest, caller_side) {
            tunnel::carry(caller_side, TokioIo::new(guest), on_tunnel).await;
        }
    });
    let mut answer = answer.map(|_| axum::body::Body::empty());
    answer.extensions_mut().insert(Proxied);
    Ok(ending::until(ended, caller.as_ref(), answer))
}

/// The target of a request in the form that servers, not proxies, receive (RFC 9112 §3.2.1),
/// without the token of a signed URL.
fn origin_form(uri: &Uri) -> Uri {
    if let Some(plain) = url_token::without_tokens(uri) {
        return plain;
    }
    let path = uri.path_and_query().cloned();
    path.map_or_else(Uri::default, Uri::from)
}
