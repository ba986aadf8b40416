//! What the tests of several crates share: skips that count, and reads that end.

mod lines;
mod skip;

pub use lines::{LINE_WAIT_MAX, first_line};
pub use skip::{microvms, needs, skip};
