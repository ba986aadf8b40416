//! Parts that the tests of several crates share: skips that are counted, and reads with a deadline.

mod lines;
mod skip;

pub use lines::{LINE_WAIT_MAX, first_line};
pub use skip::{microvms, needs, skip};
