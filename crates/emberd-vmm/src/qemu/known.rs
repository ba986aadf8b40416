//! Findings of an earlier start, which ran QEMU for them: a daemon that starts again on a busy host
//! runs it only if something has changed.
//!
//! They hold for one boot of the host, one QEMU with its libraries, one daemon with its rights, and
//! one configuration. The time of the last change of an inode is trusted, because no program sets
//! it. A jail that was refused is tried again at every start.

use std::fs::{self, Metadata, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use crate::record::ProcessIdentity;

/// The loader's list of libraries, which is written again when one of them is installed.
const LIBRARIES: &str = "/etc/ld.so.cache";

/// The daemon's own program.
const DAEMON: &str = "/proc/self/exe";

/// Lines of `/proc/self/status` with the rights of the daemon.
const RIGHTS: [&str; 7] =
    ["Uid:", "Gid:", "CapEff:", "CapBnd:", "NoNewPrivs:", "Seccomp:", "Seccomp_filters:"];

/// Age of the last change of a program from which findings about it are kept. Clocks of file
/// systems tick every few milliseconds, some every two seconds.
const SETTLED: Duration = Duration::from_secs(2);

/// Longest record that is read, in bytes.
const RECORD_BYTES_MAX: u64 = 64 << 10;

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

/// State of a file, by which a change is noticed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Stamp {
    device: u64,
    inode: u64,
    size_bytes: u64,
    /// Seconds since the epoch, and nanoseconds.
    modified: (i64, i64),
    changed: (i64, i64),
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
        let is_short =
            |path: &&Path| path.metadata().is_ok_and(|metadata| metadata.len() <= RECORD_BYTES_MAX);
        let json = record.filter(is_short).and_then(|path| fs::read(path).ok());
        let kept: Option<Record> = json.and_then(|json| serde_json::from_slice(&json).ok());
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
        drop(write(&record, &Record { circumstances, findings }));
    }
}

fn write(path: &Path, record: &Record) -> io::Result<()> {
    let json = serde_json::to_vec(record)?;
    let mut builder = tempfile::Builder::new();
    let dir = path.parent().unwrap_or(Path::new("."));
    let new = builder.permissions(Permissions::from_mode(0o644)).tempfile_in(dir)?;
    fs::write(new.path(), json)?;
    new.persist(path)?;
    Ok(())
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

impl Stamp {
    fn of(metadata: &Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size_bytes: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }

    fn is_settled(&self, now: SystemTime) -> bool {
        let now = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        // Fits for 290 billion years.
        let settled = i64::try_from(now.saturating_sub(SETTLED).as_secs()).unwrap_or_default();
        self.changed.0 < settled
    }
}

#[cfg(test)]
mod tests {
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
        write(record, &Record { circumstances, findings: findings() }).unwrap();
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
            write(&record, &kept).unwrap();
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
        let mut circumstances = read(&record, &new, "").circumstances.unwrap();
        for stamp in circumstances.files.iter_mut().flatten() {
            stamp.changed = (100, 0);
        }
        let settled_at =
            |secs| circumstances.are_settled(SystemTime::UNIX_EPOCH + Duration::from_secs(secs));
        assert_eq!([0, 100, 102, 103].map(settled_at), [false, false, false, true]);
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
