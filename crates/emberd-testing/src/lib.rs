//! Parts that the tests of several crates share: skips that are counted, reads with a deadline,
//! namespaces of a test's own, and what daemons have written.

mod kept;
mod lines;
mod namespaces;
mod skip;

pub use kept::{Kept, keep_files};
pub use lines::{LINE_WAIT_MAX, first_line};
pub use namespaces::{run, with_mounts, with_network};
pub use skip::{microvms, needs, skip};
