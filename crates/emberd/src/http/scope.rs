//! The permission that each route requires.

use axum::http::Method;
use emberd_api::paths;
pub use emberd_keys::{Role, Scope};

/// Every route that needs a scope, by method and path.
pub const SCOPES: [(&str, &str, Scope); 52] = [
    ("POST", paths::SANDBOXES, Scope::SandboxCreate),
    ("GET", paths::SANDBOXES, Scope::SandboxRead),
    ("GET", paths::SANDBOX, Scope::SandboxRead),
    // It may make the sandbox end sooner, or never: as creation and deletion do.
    ("PATCH", paths::SANDBOX, Scope::SandboxCreate),
    ("POST", paths::SANDBOX_TOUCH, Scope::SandboxCreate),
    ("DELETE", paths::SANDBOX, Scope::SandboxDelete),
    ("POST", paths::EXEC, Scope::SandboxUse),
    ("GET", paths::METRICS, Scope::SandboxRead),
    ("GET", paths::LOGS, Scope::SandboxRead),
    ("GET", paths::PORT, Scope::SandboxUse),
    // Who may use a port may let others use it.
    ("POST", paths::URLS, Scope::SandboxUse),
    ("DELETE", paths::URLS, Scope::SandboxUse),
    // The content of a sandbox belongs to its users, reading included.
    ("GET", paths::FILES, Scope::SandboxUse),
    ("PUT", paths::FILES, Scope::SandboxUse),
    ("DELETE", paths::FILES, Scope::SandboxUse),
    ("GET", paths::FILES_STAT, Scope::SandboxUse),
    ("GET", paths::FILES_LIST, Scope::SandboxUse),
    ("POST", paths::FILES_DIR, Scope::SandboxUse),
    ("POST", paths::FILES_MOVE, Scope::SandboxUse),
    ("GET", paths::FILES_WATCH, Scope::SandboxUse),
    ("GET", paths::FILES_ARCHIVE, Scope::SandboxUse),
    ("PUT", paths::FILES_ARCHIVE, Scope::SandboxUse),
    ("POST", paths::PROCESSES, Scope::SandboxUse),
    ("GET", paths::PROCESSES, Scope::SandboxUse),
    ("GET", paths::PROCESS, Scope::SandboxUse),
    ("DELETE", paths::PROCESS, Scope::SandboxUse),
    // Over a WebSocket it also takes standard input and signals.
    ("GET", paths::PROCESS_EVENTS, Scope::SandboxUse),
    ("POST", paths::PROCESS_STDIN, Scope::SandboxUse),
    ("POST", paths::PROCESS_SIGNAL, Scope::SandboxUse),
    ("POST", paths::PROCESS_RESIZE, Scope::SandboxUse),
    ("POST", paths::CONTEXTS, Scope::SandboxUse),
    ("GET", paths::CONTEXTS, Scope::SandboxUse),
    ("DELETE", paths::CONTEXT, Scope::SandboxUse),
    ("POST", paths::CONTEXT_RUN, Scope::SandboxUse),
    ("GET", paths::CONTEXT_EVENTS, Scope::SandboxUse),
    ("POST", paths::CONTEXT_INTERRUPT, Scope::SandboxUse),
    ("POST", paths::CONTEXT_RESTART, Scope::SandboxUse),
    ("GET", paths::EGRESS, Scope::SandboxRead),
    // What a sandbox may reach is decided by those who may create one that reaches it.
    ("PUT", paths::EGRESS, Scope::SandboxCreate),
    ("PATCH", paths::EGRESS, Scope::SandboxCreate),
    ("POST", paths::EGRESS_CHECK, Scope::SandboxUse),
    // Names and paths that programs asked for are content of the sandbox.
    ("GET", paths::EGRESS_LOG, Scope::SandboxUse),
    ("GET", paths::EGRESS_PROFILES, Scope::DaemonRead),
    ("GET", paths::TEMPLATES, Scope::TemplateRead),
    ("POST", paths::TEMPLATE, Scope::TemplateWrite),
    ("DELETE", paths::TEMPLATE, Scope::TemplateWrite),
    ("GET", paths::EVENTS, Scope::EventsRead),
    ("GET", paths::USAGE, Scope::SandboxRead),
    ("GET", paths::AUDIT, Scope::Admin),
    ("GET", paths::DAEMON_METRICS, Scope::MetricsRead),
    ("GET", paths::INFO, Scope::DaemonRead),
    ("POST", paths::DRAIN, Scope::DaemonWrite),
];

/// Routes that show nothing of this daemon's state, and need nothing.
pub const PUBLIC: [(&str, &str); 2] = [("GET", paths::HEALTHZ), ("GET", paths::OPENAPI)];

/// Routes of every caller who is known, with the names of their actions in the audit journal. What
/// callers do there are requests of the API, each with its own scope.
pub const CALLERS: [(&str, &str, &str); 1] = [("POST", paths::MCP, "call_mcp")];

/// The scope of a request to a port inside a sandbox, by its host or by headers: it never reaches
/// a route.
pub const PROXIED: Scope = Scope::SandboxUse;

/// Permission that a request needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Needs {
    /// Nothing, not even a caller who is known.
    Nothing,
    /// This scope.
    Scope(Scope),
    /// A caller who is known: the route is one of [`CALLERS`], or no such route exists, which only
    /// callers may learn.
    Caller,
}

impl Needs {
    /// Returns what a route needs, by its `path` as it is registered. `HEAD` needs what `GET` does.
    pub fn of(method: &Method, path: &str) -> Self {
        let method = if method == Method::HEAD { "GET" } else { method.as_str() };
        if PUBLIC.contains(&(method, path)) {
            return Self::Nothing;
        }
        let mut routes = SCOPES.iter();
        let route = routes.find(|(known, at, _)| *known == method && *at == path);
        route.map_or(Self::Caller, |(_, _, scope)| Self::Scope(*scope))
    }
}
