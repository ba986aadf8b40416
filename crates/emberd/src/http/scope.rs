//! The permission that each route requires. Nothing is enforced yet.

use axum::http::Method;
use emberd_api::paths;

/// Permission that a route requires.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Scope {
    /// Nothing: the route shows nothing of this daemon's state.
    Public,
    /// Show what the daemon is and how much of it is in use.
    DaemonRead,
    /// Have the daemon create no more sandboxes.
    DaemonWrite,
    /// Show sandboxes, what they use, and their console logs.
    SandboxRead,
    /// Create sandboxes.
    SandboxCreate,
    /// Run code in sandboxes, and use their files, processes, contexts and ports.
    SandboxUse,
    /// Delete sandboxes.
    SandboxDelete,
    /// Show images.
    ImageRead,
    /// Build and remove images.
    ImageWrite,
    /// Show templates.
    TemplateRead,
    /// Build and remove templates, from which everybody's sandboxes are restored.
    TemplateWrite,
    /// Follow the daemon's events.
    EventsRead,
    /// Read the daemon's metrics.
    MetricsRead,
    /// Decide who may do what.
    Admin,
}

/// A set of scopes with a name. Each role has the scopes of those before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// Shows, and changes nothing.
    Viewer,
    /// Works with sandboxes.
    User,
    /// Prepares what sandboxes are made from.
    Operator,
    /// Decides who may do what.
    Admin,
}

/// Every route, by method and path, with its scope.
pub const SCOPES: [(&str, &str, Scope); 51] = [
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
    ("GET", paths::AUDIT, Scope::Admin),
    ("GET", paths::DAEMON_METRICS, Scope::MetricsRead),
    ("GET", paths::INFO, Scope::DaemonRead),
    ("POST", paths::DRAIN, Scope::DaemonWrite),
    ("GET", paths::HEALTHZ, Scope::Public),
    ("GET", paths::OPENAPI, Scope::Public),
];

/// The scope of a request to a port inside a sandbox, by its host or by headers: it never reaches
/// a route.
pub const PROXIED: Scope = Scope::SandboxUse;

impl Scope {
    /// The scope of a route, by its `path` as it is registered; none if no such route exists.
    /// `HEAD` needs what `GET` does.
    pub fn of(method: &Method, path: &str) -> Option<Self> {
        let method = if method == Method::HEAD { "GET" } else { method.as_str() };
        let mut routes = SCOPES.iter();
        routes.find(|(known, at, _)| *known == method && *at == path).map(|(_, _, scope)| *scope)
    }

    /// The least role that has the scope; none where nobody needs one.
    pub fn role(self) -> Option<Role> {
        match self {
            Self::Public => None,
            Self::DaemonRead
            | Self::SandboxRead
            | Self::ImageRead
            | Self::TemplateRead
            | Self::EventsRead
            | Self::MetricsRead => Some(Role::Viewer),
            Self::SandboxCreate | Self::SandboxUse | Self::SandboxDelete => Some(Role::User),
            Self::DaemonWrite | Self::ImageWrite | Self::TemplateWrite => Some(Role::Operator),
            Self::Admin => Some(Role::Admin),
        }
    }
}
