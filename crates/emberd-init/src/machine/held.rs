//! A renewal in seven system calls: a template keeps the files of an identity open.
//!
//! ```text
//! renewed by path ─▶ settled: Held::open ─▶ snapshot ─▶ restored: Held::renew
//!                                                        └ until a program runs: then by path
//! ```
//!
//! The content of each file but its varying part is known from the renewal before, so nothing is
//! opened, looked at or read again. That holds as long as only the agent has run since.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::Path;

use emberd_proto::Renewal;
use nix::libc::O_NOFOLLOW;

use super::steps::{
    BOOT_ID, HOST_ADDRESS, HOSTS, HOSTS_BYTES_MAX, MACHINE_ID, RenewError, attempt, set_clock,
    set_host_name,
};
use crate::sys;

/// The open files of a machine's identity.
#[derive(Debug)]
pub struct Held {
    random: File,
    files: Files,
}

impl Held {
    /// Opens the files of the identity that `last` gave this machine; `None` if they do not say
    /// what it wrote.
    pub fn open(last: &Renewal) -> Option<Self> {
        let random = File::open(sys::RANDOM_DEVICE).ok()?;
        let files = Files::open(last, Path::new(HOSTS), Path::new(MACHINE_ID), Path::new(BOOT_ID))
            .ok()??;
        Some(Self { random, files })
    }

    /// Whether `renewal` can be carried out: its host name is as long as the last one.
    pub fn fits(&self, renewal: &Renewal) -> bool {
        self.files.host_name_bytes == renewal.hostname.len()
    }

    /// Carries out `renewal`, which has been checked and [fits](Self::fits).
    ///
    /// # Errors
    /// [`RenewError::Step`].
    pub fn renew(&self, renewal: &Renewal) -> Result<(), RenewError> {
        let entropy = renewal.entropy()?;
        set_clock(renewal.wall_clock_us)?;
        attempt("reseed the random generator", || sys::reseed_random(&self.random, &entropy))?;
        set_host_name(renewal)?;
        attempt("write the host name and the ids", || self.files.write(renewal))
    }
}

#[derive(Debug)]
struct Files {
    /// The file of host names, and where in it the host's own begins.
    hosts: (File, u64),
    host_name_bytes: usize,
    machine_id: File,
    boot_id: File,
}

impl Files {
    fn open(
        last: &Renewal,
        hosts: &Path,
        machine_id: &Path,
        boot_id: &Path,
    ) -> io::Result<Option<Self>> {
        let line = format!("{HOST_ADDRESS}\t{}\n", last.hostname);
        let (hosts, content) = opened(hosts)?;
        let machine_id = (opened(machine_id)?, format!("{}\n", last.machine_id));
        let boot_id = (opened(boot_id)?, format!("{}\n", last.boot_id));
        let told = content.ends_with(line.as_bytes())
            && [&machine_id, &boot_id].iter().all(|((_, is), was)| is == was.as_bytes());
        let host_name_bytes = last.hostname.len();
        Ok(told.then(|| Self {
            hosts: (hosts, (content.len() - host_name_bytes - 1) as u64),
            host_name_bytes,
            machine_id: machine_id.0.0,
            boot_id: boot_id.0.0,
        }))
    }

    fn write(&self, renewal: &Renewal) -> io::Result<()> {
        let (hosts, at) = &self.hosts;
        hosts.write_all_at(renewal.hostname.as_bytes(), *at)?;
        self.machine_id.write_all_at(renewal.machine_id.as_bytes(), 0)?;
        self.boot_id.write_all_at(renewal.boot_id.as_bytes(), 0)
    }
}

/// The file at `path` for writing, and what it holds.
fn opened(path: &Path) -> io::Result<(File, Vec<u8>)> {
    let file = OpenOptions::new().read(true).write(true).custom_flags(O_NOFOLLOW).open(path)?;
    let mut content = Vec::new();
    (&file).take(HOSTS_BYTES_MAX).read_to_end(&mut content)?;
    Ok((file, content))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::machine::{name_host, write_over};

    fn renewal(digit: char, hostname: &str) -> Renewal {
        let digits = |count: usize| digit.to_string().repeat(count);
        let parts = [8, 4, 4, 4, 12].map(digits);
        Renewal {
            wall_clock_us: 0,
            entropy_base64: String::new(),
            hostname: hostname.to_owned(),
            machine_id: digits(32),
            boot_id: parts.join("-"),
        }
    }

    #[test]
    fn files_say_what_a_renewal_by_path_would_have_written() {
        let dir = tempfile::tempdir().unwrap();
        let [hosts, machine_id, boot_id] =
            ["hosts", "machine-id", "boot-id"].map(|name| dir.path().join(name));
        let by_path = |renewal: &Renewal| {
            name_host(&hosts, &renewal.hostname).unwrap();
            write_over(&machine_id, &format!("{}\n", renewal.machine_id)).unwrap();
            write_over(&boot_id, &format!("{}\n", renewal.boot_id)).unwrap();
            [&hosts, &machine_id, &boot_id].map(|file| fs::read_to_string(file).unwrap())
        };
        let [first, second] = [renewal('1', "sb-1"), renewal('2', "sb-2")];
        fs::write(&hosts, "127.0.0.1\tlocalhost\n").unwrap();
        let expect = by_path(&second);
        by_path(&first);
        let open = |last| Files::open(last, &hosts, &machine_id, &boot_id).unwrap();
        assert!(open(&second).is_none(), "the files are not of that renewal");
        let held = open(&first).unwrap();
        held.write(&second).unwrap();
        let said = [&hosts, &machine_id, &boot_id].map(|file| fs::read_to_string(file).unwrap());
        assert_eq!(said, expect);
        assert_eq!(held.host_name_bytes, second.hostname.len());
    }

    #[test]
    fn files_that_somebody_changed_are_not_held() {
        let dir = tempfile::tempdir().unwrap();
        let [hosts, machine_id, boot_id] =
            ["hosts", "machine-id", "boot-id"].map(|name| dir.path().join(name));
        let last = renewal('1', "sb-1");
        fs::write(&hosts, "127.0.1.1\tsb-1\n127.0.0.1\tlocalhost\n").unwrap();
        write_over(&machine_id, &format!("{}\n", last.machine_id)).unwrap();
        write_over(&boot_id, &format!("{}\n", last.boot_id)).unwrap();
        let open = || Files::open(&last, &hosts, &machine_id, &boot_id);
        assert!(open().unwrap().is_none(), "the host's line is not the last one");
        fs::remove_file(&hosts).unwrap();
        assert!(open().is_err(), "there is no such file");
    }
}
