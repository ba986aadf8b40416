//! An error as one line of text: for the other end of the wire, a log, a person.

use std::error::Error;
use std::fmt::Write as _;

/// Most causes of an error that are printed: more than any has, so that a circle ends.
const CAUSES_MAX: usize = 16;

/// `error: cause: cause of the cause`.
pub fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let causes = std::iter::successors(error.source(), |&cause| cause.source());
    for cause in causes.take(CAUSES_MAX) {
        write!(text, ": {cause}").expect("strings take all text");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("outer")]
    struct Outer(#[source] std::num::ParseIntError);

    #[test]
    fn causes_follow_their_error() {
        let cause = "x".parse::<i32>().unwrap_err();
        assert_eq!(chain(&Outer(cause)), "outer: invalid digit found in string");
    }

    #[derive(Debug, thiserror::Error)]
    #[error("circle")]
    struct Circle(#[source] &'static Circle);

    #[test]
    fn a_circle_of_causes_ends() {
        static CIRCLE: Circle = Circle(&CIRCLE);
        assert_eq!(chain(&CIRCLE), ["circle"; 1 + CAUSES_MAX].join(": "));
    }
}
