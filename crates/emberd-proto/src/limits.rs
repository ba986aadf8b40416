//! What all programs of a guest may take together.

use serde::{Deserialize, Serialize};

/// Least limit of processes and threads: a shell and what it starts, besides a warm interpreter.
pub const PIDS_MIN: u64 = 16;

/// Most processes and threads of all programs. The kernel counts process ids in twice as many.
pub const PIDS_MAX: u64 = 65_536;

/// Most processes and threads of a guest whose host sets no limit.
pub const PIDS_DEFAULT: u64 = 4_096;

/// Largest disk, in MiB (16 TiB): the most blocks of an ext4 with 32-bit numbers.
pub const DISK_MIB_MAX: u64 = 1 << 24;

/// Limits of all programs of a guest together. One that is absent stays as it is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestLimits {
    /// Most processes and threads: [`PIDS_MIN`] to [`PIDS_MAX`]. Programs that the host starts
    /// are counted and never refused for it; what they start is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pids: Option<u64>,
    /// Size of the guest's own disk, in MiB: at least as it is, at most [`DISK_MIB_MAX`]. The host
    /// has told the device before; the file system grows as soon as the guest's kernel knows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk_mib: Option<u64>,
}

impl GuestLimits {
    /// Checks the limits.
    ///
    /// # Errors
    /// The first that is out of its bounds.
    pub fn check(&self) -> Result<(), GuestLimitsError> {
        match *self {
            Self { pids: Some(pids), .. } if !(PIDS_MIN..=PIDS_MAX).contains(&pids) => {
                Err(GuestLimitsError::Pids(pids))
            }
            Self { disk_mib: Some(mib), .. } if mib > DISK_MIB_MAX => {
                Err(GuestLimitsError::Disk(mib))
            }
            _ => Ok(()),
        }
    }
}

/// A limit that is out of its bounds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum GuestLimitsError {
    /// Too few or too many processes.
    #[error("pids: {0} is not from {PIDS_MIN} to {PIDS_MAX}")]
    Pids(u64),
    /// The disk is too large.
    #[error("disk_mib: {0} is over {DISK_MIB_MAX}")]
    Disk(u64),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_checked_at_their_edges() {
        let check = |pids| GuestLimits { pids, disk_mib: None }.check();
        for pids in [None, Some(PIDS_MIN), Some(PIDS_DEFAULT), Some(PIDS_MAX)] {
            assert_eq!(check(pids), Ok(()));
        }
        for pids in [0, PIDS_MIN - 1, PIDS_MAX + 1] {
            assert_eq!(check(Some(pids)), Err(GuestLimitsError::Pids(pids)));
        }
        let disk = |mib| GuestLimits { pids: None, disk_mib: Some(mib) }.check();
        assert_eq!(disk(DISK_MIB_MAX), Ok(()));
        assert_eq!(disk(DISK_MIB_MAX + 1), Err(GuestLimitsError::Disk(DISK_MIB_MAX + 1)));
    }
}
