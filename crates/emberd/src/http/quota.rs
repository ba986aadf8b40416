//! Limits of keys: what they refuse, and how that is said.
//!
//! ```text
//! amounts: sandboxes, vcpus, memory_mib, disk_gib,   429 quota_exceeded: what is used may become
//!          creates_per_minute, requests                  less, and `Retry-After` says when to ask
//! rules:   packs, timeout_ms, egress                  403 key_forbids: it will be refused again
//! ```

use std::collections::BTreeSet;
use std::time::Duration;

use axum::Extension;
use axum::response::Response;
use emberd_api::ErrorCode;
use emberd_egress::{Ceiling, OperatorError, OverCeiling};
use emberd_image::PackName;
use emberd_keys::{KeyLimits, LimitName};
use emberd_sandbox::{CreateError, Held, Quota, QuotaExceeded};

use super::errors::Failure;
use super::limited::Limited;
use crate::access::{Account, Grant, Now, UnderWay};
use crate::server::caller::Caller;
use crate::server::guarded::guarded;

/// Longest `Retry-After` where a sandbox must end first. One may be deleted sooner.
const WAIT_MAX: Duration = Duration::from_secs(30);

/// Mebibytes of a gibibyte.
const MIB_PER_GIB: u64 = 1024;

/// Why a key may not do that, or not now.
#[derive(Debug, thiserror::Error)]
pub enum LimitError {
    /// Too many creations.
    #[error("the key may create {most} sandboxes in a minute")]
    Creates {
        /// The limit.
        most: u64,
        /// When the next one may begin.
        wait: Duration,
    },
    /// Too many requests.
    #[error("the key may have {most} requests under way")]
    Requests {
        /// The limit.
        most: u64,
    },
    /// The language pack is not among those of the key.
    #[error("the key may use the language packs {permitted}, not `{pack}`")]
    Pack {
        /// The language pack.
        pack: PackName,
        /// The packs of the key.
        permitted: String,
    },
    /// The timeout is too long.
    #[error(
        "timeout_ms: the key may have timeouts up to {most_ms} ms, {}",
        asked_ms.map_or("not sandboxes without one".to_owned(), |ms| format!("not {ms}"))
    )]
    Timeout {
        /// The timeout asked for, in milliseconds; none for never.
        asked_ms: Option<u64>,
        /// The longest.
        most_ms: u64,
    },
    /// The ceiling of the key cannot be read, and permits nothing.
    #[error("the limit `egress` of the key")]
    Ceiling(#[source] OperatorError),
}

impl Failure for LimitError {
    fn judge(&self) -> (ErrorCode, Option<&'static str>) {
        match self {
            Self::Creates { .. } => (
                ErrorCode::QuotaExceeded,
                Some("limit `creates_per_minute`: create fewer sandboxes, or use one for longer"),
            ),
            Self::Requests { .. } => (
                ErrorCode::QuotaExceeded,
                Some("limit `requests`: wait until some have ended; streams count until they end"),
            ),
            Self::Pack { .. } | Self::Timeout { .. } => (
                ErrorCode::KeyForbids,
                Some(
                    "`emberctl usage` shows the limits; the operator sets them: emberctl key limit",
                ),
            ),
            Self::Ceiling(_) => {
                (ErrorCode::KeyForbids, Some("ask the operator to correct it: emberctl key limit"))
            }
        }
    }

    fn every_code(codes: &mut BTreeSet<ErrorCode>) {
        codes.extend([ErrorCode::QuotaExceeded, ErrorCode::KeyForbids]);
    }

    fn limited(&self) -> Option<Limited> {
        let (name, value, retry_after) = match self {
            Self::Creates { most, wait } => (LimitName::CreatesPerMinute, Some(*most), Some(*wait)),
            Self::Requests { most } => {
                (LimitName::Requests, Some(*most), Some(Duration::from_secs(1)))
            }
            Self::Pack { .. } => (LimitName::Packs, None, None),
            Self::Timeout { most_ms, .. } => (LimitName::TimeoutMs, Some(*most_ms), None),
            Self::Ceiling(_) => (LimitName::Egress, None, None),
        };
        Some(Limited { name, value, retry_after })
    }
}

impl Failure for QuotaExceeded {
    fn judge(&self) -> (ErrorCode, Option<&'static str>) {
        let hint = match self.held {
            Held::Sandboxes => "limit `sandboxes` of the key: delete a sandbox",
            Held::Vcpus => "limit `vcpus` of the key: delete a sandbox, or ask for fewer `vcpus`",
            Held::MemoryMib => {
                "limit `memory_mib` of the key: delete a sandbox, or ask for less `memory_mib`"
            }
            Held::DiskMib => {
                "limit `disk_gib` of the key: delete a sandbox, or ask for less `disk_mib`"
            }
        };
        (ErrorCode::QuotaExceeded, Some(hint))
    }

    fn every_code(codes: &mut BTreeSet<ErrorCode>) {
        codes.insert(ErrorCode::QuotaExceeded);
    }

    fn limited(&self) -> Option<Limited> {
        let (name, value) = match self.held {
            Held::Sandboxes => (LimitName::Sandboxes, self.most),
            Held::Vcpus => (LimitName::Vcpus, self.most),
            Held::MemoryMib => (LimitName::MemoryMib, self.most),
            Held::DiskMib => (LimitName::DiskGib, self.most / MIB_PER_GIB),
        };
        // What is more than all of it never fits.
        let may_fit = self.asked <= self.most;
        let retry_after = may_fit.then(|| self.ends_in.unwrap_or(WAIT_MAX).min(WAIT_MAX));
        Some(Limited { name, value: Some(value), retry_after })
    }
}

impl Failure for OverCeiling {
    fn judge(&self) -> (ErrorCode, Option<&'static str>) {
        let hint = "limit `egress` of the key: `emberctl usage` shows what it permits";
        (ErrorCode::KeyForbids, Some(hint))
    }

    fn every_code(codes: &mut BTreeSet<ErrorCode>) {
        codes.insert(ErrorCode::KeyForbids);
    }

    fn limited(&self) -> Option<Limited> {
        Some(Limited { name: LimitName::Egress, value: None, retry_after: None })
    }
}

/// Limits of a caller's key for a sandbox to create or to change.
#[derive(Debug, Clone, Copy)]
pub struct Bounds<'a>(Option<&'a KeyLimits>);

impl<'a> Bounds<'a> {
    /// The limits of the caller of a request. Without a key, nothing is limited.
    pub fn of(grant: Option<&'a Extension<Grant>>) -> Self {
        Self(grant.and_then(|grant| Some(grant.limits()?.0)))
    }

    /// Checks the language pack.
    pub fn check_pack(self, pack: &PackName) -> Result<(), LimitError> {
        let Some(packs) = self.0.and_then(|limits| limits.packs.as_ref()) else { return Ok(()) };
        if packs.iter().any(|permitted| permitted == pack.as_str()) {
            return Ok(());
        }
        let quoted: Vec<_> = packs.iter().map(|pack| format!("`{pack}`")).collect();
        let permitted =
            if quoted.is_empty() { "of an empty list".into() } else { quoted.join(", ") };
        Err(LimitError::Pack { pack: pack.clone(), permitted })
    }

    /// Checks a timeout that was asked for; none for never.
    pub fn check_timeout(self, asked: Option<Duration>) -> Result<(), LimitError> {
        match self.timeout() {
            Some(most) if asked.is_none_or(|asked| asked > most) => {
                let ms = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
                Err(LimitError::Timeout { asked_ms: asked.map(ms), most_ms: ms(most) })
            }
            _ => Ok(()),
        }
    }

    /// The longest timeout, if there is one.
    pub fn timeout(self) -> Option<Duration> {
        self.0?.timeout_ms.map(Duration::from_millis)
    }

    /// The timeout of a sandbox that would have `usual`: the shorter one.
    pub fn shorter(self, usual: Option<Duration>) -> Option<Duration> {
        [usual, self.timeout()].into_iter().flatten().min()
    }

    /// The most that all sandboxes of the caller may have.
    pub fn quota(self) -> Quota {
        let Some(limits) = self.0 else { return Quota::default() };
        Quota {
            sandboxes: limits.sandboxes,
            vcpus: limits.vcpus,
            memory_mib: limits.memory_mib,
            disk_mib: limits.disk_gib.map(|gib| gib.saturating_mul(MIB_PER_GIB)),
        }
    }

    /// The most that a sandbox of the caller may reach, beside what the operator permits.
    pub fn ceiling(self) -> Result<Option<Ceiling>, LimitError> {
        let texts = self.0.and_then(|limits| limits.egress.as_deref());
        texts.map(Ceiling::parse).transpose().map_err(LimitError::Ceiling)
    }
}

/// A creation that has been counted.
#[derive(Debug)]
pub struct Counted<'a>(Option<(&'a Account, u64)>);

/// Counts a creation of the caller.
pub fn count_creation(grant: Option<&Extension<Grant>>) -> Result<Counted<'_>, LimitError> {
    let limits = grant.and_then(|grant| grant.limits());
    let limited = limits.and_then(|(limits, account)| Some((account, limits.creates_per_minute?)));
    let Some((account, most)) = limited else { return Ok(Counted(None)) };
    account.create(most, Now::read().boot).map_err(|wait| LimitError::Creates { most, wait })?;
    Ok(Counted(Some((account, most))))
}

impl Counted<'_> {
    /// Takes the count back if the creation was refused before anything was begun for it.
    pub fn unless_refused(self, error: &CreateError) {
        let is_refusal = matches!(
            error,
            CreateError::Quota(_)
                | CreateError::TooMany(_)
                | CreateError::NoMemory { .. }
                | CreateError::Draining
                | CreateError::ShuttingDown
        );
        if let Some((account, most)) = self.0.filter(|_| is_refusal) {
            account.take_back(most);
        }
    }
}

/// Counts a request of the caller as under way, unless it `counts` to no limit.
pub fn begin(grant: &Grant, counts: bool) -> Result<Option<UnderWay>, LimitError> {
    let limited = grant.limits().filter(|_| counts);
    let Some((limits, account)) = limited else { return Ok(None) };
    match (account.begin(limits.requests), limits.requests) {
        (None, Some(most)) => Err(LimitError::Requests { most }),
        (under_way, _) => Ok(under_way),
    }
}

/// Has the request count until its answer is through, or what goes on after it has ended.
pub fn until_sent(
    under_way: Option<UnderWay>,
    caller: Option<&Caller>,
    answer: Response,
) -> Response {
    let Some(under_way) = under_way else { return answer };
    let is_upgrade = answer.status() == axum::http::StatusCode::SWITCHING_PROTOCOLS;
    match caller.filter(|_| is_upgrade) {
        Some(caller) => {
            let connection = caller.connection.clone();
            tokio::spawn(async move {
                connection.closed().await;
                drop(under_way);
            });
            answer
        }
        None => answer.map(|body| guarded(body, under_way)),
    }
}
