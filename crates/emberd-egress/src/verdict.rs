//! What a policy says about one destination.

use std::fmt;
use std::sync::Arc;

use emberd_proto::EgressReason;
use emberd_proto::policy::EgressProtocol as Protocol;

use crate::requests::Requests;

/// The decision of a policy on one destination.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// The destination may be reached.
    Allowed(Allowed),
    /// The destination may not be reached.
    Denied(Denied),
}

/// The entry that allows a destination, and what it demands of a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Allowed {
    /// The entry as it was written.
    pub entry: Arc<str>,
    /// Where the entry comes from.
    pub source: Source,
    /// How the content of a connection to a name is checked.
    pub protocol: Protocol,
    /// Whether a TLS connection may hide its server's name.
    pub ech: bool,
    /// Whether private addresses that the operator permits may be reached by this entry.
    pub private: bool,
    /// The HTTP requests that may be made. Holds where HTTP is read.
    pub requests: Requests,
}

/// Why a destination may not be reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Denied {
    /// The reason.
    pub reason: EgressReason,
    /// The entry that denies it, if one does.
    pub entry: Option<Arc<str>>,
    /// Where that entry comes from.
    pub source: Option<Source>,
}

impl Denied {
    /// A denial that no entry made.
    pub fn by(reason: EgressReason) -> Self {
        Self { reason, entry: None, source: None }
    }
}

/// Where an entry comes from.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Source {
    /// The policy of the sandbox.
    Sandbox,
    /// The profile of this name, which the policy of the sandbox or the operator names.
    Profile(Arc<str>),
    /// The operator's file.
    Operator,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sandbox => f.write_str("sandbox"),
            Self::Profile(name) => write!(f, "profile:{name}"),
            Self::Operator => f.write_str("operator"),
        }
    }
}
