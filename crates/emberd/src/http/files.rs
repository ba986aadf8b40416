//! `/sandboxes/{id}/files` and what is below it.

pub mod content;
mod encoding;
mod pieces;
mod query;
mod range;
pub mod tree;
pub mod watch;
