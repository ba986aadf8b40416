//! The audit journal: one line of JSON for each decision, in files by day, as a chain.
//!
//! ```text
//! requests ─▶ queue (bounded) ─▶ writer, a thread ─▶ 2026-11-29.jsonl ─▶ 2026-11-29.1.jsonl ─▶ …
//!                                    │ fsync each second        └ each line has the SHA-256
//!                                    └▶ head: the last synced line    of the one before it
//! ```
//!
//! Who records waits for nothing. [`page`] reads, [`verify`] finds the first line that does not
//! fit; neither needs the daemon.

mod disk;
mod files;
mod journal;
mod line;
mod options;
mod read;
mod verify;

pub use files::day_of;
pub use journal::{Figures, Journal, Wake};
pub use line::{Head, LINE_BYTES_MAX};
pub use options::{OpenError, Options};
pub use read::page;
pub use verify::{Misfit, Verified, VerifyError, Why, verify};
