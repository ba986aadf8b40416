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
mod connect;
mod dial;
mod entry;
mod facade;
mod flow;
mod guard;
pub mod hello;
pub mod http;
mod limits;
mod lookup;
mod mux;
mod name;
mod network;
mod operator;
mod peer;
mod policy;
mod ports;
mod profile;
mod record;
mod requests;
mod resolve;
mod rules;
mod session;
mod sniff;
mod splice;
mod state;
mod tally;
mod verdict;

pub use compile::{OverCeiling, PolicyError};
pub use emberd_proto::policy::{
    EgressLimits as Limits, EgressLogMode as LogMode, EgressProtocol as Protocol,
};
pub use emberd_proto::{EgressDenials, EgressDenied, EntrySpec, PolicySpec};
pub use entry::{Entry, EntryError, Host};
pub use facade::{CONNECTIONS_MAX_DEFAULT, Check, Egress, SandboxEgress};
pub use mux::MuxError;
pub use name::{Name, NameError};
pub use network::{HostNetwork, LookupError, Network};
pub use operator::{Ceiling, Operator, OperatorError};
pub use policy::{InForce, Policy};
pub use ports::{PortSet, PortsError};
pub use profile::{BUILT_IN, PackProfiles, ProfileNameError};
pub use record::{
    Carried, DENIED_MAX, Decision, Kind, Page, RECORDS_BYTES_MAX, RECORDS_MAX, Record, hint,
};
pub use requests::Requests;
pub use state::Totals;
pub use tally::DaemonTotals;
pub use verdict::{Allowed, Denied, Source, Verdict};
