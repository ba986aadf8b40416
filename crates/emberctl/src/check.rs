//! One thing looked at and what was found: a row of `doctor`, a step of `test`.

use clap::builder::styling::AnsiColor;
use serde::Serialize;

use crate::output;

/// What a check found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// As it should be.
    Ok,
    /// Worth knowing, and nobody's fault; or what could not be found out.
    Info,
    /// Works, less well than it could.
    Warn,
    /// Does not work.
    Fail,
    /// Could not be looked at from here.
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
