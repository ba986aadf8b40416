//! `/sandboxes/{id}/files` and what is below it.

pub mod content;
mod encoding;
mod query;
mod range;
pub mod tree;
mod upload;
pub mod watch;
