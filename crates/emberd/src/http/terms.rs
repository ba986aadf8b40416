//! `PATCH /sandboxes/{id}` and `/sandboxes/{id}/touch`: how long a sandbox may live, and what its
//! callers write on it.

use std::collections::BTreeMap;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use emberd_api::{
    CreateSandbox, METADATA_BYTES_MAX, METADATA_PAIRS_MAX, OnTimeout, SANDBOX_TIMEOUT_MS, Sandbox,
    TouchSandbox, UpdateSandbox, paths,
};
use emberd_sandbox::{Sandboxes, Terms, TermsChange, Unknown};

use super::body::{Body, BodyError};
use super::errors::ApiError;
use super::failures::Failures;
use super::id::{Id, PathError};
use super::views::IntoBody;

/// Why a sandbox cannot have such terms.
#[derive(Debug, thiserror::Error)]
pub enum TermsError {
    /// The timeout is too short or too long.
    #[error(
        "timeout_ms: {ms} is not a number of milliseconds from {} to {} (30 days)",
        SANDBOX_TIMEOUT_MS.start(),
        SANDBOX_TIMEOUT_MS.end()
    )]
    Timeout {
        /// The timeout, in milliseconds.
        ms: u64,
    },
    /// Sandboxes cannot be paused.
    #[error("on_timeout: this daemon cannot pause sandboxes yet")]
    OnTimeout,
    /// The metadata are too many or too large.
    #[error(
        "metadata: {pairs} pairs of {bytes} bytes in all are over the limits of \
         {METADATA_PAIRS_MAX} pairs and {METADATA_BYTES_MAX} bytes"
    )]
    Metadata {
        /// Number of pairs.
        pairs: usize,
        /// Size of the names and values together.
        bytes: usize,
    },
    /// A name is empty.
    #[error("metadata: a name is empty")]
    NoName,
}

/// The terms of a new sandbox.
pub fn first_terms(wanted: &mut CreateSandbox) -> Result<Terms, TermsError> {
    check_end(wanted.on_timeout)?;
    let metadata = std::mem::take(&mut wanted.metadata);
    check_metadata(&metadata)?;
    Ok(Terms { timeout: wanted.timeout_ms.map(timeout).transpose()?, metadata })
}

/// Changes how long a sandbox may live, and its metadata.
///
/// The change is made as a whole or not at all. A new timeout begins now.
#[utoipa::path(
    patch,
    path = paths::SANDBOX,
    operation_id = "change_sandbox",
    tag = "sandboxes",
    params(Id),
    request_body = UpdateSandbox,
    responses(
        (status = 200, description = "The sandbox after the change.", body = Sandbox),
        Failures<(PathError, BodyError, Unknown, TermsError)>,
    )
)]
pub async fn update(
    State(sandboxes): State<Sandboxes>,
    Id(id): Id,
    body: Body,
) -> Result<Json<Sandbox>, ApiError> {
    let wanted: UpdateSandbox = body.json()?;
    check_end(wanted.on_timeout)?;
    let handle = sandboxes.get(id)?;
    let timeout = wanted.timeout_ms.map(|ms| ms.map(timeout).transpose()).transpose()?;
    handle.change(TermsChange { timeout, metadata: wanted.metadata }, check_metadata)??;
    Ok(Json(handle.view().into_body()))
}

/// Extends the time that a sandbox may live, and never shortens it.
///
/// A sandbox without a timeout stays without one.
#[utoipa::path(
    post,
    path = paths::SANDBOX_TOUCH,
    operation_id = "extend_sandbox",
    tag = "sandboxes",
    params(Id),
    request_body(content = Option<TouchSandbox>, description = "An empty body means `{}`."),
    responses(
        (status = 200, description = "The sandbox after the change.", body = Sandbox),
        Failures<(PathError, BodyError, Unknown, TermsError)>,
    )
)]
pub async fn touch(
    State(sandboxes): State<Sandboxes>,
    Id(id): Id,
    body: Body,
) -> Result<Json<Sandbox>, ApiError> {
    let wanted: TouchSandbox = body.json_or_default()?;
    let handle = sandboxes.get(id)?;
    handle.touch(wanted.timeout_ms.map(timeout).transpose()?)?;
    Ok(Json(handle.view().into_body()))
}

fn timeout(ms: u64) -> Result<Duration, TermsError> {
    let fits = SANDBOX_TIMEOUT_MS.contains(&ms);
    fits.then(|| Duration::from_millis(ms)).ok_or(TermsError::Timeout { ms })
}

fn check_end(on_timeout: Option<OnTimeout>) -> Result<(), TermsError> {
    match on_timeout {
        None | Some(OnTimeout::Delete) => Ok(()),
        Some(OnTimeout::Pause | OnTimeout::PauseDisk) => Err(TermsError::OnTimeout),
    }
}

fn check_metadata(metadata: &BTreeMap<String, String>) -> Result<(), TermsError> {
    let bytes = metadata.iter().map(|(name, value)| name.len() + value.len()).sum();
    let pairs = metadata.len();
    if metadata.contains_key("") {
        return Err(TermsError::NoName);
    }
    if pairs > METADATA_PAIRS_MAX || bytes > METADATA_BYTES_MAX {
        return Err(TermsError::Metadata { pairs, bytes });
    }
    Ok(())
}
