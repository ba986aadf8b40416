//! The journal of one sandbox: all that the next daemon needs to go on with it.
//!
//! ```text
//! making ─▶ pooled ─▶ running ◀──▶ frozen           each a line
//!    └─────────────────▲  └────────────┴─▶ deleted  by a rename
//! ```
//! The last whole line is the entry that holds. It says what was decided, before anybody is told:
//! a caller who was promised a sandbox, or its end, finds the promise kept after a crash. Nothing
//! is flushed to the disk, because no microVM outlives its host.
//!
//! Only the first line, one after a line that failed or may be torn, and one of a long file
//! replace the file. Replacing takes ten times as long on ext4, which then allocates its blocks.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use emberd_proto::{GuestLimits, Metrics, PolicySpec};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::lease::{Boottime, Lease, Terms};
use super::url_key::UrlSecret;
use crate::boot_path::{BootPath, BootTimes};
use crate::cpu::Cpu;

/// Version of the entries. One of another version is unreadable.
const VERSION: u32 = 3;

/// Name of the journal in the sandbox's directory.
const FILE_NAME: &str = "sandbox.jsonl";
/// Its name while it is replaced.
const UNFINISHED: &str = "sandbox.jsonl.new";
/// Its name once the sandbox is deleted.
const DELETED: &str = "sandbox.deleted";

/// Length from which the file is replaced by its last line, in bytes (64 KiB): some hundred
/// changes.
const REPLACED_FROM_BYTES: u64 = 64 << 10;

/// Largest journal that is read, in bytes (4 MiB): metadata, variables and the policy have limits
/// far below it.
const JOURNAL_BYTES_MAX: u64 = 4 << 20;

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
    pub stage: Stage,
    /// When a caller asked for it.
    pub created_at: Option<SystemTime>,
    /// How the microVM was made; none until its guest has answered.
    pub origin: Option<Origin>,
    /// Digest of the key of the template that it was restored from.
    pub template: Option<String>,
    /// Text of the front end.
    pub tag: Option<String>,
    /// Owner of the sandbox.
    #[serde(default)]
    pub owner: Option<String>,
    pub lease: LeaseEntry,
    /// Processor time that callers asked for. The host holds it.
    pub cpu: Cpu,
    /// Limits that its guest holds.
    #[serde(default)]
    pub limits: GuestLimits,
    pub env: BTreeMap<String, String>,
    /// Policy that its caller asked for; none if the daemon carries no connections.
    pub egress: Option<PolicySpec>,
    /// The most that it may reach, beside what the operator permits.
    #[serde(default)]
    pub egress_ceiling: Option<Vec<String>>,
    /// Secret of the key that signs URLs of its ports.
    #[serde(default)]
    pub url_secret: Option<UrlSecret>,
    /// Use of the machine when it was frozen.
    pub metrics: Option<Metrics>,
}

/// Terms and deadline.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LeaseEntry {
    terms: Terms,
    /// On `CLOCK_BOOTTIME`. The record of the VMM says of which boot.
    deadline_us: Option<u64>,
}

/// How a microVM was made, and how long each part took.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Origin {
    pub boot_path: BootPath,
    pub boot: BootTimes,
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
            stage: Stage::Making,
            created_at: None,
            origin: None,
            template: None,
            tag: None,
            owner: None,
            lease: LeaseEntry::default(),
            cpu: Cpu::default(),
            limits: GuestLimits::default(),
            env: BTreeMap::new(),
            egress: None,
            egress_ceiling: None,
            url_secret: None,
            metrics: None,
        }
    }
}

impl LeaseEntry {
    pub fn of(lease: &Lease) -> Self {
        let deadline_us = lease.deadline.map(Boottime::as_micros);
        Self { terms: lease.terms.clone(), deadline_us }
    }

    /// The lease as it was. Time has gone on: it may end at once.
    pub fn lease(&self) -> Lease {
        Lease::resumed(self.terms.clone(), self.deadline_us.map(Boottime::from_micros))
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
    let mut lines = Vec::new();
    File::open(path)?.take(JOURNAL_BYTES_MAX).read_to_end(&mut lines)?;
    // A line without an end was being written when its daemon was killed.
    let mut pieces = lines.rsplitn(3, |byte| *byte == b'\n').skip(1);
    Ok(serde_json::from_slice(pieces.next().unwrap_or_default())?)
}

/// See the module.
pub(crate) struct Journal {
    dir: PathBuf,
    state: Mutex<State>,
}

struct State {
    entry: Entry,
    /// Length of the file, if every line in it is whole.
    length: Option<u64>,
    /// The file, while a pool has the sandbox: a caller waits for the next line.
    file: Option<File>,
    /// Whether the sandbox is deleted: nothing is written any more.
    is_over: bool,
    /// Whether the last change is not written.
    is_behind: bool,
}

impl Journal {
    /// The journal in `dir`, with `entry` in it, or to be written.
    pub fn new(dir: PathBuf, entry: Entry) -> Self {
        let state = State { entry, length: None, file: None, is_over: false, is_behind: false };
        Self { dir, state: Mutex::new(state) }
    }

    /// Writes the entry as `change` makes it. Of two changes at once, the second finds what the
    /// first did. After an error the change is kept, and written with the next one.
    pub fn write(&self, change: impl FnOnce(&mut Entry)) -> io::Result<()> {
        let mut state = self.state.lock();
        change(&mut state.entry);
        if state.is_over {
            return Ok(());
        }
        let mut line = serde_json::to_vec(&state.entry)?;
        line.push(b'\n');
        let length = state.length.take().filter(|length| *length < REPLACED_FROM_BYTES);
        let written = self.append_or_replace(length, state.file.take(), &line);
        state.is_behind = written.is_err();
        let (file, length) = written?;
        state.length = Some(length);
        state.file = (state.entry.stage == Stage::Pooled).then_some(file);
        Ok(())
    }

    /// Writes `line` behind `length` whole bytes, if there are some, of the file, which may be
    /// open; returns the file and its new length.
    fn append_or_replace(
        &self,
        length: Option<u64>,
        open: Option<File>,
        line: &[u8],
    ) -> io::Result<(File, u64)> {
        let added = line.len() as u64;
        if let Some(length) = length {
            let open = open.filter(is_in_place);
            match open.map_or_else(|| self.open(), Ok) {
                // A microVM that could not be restored is booted in a new directory.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                file => return Ok((append(file?, line)?, length + added)),
            }
        }
        Ok((self.replace(line)?, added))
    }

    fn open(&self) -> io::Result<File> {
        OpenOptions::new().append(true).open(self.dir.join(FILE_NAME))
    }

    fn replace(&self, line: &[u8]) -> io::Result<File> {
        let unfinished = self.dir.join(UNFINISHED);
        let mut options = OpenOptions::new();
        // The values of variables are the caller's secrets.
        let file = options.write(true).create(true).truncate(true).mode(0o600).open(&unfinished);
        let file = append(file?, line)?;
        fs::rename(&unfinished, self.dir.join(FILE_NAME))?;
        Ok(file)
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

/// Whether the file still has a name.
fn is_in_place(file: &File) -> bool {
    file.metadata().is_ok_and(|metadata| metadata.nlink() > 0)
}

/// Writes `line` at the end of `file`.
fn append(mut file: File, line: &[u8]) -> io::Result<File> {
    file.write_all(line)?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;
    use crate::lifecycle::url_key::UrlKey;

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
        let url_secret = UrlKey::generate().secret();
        let change = |entry: &mut Entry| {
            entry.stage = Stage::Frozen;
            entry.owner = Some("key:0123abcd".into());
            entry.lease = LeaseEntry::of(&lease);
            entry.created_at = Some(UNIX_EPOCH + Duration::from_secs(7));
            entry.cpu = Cpu { percent: Some(50), weight: None };
            entry.limits = GuestLimits { pids: Some(64), disk_mib: Some(4096) };
            entry.env.insert("TOKEN".into(), "s3cret".into());
            entry.egress =
                Some(PolicySpec { allow: vec!["a.example".into()], ..Default::default() });
            entry.egress_ceiling = Some(vec!["*.example".into()]);
            entry.url_secret = Some(url_secret.clone());
            entry.metrics = Some(Metrics { cpu_count: 3, ..Metrics::default() });
        };
        journal.write(change).unwrap();
        let mut expect = entry();
        change(&mut expect);
        let read = found(dir.path());
        assert_eq!(read, expect);
        assert_eq!(read.created_at, Some(UNIX_EPOCH + Duration::from_secs(7)));
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
        let whole = serde_json::to_string(&entry()).unwrap() + "\n";
        let newer = whole.replacen("\"version\":3", "\"version\":4", 1);
        let torn = &whole[..whole.len() / 2];
        for text in ["", "{\n", torn, "{}\n", &("[".repeat(100_000) + "\n"), &newer] {
            fs::write(&path, text).unwrap();
            assert!(matches!(find(dir.path()), Found::Unreadable(_)), "{text:.20}");
        }
        // One that was being written when its daemon was killed changes nothing, and the next
        // daemon writes after none such.
        fs::write(&path, whole.clone() + torn).unwrap();
        fs::write(dir.path().join(UNFINISHED), torn).unwrap();
        assert_eq!(found(dir.path()).stage, Stage::Making);
        let journal = Journal::new(dir.path().into(), entry());
        for stage in [Stage::Running, Stage::Frozen] {
            journal.write(|entry| entry.stage = stage).unwrap();
            assert_eq!(found(dir.path()).stage, stage);
        }
        assert_eq!(fs::read_to_string(&path).unwrap().lines().count(), 2);
    }

    #[test]
    fn a_long_journal_is_replaced_by_its_last_line() {
        let dir = tempfile::tempdir().unwrap();
        let journal = Journal::new(dir.path().into(), entry());
        let length = || dir.path().join(FILE_NAME).metadata().unwrap().len();
        let mut lengths = Vec::new();
        for n in 0..1_000 {
            journal.write(|entry| entry.tag = Some(n.to_string())).unwrap();
            assert_eq!(found(dir.path()).tag, Some(n.to_string()));
            lengths.push(length());
        }
        let line = lengths[0] + 8;
        assert!(lengths.iter().all(|length| *length < REPLACED_FROM_BYTES + line));
        assert!(lengths.windows(2).any(|two| two[1] <= line), "it was never replaced");
        // A line larger than that is one too.
        let value = "x".repeat(usize::try_from(REPLACED_FROM_BYTES).unwrap());
        for _ in 0..2 {
            journal.write(|entry| drop(entry.env.insert("A".into(), value.clone()))).unwrap();
            assert_eq!(found(dir.path()).env["A"], value);
        }
        assert!(length() < 2 * REPLACED_FROM_BYTES);
    }

    #[test]
    fn the_file_of_a_pooled_sandbox_stays_open_until_its_next_line() {
        let dir = tempfile::tempdir().unwrap();
        let journal = Journal::new(dir.path().into(), entry());
        let path = dir.path().join(FILE_NAME);
        let write = |stage| {
            journal.write(|entry| entry.stage = stage).unwrap();
            assert_eq!(found(dir.path()).stage, stage);
            let state = journal.state.lock();
            assert_eq!(state.file.is_some(), stage == Stage::Pooled, "{stage:?}");
            assert_eq!(state.length, Some(path.metadata().unwrap().len()));
            fs::read_to_string(&path).unwrap().lines().count()
        };
        let stages = [Stage::Making, Stage::Pooled, Stage::Running, Stage::Frozen, Stage::Pooled];
        assert_eq!(stages.map(write), [1, 2, 3, 4, 5]);
        // One that is gone is not written to.
        fs::remove_file(&path).unwrap();
        assert_eq!(write(Stage::Running), 1);
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
        // A line that may be torn is followed by none.
        let path = absent.join(FILE_NAME);
        let whole = fs::read(&path).unwrap();
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        journal.write(|entry| entry.stage = Stage::Frozen).unwrap_err();
        fs::remove_dir(&path).unwrap();
        fs::write(&path, [&whole[..], &whole[..9]].concat()).unwrap();
        journal.write(|_| {}).unwrap();
        assert_eq!(found(&absent).stage, Stage::Frozen);
        // So is one whose directory was made once more.
        fs::remove_file(&path).unwrap();
        journal.write(|entry| entry.stage = Stage::Running).unwrap();
        assert_eq!(found(&absent).stage, Stage::Running);
    }
}
