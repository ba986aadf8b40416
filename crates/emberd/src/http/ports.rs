//! `/sandboxes/{id}/ports/{port}`: a connection to a port, as bytes.

use axum::extract::{Path, Request, State};
use axum::http::header::{CONNECTION, UPGRADE};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use emberd_api::{ErrorBody, ErrorCode, TUNNEL_PROTOCOL, paths};
use emberd_sandbox::Sandboxes;
use hyper::upgrade::OnUpgrade;

use super::errors::ApiError;
use super::{id, proxy, tunnel};
use crate::caller::Caller;

/// Turn the connection into one to a TCP port inside a sandbox. Asks for `Connection: Upgrade`
/// and `Upgrade: tcp`; what follows the answer's head are the port's bytes.
#[utoipa::path(
    get,
    path = paths::PORT,
    operation_id = "connect_port",
    params(
        ("id" = String, Path, description = "`sb_` and 12 hexadecimal digits"),
        ("port" = u16, Path, description = "1 to 65535"),
    ),
    responses(
        (status = 101, description = "The connection is the port's from here on"),
        (status = 400, description = "The port is none, or no upgrade was asked for",
         body = ErrorBody),
        (status = 404, description = "There is no such sandbox", body = ErrorBody),
        (status = 409, description = "The sandbox is still being created", body = ErrorBody),
        (status = 410, description = "The sandbox's microVM is gone", body = ErrorBody),
        (status = 429, description = "It has as many connections as allowed", body = ErrorBody),
        (status = 502, description = "Nothing listens on the port, or the guest did not do as it \
            should", body = ErrorBody),
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
        let error = "the request asks for no tunnel";
        let hint = "send `Connection: Upgrade` and `Upgrade: tcp`, or use `emberctl forward`";
        return Err(ApiError::new(ErrorCode::InvalidRequest, error).hint(hint));
    };
    let guest = sandboxes.get(id)?.ports()?.dial(port).await?;
    let caller = request.extensions_mut().remove::<Caller>();
    tokio::spawn(async move {
        let Ok(upgraded) = upgrade.await else { return };
        tunnel::carry(upgraded, guest).await;
        drop(caller);
    });
    let headers = [(CONNECTION, "upgrade"), (UPGRADE, TUNNEL_PROTOCOL)];
    Ok((StatusCode::SWITCHING_PROTOCOLS, headers).into_response())
}

fn asks_for_tunnel(headers: &HeaderMap) -> bool {
    headers.get_all(UPGRADE).iter().any(|value| value.as_bytes().eq_ignore_ascii_case(b"tcp"))
}
