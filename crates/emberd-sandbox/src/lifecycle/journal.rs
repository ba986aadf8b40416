//! The journal of one sandbox: all that the next daemon needs to go on with it.
//!
//! ```text
//! making ─▶ pooled ─▶ running ◀──▶ frozen           each by write and rename
//!    └─────────────────▲  └────────────┴─▶ deleted  by a rename alone
//! ```
//! A reader finds one whole entry. It says what was decided, before anybody is told: a caller who
//! was promised a sandbox, or its end, finds the promise kept after a crash. Nothing is flushed to
//! the disk, because no microVM outlives its host.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use emberd_proto::{Metrics, PolicySpec};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::lease::{Boottime, IdlePolicy, Lease, Terms};
use crate::boot_path::{BootPath, BootTimes};
use crate::cpu::Cpu;

/// Version of the entries. One of another version is unreadable.
const VERSION: u32 = 2;

/// Name of the journal in the sandbox's directory.
const FILE_NAME: &str = "sandbox.json";
/// Its name while it is written.
const UNFINISHED: &str = "sandbox.json.new";
/// Its name once the sandbox is deleted.
const DELETED: &str = "sandbox.deleted";

/// Largest entry that is read, in bytes (4 MiB): metadata, variables and the policy have limits
/// far below it.
const ENTRY_BYTES_MAX: u64 = 4 << 20;

/// Where a sandbox is in its life, for the next daemon.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Stage {
    /// Its microVM is being made, and nobody has it.
    Making,
    /// The microVM waits in a pool.
    Pooled,
    /// A caller has it.
    Running,
    /// A caller has it, and its guest stands still, or is about to.
    Frozen,
}

/// Everything that is written.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Entry {
    version: u32,
    pub id: String,
    pub pack: String,
    pub vcpus: u8,
    pub memory_mib: u32,
    made_at_ms: u64,
    pub stage: Stage,
    /// When a caller asked for it.
    created_at_us: Option<u64>,
    origin: Option<Origin>,
    /// Digest of the key of the template that it was restored from.
    pub template: Option<String>,
    /// Text of the front end.
    pub tag: Option<String>,
    pub lease: LeaseEntry,
    cpu_percent: Option<u64>,
    cpu_weight: Option<u64>,
    pub env: BTreeMap<String, String>,
    /// Policy that its caller asked for; none if the daemon carries no connections.
    pub egress: Option<PolicySpec>,
    /// Use of the machine when it was frozen.
    pub metrics: Option<Metrics>,
}

/// Terms and deadline.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LeaseEntry {
    timeout_us: Option<u64>,
    /// On `CLOCK_BOOTTIME`. The record of the VMM says of which boot.
    deadline_us: Option<u64>,
    freeze_us: Option<u64>,
    ignore_programs: bool,
    auto_resume: bool,
    metadata: BTreeMap<String, String>,
}

/// How the microVM was made, and how long each part took.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Origin {
    boot_path: BootPathEntry,
    vmm_us: u64,
    load_us: Option<u64>,
    guest_us: u64,
    renew_us: Option<u64>,
    warm_up_us: Option<u64>,
    kernel_us: Option<u64>,
    init_us: Option<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum BootPathEntry {
    ColdBoot,
    SnapshotRestore,
    WarmPool,
}

impl Entry {
    /// The entry of a sandbox that is being made now.
    pub fn new(id: String, pack: String, vcpus: u8, memory_mib: u32) -> Self {
        Self {
            version: VERSION,
            id,
            pack,
            vcpus,
            memory_mib,
            made_at_ms: since_epoch(SystemTime::now()) / 1000,
            stage: Stage::Making,
            created_at_us: None,
            origin: None,
            template: None,
            tag: None,
            lease: LeaseEntry::default(),
            cpu_percent: None,
            cpu_weight: None,
            env: BTreeMap::new(),
            egress: None,
            metrics: None,
        }
    }

    /// When a caller asked for it.
    pub fn created_at(&self) -> Option<SystemTime> {
        self.created_at_us.map(|us| UNIX_EPOCH + Duration::from_micros(us))
    }

    pub fn set_created_at(&mut self, at: SystemTime) {
        self.created_at_us = Some(since_epoch(at));
    }

    /// Processor time that callers asked for. The host holds it.
    pub fn cpu(&self) -> Cpu {
        Cpu { percent: self.cpu_percent, weight: self.cpu_weight }
    }

    pub fn set_cpu(&mut self, cpu: Cpu) {
        (self.cpu_percent, self.cpu_weight) = (cpu.percent, cpu.weight);
    }

    /// How the microVM was made; none until its guest has answered.
    pub fn origin(&self) -> Option<(BootPath, BootTimes)> {
        self.origin.map(|origin| {
            let path = match origin.boot_path {
                BootPathEntry::ColdBoot => BootPath::ColdBoot,
                BootPathEntry::SnapshotRestore => BootPath::SnapshotRestore,
                BootPathEntry::WarmPool => BootPath::WarmPool,
            };
            let times = BootTimes {
                vmm: Duration::from_micros(origin.vmm_us),
                load: origin.load_us.map(Duration::from_micros),
                guest: Duration::from_micros(origin.guest_us),
                renew: origin.renew_us.map(Duration::from_micros),
                warm_up: origin.warm_up_us.map(Duration::from_micros),
                kernel: origin.kernel_us.map(Duration::from_micros),
                init: origin.init_us.map(Duration::from_micros),
            };
            (path, times)
        })
    }

    pub fn set_origin(&mut self, path: BootPath, times: &BootTimes) {
        let boot_path = match path {
            BootPath::ColdBoot => BootPathEntry::ColdBoot,
            BootPath::SnapshotRestore => BootPathEntry::SnapshotRestore,
            BootPath::WarmPool => BootPathEntry::WarmPool,
        };
        self.origin = Some(Origin {
            boot_path,
            vmm_us: micros(times.vmm),
            load_us: times.load.map(micros),
            guest_us: micros(times.guest),
            renew_us: times.renew.map(micros),
            warm_up_us: times.warm_up.map(micros),
            kernel_us: times.kernel.map(micros),
            init_us: times.init.map(micros),
        });
    }
}

impl LeaseEntry {
    pub fn of(lease: &Lease) -> Self {
        let Terms { timeout, idle, auto_resume, metadata } = &lease.terms;
        Self {
            timeout_us: timeout.map(micros),
            deadline_us: lease.deadline.map(Boottime::as_micros),
            freeze_us: idle.freeze.map(micros),
            ignore_programs: idle.ignore_programs,
            auto_resume: *auto_resume,
            metadata: metadata.clone(),
        }
    }

    /// The lease as it was. Time has gone on: it may end at once.
    pub fn lease(&self) -> Lease {
        let idle = IdlePolicy {
            freeze: self.freeze_us.map(Duration::from_micros),
            ignore_programs: self.ignore_programs,
        };
        let terms = Terms {
            timeout: self.timeout_us.map(Duration::from_micros),
            idle,
            auto_resume: self.auto_resume,
            metadata: self.metadata.clone(),
        };
        Lease::resumed(terms, self.deadline_us.map(Boottime::from_micros))
    }
}

/// Content of the directory of a sandbox.
#[derive(Debug)]
pub(crate) enum Found {
    /// An entry.
    Entry(Box<Entry>),
    /// Nothing: the sandbox was deleted, or its microVM was never finished.
    Nothing,
    /// Something else, or an entry of another version.
    Unreadable(String),
}

/// Reads the journal in `dir`.
pub(crate) fn find(dir: &Path) -> Found {
    if dir.join(DELETED).exists() {
        return Found::Nothing;
    }
    match read(&dir.join(FILE_NAME)) {
        Ok(entry) if entry.version != VERSION => {
            Found::Unreadable(format!("{FILE_NAME} is of version {}", entry.version))
        }
        Ok(entry) => Found::Entry(Box::new(entry)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Found::Nothing,
        Err(error) => Found::Unreadable(format!("{FILE_NAME}: {error}")),
    }
}

fn read(path: &Path) -> io::Result<Entry> {
    let mut json = Vec::new();
    fs::File::open(path)?.take(ENTRY_BYTES_MAX).read_to_end(&mut json)?;
    Ok(serde_json::from_slice(&json)?)
}

/// See the module.
pub(crate) struct Journal {
    dir: PathBuf,
    state: Mutex<State>,
}

struct State {
    entry: Entry,
    /// Whether the sandbox is deleted: nothing is written any more.
    is_over: bool,
    /// Whether the last change is not written.
    is_behind: bool,
}

impl Journal {
    /// The journal in `dir`, with `entry` in it, or to be written.
    pub fn new(dir: PathBuf, entry: Entry) -> Self {
        Self { dir, state: Mutex::new(State { entry, is_over: false, is_behind: false }) }
    }

    /// Writes the entry as `change` makes it. Of two changes at once, the second finds what the
    /// first did. After an error the change is kept, and written with the next one.
    pub fn write(&self, change: impl FnOnce(&mut Entry)) -> io::Result<()> {
        let mut state = self.state.lock();
        change(&mut state.entry);
        if state.is_over {
            return Ok(());
        }
        let written = self.replace(&state.entry);
        state.is_behind = written.is_err();
        written
    }

    fn replace(&self, entry: &Entry) -> io::Result<()> {
        let unfinished = self.dir.join(UNFINISHED);
        let json = serde_json::to_vec(entry)?;
        let mut options = OpenOptions::new();
        // The values of variables are the caller's secrets.
        let file = options.write(true).create(true).truncate(true).mode(0o600).open(&unfinished);
        file?.write_all(&json)?;
        fs::rename(&unfinished, self.dir.join(FILE_NAME))
    }

    /// Whether the last change could not be written.
    pub fn is_behind(&self) -> bool {
        let state = self.state.lock();
        state.is_behind && !state.is_over
    }

    /// Notes that the sandbox is deleted. A microVM that has no directory yet, or none any more,
    /// needs no note.
    pub fn end(&self) {
        let mut state = self.state.lock();
        if state.is_over {
            return;
        }
        state.is_over = true;
        match fs::rename(self.dir.join(FILE_NAME), self.dir.join(DELETED)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(%error, dir = %self.dir.display(), "a deletion is not recorded");
            }
            _ => {}
        }
    }
}

fn since_epoch(time: SystemTime) -> u64 {
    micros(time.duration_since(UNIX_EPOCH).unwrap_or_default())
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn entry() -> Entry {
        Entry::new("sb_0123456789ab".into(), "shell".into(), 1, 256)
    }

    fn found(dir: &Path) -> Entry {
        match find(dir) {
            Found::Entry(entry) => *entry,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn an_entry_comes_back_as_it_was_written() {
        let dir = tempfile::tempdir().unwrap();
        let journal = Journal::new(dir.path().into(), entry());
        let mut lease = Lease::default();
        lease.terms.timeout = Some(Duration::from_secs(60));
        lease.terms.idle.freeze = Some(Duration::from_secs(5));
        lease.terms.metadata.insert("a".into(), "b".into());
        lease.begin(Boottime::now());
        let change = |entry: &mut Entry| {
            entry.stage = Stage::Frozen;
            entry.lease = LeaseEntry::of(&lease);
            entry.set_created_at(UNIX_EPOCH + Duration::from_secs(7));
            entry.set_cpu(Cpu { percent: Some(50), weight: None });
            entry.env.insert("TOKEN".into(), "s3cret".into());
            entry.egress =
                Some(PolicySpec { allow: vec!["a.example".into()], ..Default::default() });
            entry.metrics = Some(Metrics { cpu_count: 3, ..Metrics::default() });
        };
        journal.write(change).unwrap();
        let mut expect = entry();
        change(&mut expect);
        let read = found(dir.path());
        expect.made_at_ms = read.made_at_ms;
        assert_eq!(read, expect);
        assert_eq!(read.created_at(), Some(UNIX_EPOCH + Duration::from_secs(7)));
        let resumed = read.lease.lease();
        assert_eq!(resumed.terms, lease.terms);
        let [before, after] = [&lease, &resumed].map(|lease| lease.deadline.unwrap().as_micros());
        assert_eq!(before, after);
        let mode = dir.path().join(FILE_NAME).metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn torn_foreign_and_missing_entries_are_told_apart() {
        let dir = tempfile::tempdir().unwrap();
        assert!(matches!(find(dir.path()), Found::Nothing));
        let path = dir.path().join(FILE_NAME);
        let whole = serde_json::to_string(&entry()).unwrap();
        let newer = whole.replacen("\"version\":2", "\"version\":3", 1);
        for text in ["", "{", &whole[..whole.len() / 2], "{}", &"[".repeat(100_000), &newer] {
            fs::write(&path, text).unwrap();
            assert!(matches!(find(dir.path()), Found::Unreadable(_)), "{text:.20}");
        }
        // One that was being written when its daemon was killed changes nothing.
        fs::write(&path, &whole).unwrap();
        fs::write(dir.path().join(UNFINISHED), &whole[..9]).unwrap();
        assert_eq!(found(dir.path()).stage, Stage::Making);
        Journal::new(dir.path().into(), entry())
            .write(|entry| entry.stage = Stage::Running)
            .unwrap();
        assert_eq!(found(dir.path()).stage, Stage::Running);
    }

    #[test]
    fn nothing_is_written_after_the_deletion() {
        let dir = tempfile::tempdir().unwrap();
        let journal = Journal::new(dir.path().into(), entry());
        journal.write(|_| {}).unwrap();
        journal.end();
        journal.write(|entry| entry.stage = Stage::Running).unwrap();
        assert!(matches!(find(dir.path()), Found::Nothing));
        let left: Vec<_> =
            fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(left, [DELETED]);
        // Also where there is nothing to delete.
        Journal::new(dir.path().join("gone"), entry()).end();
    }

    #[test]
    fn a_change_that_cannot_be_written_is_written_with_the_next() {
        let dir = tempfile::tempdir().unwrap();
        let absent = dir.path().join("later");
        let journal = Journal::new(absent.clone(), entry());
        journal.write(|entry| entry.stage = Stage::Running).unwrap_err();
        assert!(journal.is_behind());
        fs::create_dir(&absent).unwrap();
        journal.write(|_| {}).unwrap();
        assert!(!journal.is_behind());
        assert_eq!(found(&absent).stage, Stage::Running);
    }
}
