//! `/sandboxes/{id}/files` and the paths below it.

pub mod content;
pub mod encoding;
pub mod range;
pub mod tree;
pub mod upload;
pub mod watch;
