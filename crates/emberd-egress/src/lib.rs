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

mod dial;
mod facade;
mod flow;
mod guard;
mod limits;
mod mux;
mod name;
mod peer;
mod policy;
mod record;
mod resolve;
mod session;
mod splice;
mod state;
mod verdict;

pub use facade::{CONNECTIONS_MAX_DEFAULT, Check, Egress, SandboxEgress};
pub use mux::MuxError;
pub use name::{Name, NameError};
pub use policy::Policy;
pub use record::{
    Carried, DENIED_MAX, Decision, DeniedDestination, Kind, Mark, Page, RECORDS_BYTES_MAX,
    RECORDS_MAX, Record, hint,
};
pub use resolve::{HostResolver, LookupError, Resolve};
pub use state::Totals;
pub use verdict::{Allowed, Denied, Limits, LogMode, Protocol, Source, Verdict};
