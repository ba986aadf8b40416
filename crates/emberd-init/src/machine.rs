//! Gives a restored machine its own identity. Clones of a template start with the same clock,
//! random pool and names.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::Path;

use emberd_proto::Renewal;
use nix::libc::O_NOFOLLOW;
use nix::mount::{MsFlags, mount};
use nix::time::{ClockId, clock_gettime};

use crate::sys;

mod held;
mod steps;

pub use held::Held;
pub use steps::{RenewError, set_clock, wall_clock_us};

use steps::{BOOT_ID, HOST_ADDRESS, HOSTS, HOSTS_BYTES_MAX, MACHINE_ID, attempt, set_host_name};

/// File that is mounted over [`BOOT_ID`].
const BOOT_ID_COVER: &str = "/run/emberd.boot-id";

/// Sets clock, random pool, host name, machine id and boot id as `renewal` says, which has been
/// checked. Earlier values, also of an earlier renewal, make no difference.
///
/// # Errors
/// [`RenewError`].
pub fn renew(renewal: &Renewal) -> Result<(), RenewError> {
    let entropy = renewal.entropy()?;
    let machine_id = format!("{}\n", renewal.machine_id);
    let reseed = || sys::reseed_random(&File::open(sys::RANDOM_DEVICE)?, &entropy);
    set_clock(renewal.wall_clock_us)?;
    attempt("reseed the random generator", reseed)?;
    set_host_name(renewal)?;
    attempt("name the host in /etc/hosts", || name_host(Path::new(HOSTS), &renewal.hostname))?;
    attempt("set the machine id", || write_over(Path::new(MACHINE_ID), &machine_id))?;
    attempt("set the boot id", || show_boot_id(&renewal.boot_id))
}

/// Sets `hostname` as the name of [`HOST_ADDRESS`] in the file `hosts`, if that file exists. The
/// file is written in place, because no program reads it before a renewal is done, and replacing
/// it costs a guest's kernel several times as much. If the file already has a host name, only
/// that line is written.
fn name_host(hosts: &Path, hostname: &str) -> io::Result<()> {
    let opened = OpenOptions::new().read(true).write(true).custom_flags(O_NOFOLLOW).open(hosts);
    let file = match opened {
        Ok(file) => file,
        // The file is missing, or the guest has replaced it by a link or a directory.
        Err(_) if !fs::symlink_metadata(hosts).is_ok_and(|known| known.is_file()) => return Ok(()),
        Err(error) => return Err(error),
    };
    let known = file.metadata()?;
    if !known.is_file() || known.len() > HOSTS_BYTES_MAX {
        return Ok(());
    }
    let mut before = Vec::with_capacity(usize::try_from(known.len()).unwrap_or_default() + 1);
    (&file).take(HOSTS_BYTES_MAX).read_to_end(&mut before)?;
    let ours = |line: &&[u8]| line.starts_with(HOST_ADDRESS.as_bytes());
    let mut lines: Vec<_> = before
        .split(|byte| *byte == b'\n')
        .filter(|line| !line.is_empty() && !ours(line))
        .collect();
    let host = format!("{HOST_ADDRESS}\t{hostname}\n");
    lines.push(host.as_bytes());
    let after = lines.join(&b'\n');
    let same = before.iter().zip(&after).take_while(|(before, after)| before == after).count();
    file.write_all_at(&after[same..], same as u64)?;
    if after.len() < before.len() {
        file.set_len(after.len() as u64)?;
    }
    Ok(())
}

/// Makes `text` the content of the file at `path` without truncating it first, because the kernel
/// would free the old pages and allocate new ones.
fn write_over(path: &Path, text: &str) -> io::Result<()> {
    let file = OpenOptions::new().write(true).create(true).truncate(false).open(path)?;
    fill(&file, text)
}

fn fill(file: &File, text: &str) -> io::Result<()> {
    file.write_all_at(text.as_bytes(), 0)?;
    if file.metadata()?.len() > text.len() as u64 {
        file.set_len(text.len() as u64)?;
    }
    Ok(())
}

/// Mounts a file with `boot_id` over [`BOOT_ID`].
fn show_boot_id(boot_id: &str) -> io::Result<()> {
    let text = format!("{boot_id}\n");
    // The kernel's own file is read-only. A file that is already mounted over it is rewritten.
    if let Ok(cover) = OpenOptions::new().write(true).open(BOOT_ID) {
        return fill(&cover, &text);
    }
    write_over(Path::new(BOOT_ID_COVER), &text)?;
    let none = None::<&str>;
    Ok(mount(Some(BOOT_ID_COVER), BOOT_ID, none, MsFlags::MS_BIND, none)?)
}

/// Returns the time since the machine started, in microseconds.
pub fn boot_time_us() -> u64 {
    let time = clock_gettime(ClockId::CLOCK_BOOTTIME).expect("Linux has this clock");
    let seconds = u64::try_from(time.tv_sec()).expect("time since boot is positive");
    let nanoseconds = u64::try_from(time.tv_nsec()).expect("a fraction is positive");
    seconds * 1_000_000 + nanoseconds / 1000
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
        name_host(&hosts, "x").unwrap();
        let expect = "127.0.0.1 localhost\n::1 \u{ff}\n127.0.1.1\tx\n";
        assert_eq!(fs::read_to_string(&hosts).unwrap(), expect, "a shorter name leaves no rest");
        fs::write(&hosts, "127.0.1.1 old\n127.0.0.1 localhost\n").unwrap();
        name_host(&hosts, "new").unwrap();
        let expect = "127.0.0.1 localhost\n127.0.1.1\tnew\n";
        assert_eq!(fs::read_to_string(&hosts).unwrap(), expect, "wherever the line was");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn hosts_that_are_no_file_are_let_be() {
        let dir = tempfile::tempdir().unwrap();
        let (target, link) = (dir.path().join("target"), dir.path().join("hosts"));
        fs::write(&target, "mine\n").unwrap();
        std::os::unix::fs::symlink(&target, &link).unwrap();
        name_host(&link, "host").unwrap();
        assert_eq!(fs::read_to_string(&target).unwrap(), "mine\n");
        name_host(dir.path(), "host").unwrap();
    }

    #[test]
    fn file_says_what_was_written_over_it_and_no_more() {
        let dir = tempfile::tempdir().unwrap();
        let id = dir.path().join("id");
        for text in ["first\n", "the second\n", "3\n"] {
            write_over(&id, text).unwrap();
            assert_eq!(fs::read_to_string(&id).unwrap(), text);
        }
    }
}
