//! Problems of a configuration, each with advice.

use std::fmt;

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Problem {
    /// The error, in lower case, with the option or the file and line it concerns.
    pub error: String,
    /// The advice.
    pub hint: String,
}

/// All problems of one configuration; never empty.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct Problems(pub Vec<Problem>);

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let errors: Vec<_> = self.0.iter().map(|problem| problem.error.as_str()).collect();
        f.write_str(&errors.join("; "))
    }
}

impl Problems {
    /// One `error:` line and one `hint:` line for each problem.
    pub fn report(&self) -> String {
        let lines = self
            .0
            .iter()
            .flat_map(|problem| ["error: ", &problem.error, "\nhint: ", &problem.hint, "\n"]);
        lines.collect()
    }
}
