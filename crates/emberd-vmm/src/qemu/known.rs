//! Findings of an earlier start, which ran QEMU for them: a daemon that starts again on a busy host
//! runs it only if something has changed.
//!
//! They hold for one boot of the host, one QEMU with its libraries, one daemon with its rights, and
//! one configuration. A jail that was refused is tried again at every start.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use emberd_stamp::{Stamp, read_record, write_record};
use serde::{Deserialize, Serialize};

use crate::record::ProcessIdentity;

/// The loader's list of libraries, which is written again when one of them is installed.
const LIBRARIES: &str = "/etc/ld.so.cache";

/// The daemon's own program.
const DAEMON: &str = "/proc/self/exe";

/// Lines of `/proc/self/status` with the rights of the daemon.
const RIGHTS: [&str; 7] =
    ["Uid:", "Gid:", "CapEff:", "CapBnd:", "NoNewPrivs:", "Seccomp:", "Seccomp_filters:"];

/// See the module.
#[derive(Debug)]
pub(super) struct Known {
    record: Option<PathBuf>,
    /// None if something about the host cannot be read: nothing is kept then.
    circumstances: Option<Circumstances>,
    findings: Option<Findings>,
}

/// Results of the trials.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Findings {
    pub(super) version: String,
    /// Frequency of the host's cycle counter; none if guests run on KVM.
    pub(super) tsc_khz: Option<u64>,
    /// Whether QEMU ran in a jail.
    pub(super) is_jailed: bool,
}

/// Everything that the findings depend on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Circumstances {
    boot_id: String,
    /// Path of QEMU.
    binary: PathBuf,
    /// QEMU, the daemon and the list of libraries, where there is one.
    files: [Option<Stamp>; 3],
    rights: Vec<String>,
    /// The configuration, in words.
    choices: String,
}

#[derive(Serialize, Deserialize)]
struct Record {
    circumstances: Circumstances,
    findings: Findings,
}

impl Known {
    /// Reads what is known of `binary` under `choices`: nothing, if there is no `record`, or if it
    /// cannot be read or is of other circumstances.
    pub(super) fn read(record: Option<&Path>, binary: &Path, choices: String) -> Self {
        let circumstances = record.and_then(|_| Circumstances::now(binary, choices).ok());
        let kept: Option<Record> = record.and_then(read_record);
        let kept = kept.filter(|kept| Some(&kept.circumstances) == circumstances.as_ref());
        let findings = kept.map(|kept| kept.findings);
        Self { record: record.map(Path::to_owned), circumstances, findings }
    }

    pub(super) fn findings(&self) -> Option<&Findings> {
        self.findings.as_ref()
    }

    /// Keeps `findings`, if they are new, for the next start. Where that fails, that start finds
    /// out again.
    pub(super) fn keep(self, findings: Findings) {
        let (Some(record), Some(circumstances)) = (self.record, self.circumstances) else { return };
        if self.findings.as_ref() == Some(&findings)
            || !circumstances.are_settled(SystemTime::now())
        {
            return;
        }
        // An error costs the next start some time.
        drop(write_record(&record, &Record { circumstances, findings }));
    }
}

impl Circumstances {
    fn now(binary: &Path, choices: String) -> io::Result<Self> {
        let status = fs::read_to_string("/proc/self/status")?;
        let names_right = |line: &&str| RIGHTS.iter().any(|right| line.starts_with(right));
        let mut rights: Vec<_> = status.lines().filter(names_right).map(str::to_owned).collect();
        rights.push(fs::read_to_string("/proc/self/uid_map")?);
        // Only where a security module confines processes.
        rights.extend(fs::read_to_string("/proc/self/attr/current").ok());
        let files = [Some(fs::metadata(binary)?), Some(fs::metadata(DAEMON)?)];
        let [qemu, daemon] = files.map(|file| file.as_ref().map(Stamp::of));
        let libraries = fs::metadata(LIBRARIES).ok().as_ref().map(Stamp::of);
        Ok(Self {
            boot_id: ProcessIdentity::boot_id()?,
            binary: binary.to_owned(),
            files: [qemu, daemon, libraries],
            rights,
            choices,
        })
    }

    /// Whether no file changed so lately that another change might not show.
    fn are_settled(&self, now: SystemTime) -> bool {
        self.files.iter().flatten().all(|stamp| stamp.is_settled(now))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tempfile::TempDir;

    use super::*;

    fn findings() -> Findings {
        Findings { version: "7.2.22".to_owned(), tsc_khz: Some(2_400_000), is_jailed: true }
    }

    /// A program and a record beside it.
    fn room() -> (TempDir, PathBuf, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let (binary, record) = (dir.path().join("qemu"), dir.path().join("qemu.json"));
        fs::write(&binary, "a program").unwrap();
        (dir, binary, record)
    }

    fn read(record: &Path, binary: &Path, choices: &str) -> Known {
        Known::read(Some(record), binary, choices.to_owned())
    }

    /// Keeps the findings, though the program is new.
    fn remember(record: &Path, binary: &Path) {
        let circumstances = read(record, binary, "jail auto").circumstances.unwrap();
        write_record(record, &Record { circumstances, findings: findings() }).unwrap();
    }

    #[test]
    fn findings_hold_until_something_changes() {
        let (_dir, binary, record) = room();
        assert_eq!(read(&record, &binary, "jail auto").findings(), None);
        remember(&record, &binary);
        assert_eq!(read(&record, &binary, "jail auto").findings(), Some(&findings()));
        assert_eq!(read(&record, &binary, "jail on").findings(), None);
        // Another program of that name and time.
        let modified = binary.metadata().unwrap().modified().unwrap();
        fs::write(&binary, "b program").unwrap();
        fs::File::options().write(true).open(&binary).unwrap().set_modified(modified).unwrap();
        assert_eq!(read(&record, &binary, "jail auto").findings(), None);
        remember(&record, &binary);
        fs::remove_file(&binary).unwrap();
        assert_eq!(read(&record, &binary, "jail auto").findings(), None);
    }

    #[test]
    fn another_boot_daemon_library_or_right_is_another_circumstance() {
        let (_dir, binary, record) = room();
        remember(&record, &binary);
        let edits: [fn(&mut Circumstances); 4] = [
            |now| now.boot_id.push('0'),
            |now| now.files[1] = None,
            |now| now.files[2] = now.files[0],
            |now| now.rights[0].push('1'),
        ];
        for edit in edits {
            let mut kept: Record = serde_json::from_slice(&fs::read(&record).unwrap()).unwrap();
            edit(&mut kept.circumstances);
            write_record(&record, &kept).unwrap();
            assert_eq!(read(&record, &binary, "jail auto").findings(), None);
            remember(&record, &binary);
            assert_eq!(read(&record, &binary, "jail auto").findings(), Some(&findings()));
        }
    }

    #[test]
    fn only_what_rests_is_kept() {
        let (_dir, new, record) = room();
        read(&record, &new, "").keep(findings());
        assert!(!record.exists());
        let circumstances = read(&record, &new, "").circumstances.unwrap();
        let now = SystemTime::now();
        assert!(!circumstances.are_settled(now));
        assert!(circumstances.are_settled(now + Duration::from_secs(60)));
    }

    #[test]
    fn garbage_is_nothing_and_no_record_is_none() {
        let (_dir, binary, record) = room();
        for garbage in ["", "{", "[]", r#"{"circumstances": 1}"#] {
            fs::write(&record, garbage).unwrap();
            assert_eq!(read(&record, &binary, "").findings(), None);
        }
        let known = Known::read(None, &binary, String::new());
        assert_eq!(known.findings(), None);
        known.keep(findings());
    }
}
