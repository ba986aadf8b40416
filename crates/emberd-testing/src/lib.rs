//! Parts that the tests of several crates share: skips that are counted, reads with a deadline, and
//! namespaces of a test's own.

mod lines;
mod namespaces;
mod skip;

pub use lines::{LINE_WAIT_MAX, first_line};
pub use namespaces::{run, with_mounts, with_network};
pub use skip::{microvms, needs, skip};
