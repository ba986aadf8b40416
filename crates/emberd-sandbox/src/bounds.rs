//! Bounds of what a caller may ask for.

/// A resource outside of its bounds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ResourceError {
    /// Too few or too many.
    #[error("{name}: {amount} is not from {least} to {most}")]
    Bounds {
        /// Field of the request.
        name: &'static str,
        /// The amount asked for.
        amount: u64,
        /// The least.
        least: u64,
        /// The most.
        most: u64,
    },
    /// Guests have no disk of their own.
    #[error("disk_mib: sandboxes of this daemon have no disk of their own (`--disk-mib off`)")]
    NoDisk,
    /// The VMMs take an even number only.
    #[error("memory_mib: {0} is not a multiple of 2")]
    Odd(u64),
}

/// Returns the amount asked for, or the default.
///
/// # Errors
/// [`ResourceError::Bounds`].
pub(crate) fn bounded(
    name: &'static str,
    asked: Option<u64>,
    default: u64,
    least: u64,
    most: u64,
) -> Result<u64, ResourceError> {
    match asked {
        Some(amount) if !(least..=most).contains(&amount) => {
            Err(ResourceError::Bounds { name, amount, least, most })
        }
        asked => Ok(asked.unwrap_or(default)),
    }
}
