//! One thing looked at and what was found: a row of `doctor`, a step of `test`.

use clap::builder::styling::AnsiColor;
use serde::Serialize;

use crate::output;

/// The result of a check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// The check passed.
    Ok,
    /// Information that calls for no action, or a fact that could not be read.
    Info,
    /// The checked part works, with a drawback.
    Warn,
    /// The checked part does not work.
    Fail,
    /// The check could not be made from this host.
    Skipped,
}

impl Verdict {
    /// The word for people, coloured, five columns wide.
    pub fn word(self) -> String {
        let (word, colour) = match self {
            Self::Ok => ("ok   ", AnsiColor::Green),
            Self::Info => ("info ", AnsiColor::Cyan),
            Self::Warn => ("warn ", AnsiColor::Yellow),
            Self::Fail => ("FAIL ", AnsiColor::Red),
            Self::Skipped => ("SKIP ", AnsiColor::Yellow),
        };
        output::coloured(word, colour)
    }
}
