//! One call of a tool.

use std::time::Duration;

use crate::failure::Failure;
use crate::progress::Progress;
use crate::state::{Daemon, State};

/// Longest time that a call may wait for a program, in seconds (1 h): that of a run.
const TIMEOUT_S_MAX: u64 = 3_600;

/// One call.
pub struct Call<'a> {
    pub server: &'a State,
    /// The daemon, as the caller reaches it.
    pub daemon: Daemon,
    pub progress: Progress,
}

impl Call<'_> {
    /// The sandbox that a call names, or that of this server.
    pub fn sandbox(&self, named: Option<String>) -> Result<String, Failure> {
        named.filter(|id| !id.is_empty()).or_else(|| self.server.sandbox.clone()).ok_or_else(|| {
            Failure::invalid("the call names no `sandbox`").hint("create_sandbox makes one")
        })
    }
}

/// The time that a call names, or `default` seconds.
pub fn time(seconds: Option<u64>, default: u64) -> Result<Duration, Failure> {
    let seconds = seconds.unwrap_or(default);
    if (1..=TIMEOUT_S_MAX).contains(&seconds) {
        return Ok(Duration::from_secs(seconds));
    }
    Err(Failure::invalid(format!("`timeout_s` is 1 to {TIMEOUT_S_MAX}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_limits() {
        assert!(time(Some(0), 1).is_err() && time(Some(3_601), 1).is_err());
        assert_eq!(time(None, 45).unwrap(), Duration::from_secs(45));
    }
}
