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

mod name;
mod policy;
mod verdict;

pub use name::{Name, NameError};
pub use policy::Policy;
pub use verdict::{Allowed, Denied, Limits, LogMode, Protocol, Source, Verdict};
