//! Marks of responses, and of errors, that tell of a limit.

use std::time::Duration;

use emberd_keys::LimitName;

/// The limit of a key that refuses a request.
#[derive(Debug, Clone, Copy)]
pub struct Limited {
    /// Which limit.
    pub name: LimitName,
    /// Its value; none for a list.
    pub value: Option<u64>,
    /// When to try again; none if waiting does not help.
    pub retry_after: Option<Duration>,
}

/// Marks a response with limits that its request, or the program of it, has reached.
#[derive(Debug, Clone)]
pub struct LimitsHit(pub Vec<&'static str>);
