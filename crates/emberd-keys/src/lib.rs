//! Access keys: what they look like, what they permit, and the file that they are kept in.
//!
//! ```text
//! emberctl key ─▶ edit: lock ─▶ read ─▶ change ─▶ write, fsync, rename ─▶ keys.json
//! daemon ──────▶ KeysFile: stat ─▶ changed? ─▶ read ◀────────────────────────┘
//! ```
//! A secret is shown once. The file has its SHA-256: with 160 random bits and more there is nothing
//! to guess, so nothing slower is needed.

mod edit;
mod file;
mod fixed;
mod limits;
mod record;
mod scope;
mod secret;

pub use edit::{EditError, KEY_TTL_MAX, NewKey, create, limit, list, remove, rotate};
pub use file::{FILE_NAME, Identity, KEYS_MAX, KeysError, KeysFile};
pub use fixed::{KeyFileError, read_key_file};
pub use limits::{KeyLimits, LimitError, LimitName, LimitValue};
pub use record::{KeyName, KeyNameError, KeyRecord};
pub use scope::{Role, Scope, ScopeSet, UnknownRole, UnknownScope};
pub use secret::{Digest, Form, KeyId, KeyIdError, Presented, Secret};
