//! Record of the process that runs a microVM, for a later daemon.
//!
//! A process id alone may be recycled. With the process's start time and the host's boot id it
//! identifies one process permanently.

use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// Name of the record in a microVM's directory.
pub(crate) const RECORD_FILE: &str = "vmm.json";

/// Largest record that is read, in bytes.
const RECORD_BYTES_MAX: u64 = 4096;

/// The record of one VMM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    /// Which process it is.
    #[serde(flatten)]
    pub(crate) process: ProcessIdentity,
    /// How it is driven. A daemon that finds none leaves the VMM alone.
    pub(crate) site: Option<Site>,
}

/// How a VMM is driven.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Site {
    /// The driver that started it.
    pub(crate) driver: String,
    /// Version of the VMM.
    pub(crate) version: String,
    /// Directory of its sockets, in the microVM's directory.
    pub(crate) sockets: PathBuf,
    /// Its user and group, if it is jailed.
    pub(crate) uid: Option<u32>,
}

/// Identity of one process on one boot of one host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ProcessIdentity {
    /// Process id.
    pub(crate) pid: u32,
    /// When the process started, in clock ticks since the host's boot
    /// (`/proc/<pid>/stat`, field 22).
    pub(crate) start_time_ticks: u64,
    /// Which boot of the host (`/proc/sys/kernel/random/boot_id`).
    pub(crate) boot_id: String,
}

impl ProcessIdentity {
    /// Identifies the process `pid`, or `None` when it has ended (a zombie has).
    ///
    /// # Errors
    /// When `/proc` cannot be read.
    pub(crate) fn of(pid: u32) -> io::Result<Option<Self>> {
        let boot_id = Self::boot_id()?;
        let stat = match std::fs::read_to_string(format!("/proc/{pid}/stat")) {
            Ok(stat) => stat,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            // ESRCH: the process was reaped between open and read.
            Err(error) if error.raw_os_error() == Some(3) => return Ok(None),
            Err(error) => return Err(error),
        };
        let (state, start_time_ticks) = parse_stat(&stat)
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "unreadable process stat"))?;
        let ended = matches!(state, 'Z' | 'X');
        Ok((!ended).then_some(Self { pid, start_time_ticks, boot_id }))
    }
}

impl ProcessIdentity {
    /// Identifies this boot of the host.
    ///
    /// # Errors
    /// When `/proc` cannot be read.
    pub(crate) fn boot_id() -> io::Result<String> {
        let boot_id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
        Ok(boot_id.trim().to_owned())
    }
}

impl Record {
    /// Writes the record into `dir`, whole or not at all.
    pub(crate) fn write(&self, dir: &Path) -> io::Result<()> {
        let unfinished = dir.join("vmm.json.new");
        std::fs::write(&unfinished, serde_json::to_vec(self)?)?;
        std::fs::rename(unfinished, dir.join(RECORD_FILE))
    }

    /// Reads the record in `dir`.
    ///
    /// # Errors
    /// When there is none or it is not one.
    pub(crate) fn read(dir: &Path) -> io::Result<Self> {
        let file = std::fs::File::open(dir.join(RECORD_FILE))?;
        let mut json = Vec::new();
        file.take(RECORD_BYTES_MAX).read_to_end(&mut json)?;
        Ok(serde_json::from_slice(&json)?)
    }
}

/// State and start time of a `/proc/<pid>/stat` line. The second field is the program's name
/// in parentheses and may itself contain spaces and parentheses.
fn parse_stat(stat: &str) -> Option<(char, u64)> {
    let (_, after_name) = stat.rsplit_once(')')?;
    let mut fields = after_name.split_whitespace();
    let state = fields.next()?.chars().next()?;
    Some((state, fields.nth(18)?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stat_of_a_hostile_program_name_is_read_right() {
        let stat = "42 (a) R 1 (b) S 1 42 42 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 98765 9 9 9\n";
        assert_eq!(parse_stat(stat), Some(('S', 98_765)));
        assert_eq!(parse_stat("42 (cut"), None);
        assert_eq!(parse_stat("42 (cut) S 1 2"), None);
    }

    #[test]
    fn record_survives_its_file() {
        let dir = tempfile::tempdir().unwrap();
        let process = ProcessIdentity::of(std::process::id()).unwrap().unwrap();
        let site = Site {
            driver: "qemu".to_owned(),
            version: "7.2.0".to_owned(),
            sockets: "vm".into(),
            uid: Some(1_900_000_000),
        };
        let record = Record { process, site: Some(site) };
        record.write(dir.path()).unwrap();
        assert_eq!(Record::read(dir.path()).unwrap(), record);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
