//! The operator's log of egress: records of all sandboxes, one JSON object a line.
//!
//! The file and the one before it, with `.1` at the end of its name, take 64 MiB together. A full
//! disk costs records, not connections; a line `{"gap":N}` tells how many.

use std::fs::{File, OpenOptions, rename};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use emberd_egress::SandboxEgress;
use emberd_sandbox::SandboxId;
use parking_lot::Mutex;
use serde_json::json;
use tokio::task::spawn_blocking;
use tokio_util::task::TaskTracker;

use crate::egress_record;

/// Largest file, in bytes (32 MiB); there are two.
const FILE_BYTES_MAX: u64 = 32 << 20;

/// Most records that are written at once.
const RECORDS_AT_ONCE: usize = 256;

/// The operator's log. Clones share the file.
#[derive(Debug, Clone)]
pub struct EgressLog {
    file: Arc<Mutex<LogFile>>,
    followers: TaskTracker,
}

#[derive(Debug)]
struct LogFile {
    path: PathBuf,
    file: File,
    bytes: u64,
    bytes_max: u64,
    /// Lines that could not be written since the last that could.
    lost: u64,
}

impl EgressLog {
    /// Opens the file, and goes on at its end. Blocks.
    ///
    /// # Errors
    /// The file cannot be opened.
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = LogFile::open(path, FILE_BYTES_MAX)?;
        Ok(Self { file: Arc::new(Mutex::new(file)), followers: TaskTracker::new() })
    }

    /// Writes the records of a sandbox from now on, until it ends.
    pub fn follow(&self, id: SandboxId, egress: SandboxEgress) {
        let log = self.clone();
        self.followers.spawn(async move {
            let mut after = 0;
            loop {
                // Asked first: what is recorded before the end is read after it.
                let is_over = egress.is_closed();
                let page = egress.log(after, None, RECORDS_AT_ONCE);
                let is_done = page.records.is_empty();
                after = page.next;
                let mut lines = Vec::new();
                if page.gap > 0 {
                    add(&mut lines, &json!({ "sandbox": id.to_string(), "gap": page.gap }));
                }
                for record in page.records {
                    add(&mut lines, &egress_record::body(id, record));
                }
                log.write(lines).await;
                match (is_done, is_over) {
                    (true, true) => return,
                    (true, false) => egress.recorded(after).await,
                    (false, _) => {}
                }
            }
        });
    }

    /// Waits until the records of all sandboxes, which must have ended, are written.
    pub async fn written(&self) {
        self.followers.close();
        self.followers.wait().await;
    }

    async fn write(&self, lines: Vec<u8>) {
        if lines.is_empty() {
            return;
        }
        let file = Arc::clone(&self.file);
        let written = spawn_blocking(move || file.lock().write(lines)).await;
        if let Err(panicked) = written {
            std::panic::resume_unwind(panicked.into_panic());
        }
    }
}

fn add(lines: &mut Vec<u8>, value: &impl serde::Serialize) {
    serde_json::to_writer(&mut *lines, value).expect("records have string keys only");
    lines.push(b'\n');
}

impl LogFile {
    fn open(path: &Path, bytes_max: u64) -> io::Result<Self> {
        // Hosts and paths that programs asked for concern their owners only.
        let file = OpenOptions::new().append(true).create(true).mode(0o600).open(path)?;
        let bytes = file.metadata()?.len();
        Ok(Self { path: path.to_owned(), file, bytes, bytes_max, lost: 0 })
    }

    /// Appends whole lines, or counts them as lost. Says so once until lines can be written again.
    fn write(&mut self, mut lines: Vec<u8>) {
        let count = lines.split(|byte| *byte == b'\n').count() as u64 - 1;
        if self.lost > 0 {
            let mut gap = Vec::new();
            add(&mut gap, &json!({ "gap": self.lost }));
            lines.splice(..0, gap);
        }
        match self.append(&lines) {
            Ok(()) if self.lost > 0 => {
                let lost = std::mem::take(&mut self.lost);
                tracing::info!(lost, "writing to the egress log again");
            }
            Ok(()) => {}
            Err(error) => {
                if self.lost == 0 {
                    tracing::warn!(%error, "losing records, because the egress log takes none");
                }
                self.lost += count;
            }
        }
    }

    /// Appends to the file; begins another one first if this one is full.
    fn append(&mut self, lines: &[u8]) -> io::Result<()> {
        let count = lines.len() as u64;
        if self.bytes > 0 && self.bytes + count > self.bytes_max {
            let mut before = self.path.clone().into_os_string();
            before.push(".1");
            match rename(&self.path, before) {
                // Another file could not be begun the last time.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                renamed => renamed?,
            }
            *self = Self { lost: self.lost, ..Self::open(&self.path, self.bytes_max)? };
        }
        let mut written = 0;
        while written < lines.len() {
            match self.file.write(&lines[written..]) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    // Half a line would spoil the one after it.
                    let end = self.file.metadata()?.len();
                    self.file.set_len(end.saturating_sub(written as u64))?;
                    return Err(error);
                }
                Ok(bytes) => written += bytes,
            }
        }
        self.bytes += count;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_files_are_kept() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("egress.jsonl");
        let mut log = LogFile::open(&path, 10).unwrap();
        for line in ["one\n", "two\n", "three\n", "four\n"] {
            log.write(line.into());
        }
        let read = |name: &str| std::fs::read_to_string(dir.path().join(name)).unwrap();
        assert_eq!(
            (read("egress.jsonl"), read("egress.jsonl.1")),
            ("four\n".into(), "three\n".into())
        );
        // A later daemon goes on at the end.
        let mut log = LogFile::open(&path, 10).unwrap();
        log.write(b"five\n".into());
        assert_eq!(read("egress.jsonl"), "four\nfive\n");
        // A file that could not be begun is begun later.
        std::fs::remove_file(&path).unwrap();
        log.write(b"six\n".into());
        assert_eq!(read("egress.jsonl"), "six\n");
        assert_eq!(log.lost, 0);
    }

    #[test]
    fn lost_lines_are_counted_and_nothing_is_half_written() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("egress.jsonl");
        let mut log = LogFile::open(&path, 1 << 20).unwrap();
        log.write(b"one\n".into());
        let writable = std::mem::replace(&mut log.file, File::open(&path).unwrap());
        log.write(b"two\nthree\n".into());
        log.write(b"four\n".into());
        log.file = writable;
        log.write(b"five\n".into());
        log.write(b"six\n".into());
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(text, "one\n{\"gap\":3}\nfive\nsix\n");
    }
}
