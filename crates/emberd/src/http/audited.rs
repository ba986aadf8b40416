//! Records what requests asked for and how they were answered, for the audit journal, and refuses
//! those that cannot be recorded where they must be.
//!
//! Plain reads, those that a viewer may make, are recorded only where they are refused.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};
use std::time::SystemTime;

use axum::extract::{MatchedPath, Request, State};
use axum::http::{Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use emberd_api::{AuditRecord, ErrorCode, paths};
use emberd_sandbox::SandboxId;
use utoipa::openapi;

use super::errors::{ApiError, Coded};
use super::limited::LimitsHit;
use super::operations::operations;
use super::proxy;
use super::scope::{CALLERS, Needs, PROXIED, Role, Scope};
use crate::audit::{self, Audit};
use crate::server::caller::Caller;
use crate::server::connection::Peer;
use crate::server::observe::{Afterwards, Proxied, RequestId};
use crate::server::principal::{Principal, Source};

/// Action of a request to a server in a sandbox.
const USE_PORT: &str = "use_port";

/// Action of a request that no operation takes.
const UNKNOWN: &str = "unknown";

/// The audit journal takes no records, and must.
#[derive(Debug, thiserror::Error)]
#[error("the audit journal takes no records, and this daemon does nothing without")]
pub struct Unrecordable;

/// Marks a response with the sandbox that the request made.
#[derive(Debug, Clone, Copy)]
pub struct Made(pub SandboxId);

/// The caller of a request, once it is known who that is: a caller who hangs up gets no answer that
/// could say so. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct Identified(Arc<OnceLock<Principal>>);

impl Identified {
    /// Notes the caller. The first note counts.
    pub fn as_caller(&self, principal: Principal) {
        self.0.set(principal).ok();
    }
}

/// The journal, and the operations by path and method.
#[derive(Debug, Clone)]
pub struct Recorder {
    audit: Audit,
    operations: Arc<HashMap<String, Vec<Operation>>>,
}

#[derive(Debug, Clone)]
struct Operation {
    method: Method,
    action: Arc<str>,
    /// None for a public route, and for one of every caller.
    scope: Option<Scope>,
}

impl Recorder {
    /// Records in `audit`, with the operation ids of `document`.
    pub fn new(audit: Audit, mut document: openapi::OpenApi) -> Self {
        let mut by_path = HashMap::<_, Vec<_>>::new();
        for (path, method, operation) in operations(&mut document) {
            let scope = match Needs::of(&method, path) {
                Needs::Scope(scope) => Some(scope),
                Needs::Nothing | Needs::Caller => None,
            };
            let action = operation.operation_id.take().unwrap_or_default().into();
            by_path.entry(path.to_owned()).or_default().push(Operation { method, action, scope });
        }
        for (method, path, action) in CALLERS {
            let method = method.parse().expect("a method of HTTP");
            let operation = Operation { method, action: action.into(), scope: None };
            by_path.entry(path.to_owned()).or_default().push(operation);
        }
        let operations = by_path;
        Self { audit, operations: Arc::new(operations) }
    }

    /// The operation that takes a request.
    fn operation(&self, request: &Request) -> Option<&Operation> {
        let path = request.extensions().get::<MatchedPath>()?;
        let method = match request.method() {
            &Method::HEAD => &Method::GET,
            method => method,
        };
        self.operations.get(path.as_str())?.iter().find(|operation| operation.method == *method)
    }

    /// Begins the record of a request, with all that is known before the answer.
    fn begin(&self, request: &Request) -> Pending {
        let of_port = proxy::sandbox_of(request);
        let operation = self.operation(request).filter(|_| of_port.is_none());
        let (action, scope) = match (operation, &of_port) {
            (_, Some(_)) => (USE_PORT.into(), Some(PROXIED)),
            (Some(operation), None) => (Arc::clone(&operation.action), operation.scope),
            (None, None) => (UNKNOWN.into(), None),
        };
        let extensions = request.extensions();
        let asked = Asked {
            at: SystemTime::now(),
            action,
            request: extensions.get().copied(),
            principal: extensions.get().copied(),
            peer: extensions.get().map(|caller: &Caller| caller.peer),
            sandbox: of_port.unwrap_or_else(|| sandbox_in(request.uri().path())),
        };
        let is_watched = scope.is_some_and(is_watched);
        let is_of_audit = scope == Some(Scope::Admin) && request.method() == Method::GET;
        let identified = Identified::default();
        let audit = self.audit.clone();
        Pending { audit, asked: Some(asked), identified, is_watched, is_of_audit }
    }
}

/// A request, as far as it is known before the answer.
#[derive(Debug)]
struct Asked {
    at: SystemTime,
    action: Arc<str>,
    request: Option<RequestId>,
    principal: Option<Principal>,
    peer: Option<Peer>,
    sandbox: Option<SandboxId>,
}

impl Asked {
    fn record(self) -> AuditRecord {
        AuditRecord {
            request: self.request.map(|id| id.to_string()),
            principal: self.principal.as_ref().map(principal_text),
            peer: self.peer.as_ref().and_then(peer_text),
            sandbox: self.sandbox.map(|id| id.to_string()),
            ..audit::event(&self.action, audit::time(self.at))
        }
    }
}

/// Whether every request of the scope is recorded: those that change something, or read what is in
/// a sandbox or the journal. A viewer can make none of them.
fn is_watched(scope: Scope) -> bool {
    scope.role() > Role::Viewer
}

/// Records the request and its answer.
pub async fn record(
    State(recorder): State<Recorder>,
    mut request: Request,
    next: Next,
) -> Response {
    if recorder.audit.journal().is_none() {
        return next.run(request).await;
    }
    let pending = recorder.begin(&request);
    request.extensions_mut().insert(pending.identified.clone());
    let is_refused = pending.is_watched && !pending.is_of_audit && recorder.audit.refuses();
    let mut response = if is_refused {
        ApiError::from(Unrecordable).into_response()
    } else {
        next.run(request).await
    };
    pending.answered(&mut response);
    response
}

/// A request under way. If it is dropped without an answer, because the caller has hung up, that
/// is recorded.
struct Pending {
    audit: Audit,
    asked: Option<Asked>,
    identified: Identified,
    is_watched: bool,
    is_of_audit: bool,
}

impl Pending {
    /// The request, with the caller as far as it is known.
    fn take(&mut self) -> Option<Asked> {
        let mut asked = self.asked.take()?;
        if let Some(principal) = self.identified.0.get() {
            asked.principal = Some(*principal);
        }
        Some(asked)
    }

    fn answered(mut self, response: &mut Response) {
        let Some(mut asked) = self.take() else { return };
        let marks = response.extensions();
        let is_proxied = marks.get::<Proxied>().is_some();
        let (status, code) = (response.status(), marks.get().map(|Coded(code)| *code));
        if let Some(Made(id)) = marks.get() {
            asked.sandbox = Some(*id);
        }
        let hit = marks.get().map(|LimitsHit(limits)| limits.clone()).unwrap_or_default();
        let record = move || AuditRecord {
            status: Some(status.as_u16()),
            code: code.map(ErrorCode::name),
            limits: hit.into_iter().chain(code.and_then(limit)).map(str::to_owned).collect(),
            ..asked.record()
        };
        if !is_proxied && is_of_strangers(status, code) {
            self.audit.record_refusal(record());
        } else if self.is_watched || !is_proxied && is_refusal(status) {
            Afterwards::drop(self.audit.put(record()), response);
        }
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        let Some(asked) = self.take().filter(|_| self.is_watched) else { return };
        let mut record = asked.record();
        if std::thread::panicking() {
            record.status = Some(StatusCode::INTERNAL_SERVER_ERROR.as_u16());
            record.code = Some(ErrorCode::Internal.name());
        }
        self.audit.record(record);
    }
}

/// Whether an answer refuses the caller, or is for want of room.
fn is_refusal(status: StatusCode) -> bool {
    matches!(
        status,
        StatusCode::UNAUTHORIZED
            | StatusCode::FORBIDDEN
            | StatusCode::MISDIRECTED_REQUEST
            | StatusCode::TOO_MANY_REQUESTS
    )
}

/// Whether an answer refuses a caller whom nobody knows, and who can ask at will.
fn is_of_strangers(status: StatusCode, code: Option<ErrorCode>) -> bool {
    matches!(status, StatusCode::UNAUTHORIZED | StatusCode::MISDIRECTED_REQUEST)
        || matches!(code, Some(ErrorCode::ForeignOrigin | ErrorCode::CrossSite))
}

/// Name of the limit that an error tells of.
fn limit(code: ErrorCode) -> Option<&'static str> {
    Some(match code {
        ErrorCode::BodyTooLarge => "body_bytes",
        ErrorCode::BodyTimeout => "body_time",
        ErrorCode::TooManyBytes => "bodies_bytes",
        ErrorCode::TooManySandboxes => "max_sandboxes",
        ErrorCode::NoCapacity => "memory_mib",
        ErrorCode::TooManyConnections => "port_connections",
        ErrorCode::TooManyContexts => "contexts",
        ErrorCode::ContextBusy => "context_runs",
        ErrorCode::NoSpace => "disk",
        ErrorCode::TooMany => "count",
        _ => return None,
    })
}

/// The sandbox that a path of the API names.
fn sandbox_in(path: &str) -> Option<SandboxId> {
    let rest = path.strip_prefix(paths::SANDBOXES)?.strip_prefix('/')?;
    rest.split('/').next()?.parse().ok()
}

fn principal_text(principal: &Principal) -> String {
    match principal {
        Principal::Local(Source::Ip(address)) => format!("ip:{address}"),
        Principal::Local(Source::User(uid)) => format!("uid:{uid}"),
        Principal::Key(id) => format!("key:{id}"),
        Principal::Url => "url".to_owned(),
        Principal::Local(Source::Unknown) => "unknown".to_owned(),
    }
}

fn peer_text(peer: &Peer) -> Option<String> {
    match peer {
        Peer::Address(address) => Some(address.to_string()),
        Peer::Credentials(credentials) => {
            let pid = credentials.pid().map(|pid| format!(",pid={pid}")).unwrap_or_default();
            Some(format!("uid={}{pid}", credentials.uid()))
        }
        Peer::Unknown => None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::scope::SCOPES;
    use super::*;

    #[test]
    fn what_a_viewer_may_do_is_not_watched() {
        for (method, path, scope) in SCOPES {
            // A viewer changes nothing, and sees no content of a sandbox.
            assert!(is_watched(scope) || method == "GET", "{method} {path}");
        }
        for scope in [Scope::DaemonRead, Scope::SandboxRead, Scope::EventsRead] {
            assert!(!is_watched(scope), "{scope:?}");
        }
        for scope in [Scope::SandboxCreate, Scope::SandboxUse, Scope::TemplateWrite, Scope::Admin] {
            assert!(is_watched(scope), "{scope:?}");
        }
    }

    #[test]
    fn the_sandbox_of_a_path_is_known() {
        let id = |path| sandbox_in(path).map(|id| id.to_string());
        let known = Some("sb_0123456789ab".to_owned());
        assert_eq!(id("/sandboxes/sb_0123456789ab"), known);
        assert_eq!(id("/sandboxes/sb_0123456789ab/files/stat"), known);
        for none in ["/sandboxes", "/sandboxes/", "/sandboxes/x", "/templates/sb_0123456789ab"] {
            assert_eq!(id(none), None, "{none}");
        }
    }
}
