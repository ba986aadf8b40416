//! `PATCH /sandboxes/{id}` and `/sandboxes/{id}/touch`: how long a sandbox may live, when it is
//! frozen, and what its callers write on it.

use std::collections::BTreeMap;
use std::time::Duration;

use axum::extract::State;
use axum::{Extension, Json};
use emberd_api::{
    CreateSandbox, IDLE_FREEZE_MS, IdleOptions, METADATA_BYTES_MAX, METADATA_PAIRS_MAX, OnTimeout,
    Sandbox, TIMEOUT_MS_MIN, TouchSandbox, UpdateResources, UpdateSandbox, paths,
};
use emberd_sandbox::{
    CpuChange, CpuError, IdlePolicy, OperationError, Sandboxes, SandboxesConfig, Terms,
    TermsChange, Unknown,
};

use super::awake;
use super::body::{Body, BodyError};
use super::errors::ApiError;
use super::failures::Failures;
use super::id::{Id, PathError};
use super::quota::{Bounds, LimitError};
use super::views::IntoBody;
use crate::access::Grant;
use crate::server::observe::Timed;

/// Why a sandbox cannot have such terms.
#[derive(Debug, thiserror::Error)]
pub enum TermsError {
    /// The timeout is too short or too long.
    #[error("timeout_ms: {ms} is not a number of milliseconds from {TIMEOUT_MS_MIN} to {ms_max}")]
    Timeout {
        /// The timeout, in milliseconds.
        ms: u64,
        /// The longest that the daemon allows.
        ms_max: u64,
    },
    /// Sandboxes cannot be paused.
    #[error("on_timeout: this daemon cannot pause sandboxes yet")]
    OnTimeout,
    /// The time without use is too short or too long.
    #[error(
        "idle.freeze_ms: {ms} is not a number of milliseconds from {} to {} (30 days)",
        IDLE_FREEZE_MS.start(),
        IDLE_FREEZE_MS.end()
    )]
    Freeze {
        /// The time, in milliseconds.
        ms: u64,
    },
    /// Sandboxes cannot be paused.
    #[error("idle.pause_ms: this daemon cannot pause sandboxes yet")]
    Pause,
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

/// Why a sandbox is not changed.
#[derive(Debug, thiserror::Error)]
pub enum ChangeError {
    /// The sandbox cannot have such terms.
    #[error(transparent)]
    Terms(#[from] TermsError),
    /// The limits of the caller's key do not permit it.
    #[error(transparent)]
    Key(#[from] LimitError),
    /// Its processor time is not limited.
    #[error(transparent)]
    Cpu(#[from] CpuError),
}

/// The terms of a new sandbox of a daemon with `config`.
pub fn first_terms(
    wanted: &mut CreateSandbox,
    config: &SandboxesConfig,
    bounds: Bounds<'_>,
) -> Result<Terms, ChangeError> {
    check_end(wanted.on_timeout)?;
    let metadata = std::mem::take(&mut wanted.metadata);
    check_metadata(&metadata)?;
    let options = wanted.idle.take().unwrap_or_default();
    Ok(Terms {
        timeout: match wanted.timeout_ms {
            Some(ms) => {
                let asked = ms.map(|ms| timeout(ms, config)).transpose()?;
                bounds.check_timeout(asked)?;
                asked
            }
            None => bounds.shorter(config.timeout),
        },
        idle: IdlePolicy {
            freeze: freeze(&options)?.unwrap_or(config.idle_freeze),
            ignore_programs: options.ignore_programs.unwrap_or_default(),
        },
        auto_resume: wanted.auto_resume.unwrap_or(true),
        metadata,
    })
}

/// Changes how long a sandbox may live, when it is frozen, its processor time and its metadata.
///
/// The change is made as a whole or not at all. A new timeout begins now. A frozen sandbox stays
/// frozen.
#[utoipa::path(
    patch,
    path = paths::SANDBOX,
    operation_id = "change_sandbox",
    tag = "sandboxes",
    params(Id),
    request_body = UpdateSandbox,
    responses(
        (status = 200, description = "The sandbox after the change.", body = Sandbox),
        Failures<(PathError, BodyError, Unknown, ChangeError)>,
    )
)]
pub async fn update(
    State(sandboxes): State<Sandboxes>,
    grant: Option<Extension<Grant>>,
    Id(id): Id,
    body: Body,
) -> Result<Json<Sandbox>, ApiError> {
    let wanted: UpdateSandbox = body.json()?;
    check_end(wanted.on_timeout)?;
    let handle = sandboxes.get(id)?;
    let timeout = |ms| timeout(ms, sandboxes.config());
    let timeout = wanted.timeout_ms.map(|ms| ms.map(timeout).transpose()).transpose()?;
    if let Some(timeout) = timeout {
        Bounds::of(grant.as_ref()).check_timeout(timeout)?;
    }
    let idle = wanted.idle.unwrap_or_default();
    let change = TermsChange {
        timeout,
        freeze: freeze(&idle)?,
        ignore_programs: idle.ignore_programs,
        auto_resume: wanted.auto_resume,
        metadata: wanted.metadata,
    };
    let UpdateResources { cpu_percent, cpu_weight } = wanted.resources.unwrap_or_default();
    let cpu = CpuChange { percent: cpu_percent, weight: cpu_weight };
    let check = |metadata: &BTreeMap<_, _>| -> Result<(), ChangeError> {
        check_metadata(metadata)?;
        Ok(sandboxes.limit_cpu(&handle, cpu)?)
    };
    handle.change(change, check)??;
    Ok(Json(handle.view().into_body()))
}

/// Extends the time that a sandbox may live, and never shortens it; thaws the sandbox.
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
        Failures<(PathError, BodyError, Unknown, ChangeError, OperationError)>,
    )
)]
pub async fn touch(
    State(sandboxes): State<Sandboxes>,
    grant: Option<Extension<Grant>>,
    Id(id): Id,
    body: Body,
) -> Result<(Extension<Timed>, Json<Sandbox>), ApiError> {
    let wanted: TouchSandbox = body.json_or_default()?;
    let handle = sandboxes.get(id)?;
    let timeout = |ms| timeout(ms, sandboxes.config());
    let asked = wanted.timeout_ms.map(timeout).transpose()?;
    let bounds = Bounds::of(grant.as_ref());
    if asked.is_some() {
        bounds.check_timeout(asked)?;
    }
    // Its own timeout may be older than the limit of the key.
    let own = handle.view().terms.timeout;
    handle.extend(asked.or_else(|| bounds.shorter(own)))?;
    let in_use = handle.thaw().await?;
    let timed = Timed(awake::timing(&in_use));
    Ok((Extension(timed), Json(handle.view().into_body())))
}

fn timeout(ms: u64, config: &SandboxesConfig) -> Result<Duration, TermsError> {
    let ms_max = u64::try_from(config.timeout_max.as_millis()).unwrap_or(u64::MAX);
    let fits = (TIMEOUT_MS_MIN..=ms_max).contains(&ms);
    fits.then(|| Duration::from_millis(ms)).ok_or(TermsError::Timeout { ms, ms_max })
}

/// The time without use that `options` name: none for never.
#[expect(clippy::option_option, reason = "absent, never and a time")]
fn freeze(options: &IdleOptions) -> Result<Option<Option<Duration>>, TermsError> {
    if options.pause_ms.is_some() {
        return Err(TermsError::Pause);
    }
    let time = |ms: u64| {
        let fits = IDLE_FREEZE_MS.contains(&ms);
        fits.then(|| Duration::from_millis(ms)).ok_or(TermsError::Freeze { ms })
    };
    options.freeze_ms.map(|ms| ms.map(time).transpose()).transpose()
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
