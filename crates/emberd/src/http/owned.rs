//! Sandboxes of others do not exist for a caller: no route tells them from those that do not.

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use emberd_sandbox::{Handle, SandboxId, Sandboxes, Unknown};

use super::errors::ApiError;
use super::id;
use crate::access::Grant;

/// Refuses requests to sandboxes that do not exist for their callers, as it refuses those to
/// sandboxes that do not exist at all.
pub async fn hide(State(sandboxes): State<Sandboxes>, request: Request, next: Next) -> Response {
    let grant = request.extensions().get::<Grant>().filter(|grant| !grant.sees_all());
    let Some(grant) = grant.cloned() else { return next.run(request).await };
    let (mut parts, body) = request.into_parts();
    let id = id::in_path(&mut parts).await;
    match id.map(|id| find(&sandboxes, Some(&grant), id)) {
        Some(Err(error)) => ApiError::from(error).into_response(),
        _ => next.run(Request::from_parts(parts, body)).await,
    }
}

/// Returns the sandbox `id` if it exists for the caller.
///
/// # Errors
/// [`Unknown`].
pub fn find(
    sandboxes: &Sandboxes,
    grant: Option<&Grant>,
    id: SandboxId,
) -> Result<Handle, Unknown> {
    let sandbox = sandboxes.get(id)?;
    let is_seen = grant.is_none_or(|grant| grant.sees(sandbox.owner().as_ref()));
    if is_seen { Ok(sandbox) } else { Err(Unknown(id)) }
}
