//! Network policy of sandboxes, and its enforcement.
//!
//! ```text
//! guest stream ─▶ session ─▶ policy ─▶ sniff ─▶ resolve + guard ─▶ dial ─▶ splice
//!                               └── refused ──▶ record ─▶ log of the sandbox
//! ```
//!
//! The guest is hostile: what it claims about a connection only selects among what the policy
//! allows. The crate imports `emberd-proto` only. It knows no VMM and no sandbox; a session runs
//! over any byte stream.

mod compile;
mod entry;
mod name;
mod operator;
mod policy;
mod ports;
mod profile;
mod requests;
mod rules;
mod verdict;

pub use compile::PolicyError;
pub use emberd_proto::policy::{
    EgressLimits as Limits, EgressLogMode as LogMode, EgressProtocol as Protocol,
};
pub use emberd_proto::{EntrySpec, PolicySpec};
pub use entry::{Entry, EntryError, Host};
pub use name::{Name, NameError};
pub use operator::{Operator, OperatorError};
pub use policy::{InForce, Policy};
pub use ports::{PortSet, PortsError};
pub use profile::{BUILT_IN, PackProfiles, ProfileNameError};
pub use requests::Requests;
pub use verdict::{Allowed, Denied, Source, Verdict};
