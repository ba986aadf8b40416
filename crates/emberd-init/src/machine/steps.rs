//! The steps that every renewal takes, and the files that it writes.

use std::io;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use emberd_proto::{Renewal, RenewalError};
use nix::sys::time::TimeSpec;
use nix::time::{ClockId, clock_settime};

/// File with the machine id (machine-id(5)).
pub const MACHINE_ID: &str = "/etc/machine-id";

/// File with the kernel's boot id, which the kernel does not allow to change.
pub const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// File in which programs look up host names.
pub const HOSTS: &str = "/etc/hosts";

/// Address of the host name in that file, as in Debian; it has no other use.
pub const HOST_ADDRESS: &str = "127.0.1.1";

/// Largest hosts file that is rewritten, in bytes (64 KiB).
pub const HOSTS_BYTES_MAX: u64 = 64 << 10;

/// Why a renewal failed.
#[derive(Debug, thiserror::Error)]
pub enum RenewError {
    /// The renewal breaks a rule; nothing was changed.
    #[error(transparent)]
    Invalid(#[from] RenewalError),
    /// A step failed; the steps before it have taken effect.
    #[error("cannot {step}")]
    Step {
        /// The step that failed.
        step: &'static str,
        /// The cause.
        source: io::Error,
    },
}

/// Sets the clock to a time that has been checked, in microseconds since the epoch.
///
/// # Errors
/// [`RenewError`].
pub fn set_clock(wall_clock_us: u64) -> Result<(), RenewError> {
    attempt("set the wall clock", || set_wall_clock(wall_clock_us))
}

/// Sets the host name as `renewal` says.
///
/// # Errors
/// [`RenewError::Step`].
pub fn set_host_name(renewal: &Renewal) -> Result<(), RenewError> {
    attempt("set the host name", || Ok(nix::unistd::sethostname(&renewal.hostname)?))
}

/// Carries out one step of a renewal.
///
/// # Errors
/// [`RenewError::Step`].
pub fn attempt(step: &'static str, act: impl FnOnce() -> io::Result<()>) -> Result<(), RenewError> {
    act().map_err(|source| RenewError::Step { step, source })
}

/// Returns the wall clock, in microseconds since the epoch.
pub fn wall_clock_us() -> u64 {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since_epoch.as_micros()).unwrap_or(u64::MAX)
}

fn set_wall_clock(since_epoch_us: u64) -> io::Result<()> {
    let time = TimeSpec::from(Duration::from_micros(since_epoch_us));
    Ok(clock_settime(ClockId::CLOCK_REALTIME, time)?)
}
