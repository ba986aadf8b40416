//! `/sandboxes/{id}/ports/{port}`: the bytes of a connection to a port.

use axum::extract::{Path, Request, State};
use axum::http::header::{CONNECTION, UPGRADE};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use emberd_api::{TUNNEL_PROTOCOL, paths};
use emberd_sandbox::{DialError, OperationError, Sandboxes, Unknown};
use hyper::upgrade::OnUpgrade;

use super::errors::ApiError;
use super::failures::Failures;
use super::id::Id;
use super::proxy::TargetError;
use super::{id, proxy, tunnel};
use crate::server::caller::Caller;

/// Connects to a TCP port inside a sandbox.
///
/// The request asks for `Connection: Upgrade` and `Upgrade: tcp`; after the head of the response,
/// the connection carries the bytes of the port.
#[utoipa::path(
    get,
    path = paths::PORT,
    operation_id = "connect_port",
    tag = "ports",
    params(Id, ("port" = u16, Path, description = "TCP port, 1 to 65535.")),
    responses(
        (status = 101, description = "The connection now carries the bytes of the port."),
        Failures<(TargetError, Unknown, OperationError, DialError)>,
    )
)]
pub async fn connect(
    State(sandboxes): State<Sandboxes>,
    path: Path<(String, String)>,
    mut request: Request,
) -> Result<Response, ApiError> {
    let Path((id, port)) = path;
    let id = id::sandbox(&id)?;
    let port = proxy::port(&port)?;
    let upgrade = request.extensions_mut().remove::<OnUpgrade>();
    let Some(upgrade) = upgrade.filter(|_| asks_for_tunnel(request.headers())) else {
        let hint = "send `Connection: Upgrade` and `Upgrade: tcp`, or use `emberctl forward`";
        let error = TargetError::new("the request has no `Upgrade: tcp`");
        return Err(ApiError::from(error).hint(hint));
    };
    let guest = sandboxes.get(id)?.ports()?.dial(port).await?;
    let caller = request.extensions_mut().remove::<Caller>();
    tokio::spawn(async move {
        let Ok(upgraded) = upgrade.await else { return };
        tunnel::carry(upgraded, guest, caller).await;
    });
    let headers = [(CONNECTION, "upgrade"), (UPGRADE, TUNNEL_PROTOCOL)];
    Ok((StatusCode::SWITCHING_PROTOCOLS, headers).into_response())
}

fn asks_for_tunnel(headers: &HeaderMap) -> bool {
    headers.get_all(UPGRADE).iter().any(|value| value.as_bytes().eq_ignore_ascii_case(b"tcp"))
}
