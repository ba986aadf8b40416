//! Makes a restored machine one of its own: clones of a template wake up with the same
//! clock, random pool and names.

use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

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

/// Where programs without a name server look names up.
const HOSTS: &str = "/etc/hosts";

/// Address the host name stands for there, as in Debian: one that is nobody else's.
const HOST_ADDRESS: &str = "127.0.1.1";

/// Largest file of host names that is rewritten, in bytes (64 KiB).
const HOSTS_BYTES_MAX: u64 = 64 << 10;

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
    attempt("name the host in /etc/hosts", || name_host(Path::new(HOSTS), &renewal.hostname))?;
    attempt("set the machine id", || fs::write(MACHINE_ID, machine_id))?;
    attempt("set the boot id", || show_boot_id(&renewal.boot_id))
}

fn attempt(step: &'static str, act: impl FnOnce() -> io::Result<()>) -> Result<(), RenewError> {
    act().map_err(|source| RenewError::Step { step, source })
}

/// What the wall clock shows, in microseconds since the epoch.
pub fn wall_clock_us() -> u64 {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since_epoch.as_micros()).unwrap_or(u64::MAX)
}

fn set_wall_clock(since_epoch_us: u64) -> io::Result<()> {
    let time = TimeSpec::from(Duration::from_micros(since_epoch_us));
    Ok(clock_settime(ClockId::CLOCK_REALTIME, time)?)
}

/// Makes `hostname` what [`HOST_ADDRESS`] stands for in the file `hosts`, if there is one. It
/// is written in place: nobody reads it before a renewal is done, and an emulated guest runs
/// half of a file system's code for the first time to replace it.
fn name_host(hosts: &Path, hostname: &str) -> io::Result<()> {
    let known = match fs::symlink_metadata(hosts) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        metadata => metadata?,
    };
    if !known.is_file() || known.len() > HOSTS_BYTES_MAX {
        return Ok(());
    }
    let ours = |line: &&[u8]| line.starts_with(HOST_ADDRESS.as_bytes());
    let before = fs::read(hosts)?;
    let mut lines: Vec<_> = before
        .split(|byte| *byte == b'\n')
        .filter(|line| !line.is_empty() && !ours(line))
        .collect();
    let host = format!("{HOST_ADDRESS}\t{hostname}\n");
    lines.push(host.as_bytes());
    fs::write(hosts, lines.join(&b'\n'))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_is_named_once_beside_what_was_there() {
        let dir = tempfile::tempdir().unwrap();
        let hosts = dir.path().join("hosts");
        name_host(&hosts, "nobody").unwrap();
        assert!(!hosts.exists());
        fs::write(&hosts, "127.0.0.1 localhost\n::1 \u{ff}").unwrap();
        for name in ["first", "second"] {
            name_host(&hosts, name).unwrap();
            let expect = format!("127.0.0.1 localhost\n::1 \u{ff}\n127.0.1.1\t{name}\n");
            assert_eq!(fs::read_to_string(&hosts).unwrap(), expect);
        }
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
