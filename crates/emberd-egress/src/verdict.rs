//! What a policy says about one destination.

use std::fmt;
use std::sync::Arc;

use emberd_proto::EgressReason;

/// What a policy says about one destination.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// The destination may be reached.
    Allowed(Allowed),
    /// It may not.
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
    /// Methods of HTTP requests; none for all. Holds where HTTP is read.
    pub methods: Option<Arc<[String]>>,
    /// Paths of HTTP requests, where `*` stands for any characters; none for all. Holds where HTTP
    /// is read.
    pub paths: Option<Arc<[String]>>,
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

/// How the content of a connection to a name is checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Protocol {
    /// By port and first byte: TLS on port 443 or where a TLS message comes first, HTTP/1 on port
    /// 80, else not at all.
    #[default]
    Auto,
    /// Not at all.
    Tcp,
}

/// Which connections of a sandbox are recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LogMode {
    /// All.
    #[default]
    All,
    /// Those that were denied or failed.
    Denied,
    /// None.
    Off,
}

/// Limits of one sandbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Connections at once.
    pub connections: u32,
    /// Connections opened in a second, on average.
    pub opens_per_s: u32,
    /// Rate of data to destinations, in KiB per second; 0 for no limit.
    pub upload_kib_s: u32,
    /// Rate of data from destinations, in KiB per second; 0 for no limit.
    pub download_kib_s: u32,
    /// Data to destinations over the sandbox's life, in MiB; 0 for no limit.
    pub upload_mib: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 256,
            opens_per_s: 100,
            upload_kib_s: 0,
            download_kib_s: 0,
            upload_mib: 0,
        }
    }
}
