//! Makes a restored machine one of its own: clones of a template wake up with the same
//! clock, random pool and names.

use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::time::Duration;

use emberd_proto::{Renewal, RenewalError};
use nix::mount::{MsFlags, mount};
use nix::sys::time::TimeSpec;
use nix::time::{ClockId, clock_settime};

use crate::sys;

const MACHINE_ID: &str = "/etc/machine-id";

/// Where the kernel shows an id it draws once and lets nobody change.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// File that is mounted over [`BOOT_ID`].
const BOOT_ID_COVER: &str = "/run/emberd.boot-id";

/// Why a renewal was not carried out.
#[derive(Debug, thiserror::Error)]
pub enum RenewError {
    /// It breaks a rule; nothing was changed.
    #[error(transparent)]
    Invalid(#[from] RenewalError),
    /// A step failed; those before it have taken effect.
    #[error("cannot {step}")]
    Step {
        /// What could not be done.
        step: &'static str,
        /// Why.
        source: io::Error,
    },
}

/// Sets clock, random pool, host name, machine id and boot id as `renewal`, which has been
/// checked, says. What they were before, also by an earlier renewal, makes no difference.
///
/// # Errors
/// [`RenewError`].
pub fn renew(renewal: &Renewal) -> Result<(), RenewError> {
    let entropy = renewal.entropy()?;
    let machine_id = format!("{}\n", renewal.machine_id);
    let hostname = || Ok(nix::unistd::sethostname(&renewal.hostname)?);
    attempt("set the wall clock", || set_wall_clock(renewal.wall_clock_us))?;
    attempt("reseed the random generator", || sys::reseed_random(&entropy))?;
    attempt("set the host name", hostname)?;
    attempt("set the machine id", || fs::write(MACHINE_ID, machine_id))?;
    attempt("set the boot id", || show_boot_id(&renewal.boot_id))
}

fn attempt(step: &'static str, act: impl FnOnce() -> io::Result<()>) -> Result<(), RenewError> {
    act().map_err(|source| RenewError::Step { step, source })
}

fn set_wall_clock(since_epoch_us: u64) -> io::Result<()> {
    let time = TimeSpec::from(Duration::from_micros(since_epoch_us));
    Ok(clock_settime(ClockId::CLOCK_REALTIME, time)?)
}

/// Covers [`BOOT_ID`] by a file that says `boot_id`.
fn show_boot_id(boot_id: &str) -> io::Result<()> {
    // A cover that is in place stays: it is written anew, not replaced.
    fs::write(BOOT_ID_COVER, format!("{boot_id}\n"))?;
    let identity = |file: Metadata| (file.dev(), file.ino());
    if identity(fs::metadata(BOOT_ID_COVER)?) != identity(fs::metadata(BOOT_ID)?) {
        let none = None::<&str>;
        mount(Some(BOOT_ID_COVER), BOOT_ID, none, MsFlags::MS_BIND, none)?;
    }
    Ok(())
}
