//! The journal as recorders hold it: a bounded queue, and the thread that writes.

use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use emberd_api::AuditRecord;
use parking_lot::{Condvar, Mutex};
use tokio::sync::watch;

use crate::disk::{Disk, about};
use crate::options::{OpenError, Options};

/// Most records that wait to be written, also while the disk takes none. Each has at most some
/// KiB.
const QUEUE_RECORDS_MAX: usize = 16_384;

/// Pause after a batch, in which the next one gathers: recorders seldom wake the writer.
const GATHER: Duration = Duration::from_millis(10);

/// Time from one sync to the next.
const SYNC_EVERY: Duration = Duration::from_secs(1);

/// Pause before what could not be written is tried again.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// The journal. Clones share it.
#[derive(Debug, Clone)]
pub struct Journal(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    dir: PathBuf,
    queue: Mutex<Queue>,
    /// Notified when the queue has something for a writer that waits.
    wake: Condvar,
    /// Number of the last line that is written.
    written: watch::Sender<u64>,
    is_failing: AtomicBool,
    lines: AtomicU64,
    lost: AtomicU64,
    failures: AtomicU64,
    writer: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Debug, Default)]
struct Queue {
    records: VecDeque<AuditRecord>,
    /// Records that the writer has taken and not written.
    in_hand: usize,
    /// Records that found the queue full since the writer was told last.
    lost: u64,
    is_waiting: bool,
    is_closing: bool,
}

impl Queue {
    fn is_full(&self) -> bool {
        self.records.len() + self.in_hand >= QUEUE_RECORDS_MAX
    }
}

/// State of a journal, and counts of its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Figures {
    /// Lines that were written.
    pub lines: u64,
    /// Records that are not in it, because the queue was full.
    pub lost: u64,
    /// Attempts to write or to sync that failed.
    pub failures: u64,
    /// Records that wait to be written.
    pub waiting: usize,
    /// Whether the last attempt failed.
    pub is_failing: bool,
}

impl Journal {
    /// Opens the journal, mends a torn last line, and starts the writer. Blocks.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn open(options: Options) -> Result<Self, OpenError> {
        let dir = options.dir.clone();
        let (disk, mended) = Disk::open(options)?;
        let shared = Arc::new(Shared {
            dir: dir.clone(),
            queue: Mutex::new(Queue { records: mended.into(), ..Queue::default() }),
            wake: Condvar::new(),
            written: watch::Sender::new(disk.seq()),
            is_failing: AtomicBool::new(false),
            lines: AtomicU64::new(0),
            lost: AtomicU64::new(0),
            failures: AtomicU64::new(0),
            writer: Mutex::new(None),
        });
        let of_writer = Arc::clone(&shared);
        let thread = std::thread::Builder::new().name("emberd-audit".to_owned());
        let writer = thread.spawn(move || Writer::new(&of_writer, disk).run());
        *shared.writer.lock() = Some(writer.map_err(OpenError::io(dir))?);
        Ok(Self(shared))
    }

    /// Has `record` written; its number and digest are filled in. Waits for nothing. A record is
    /// lost, and counted, where too many wait.
    pub fn record(&self, record: AuditRecord) {
        drop(self.put(record));
    }

    /// As [`Self::record`]; the record has its place among the others at once, and the writer is
    /// woken when the returned value is dropped.
    pub fn put(&self, record: AuditRecord) -> Wake {
        let mut queue = self.0.queue.lock();
        if queue.is_full() {
            queue.lost += 1;
            self.0.lost.fetch_add(1, Ordering::Relaxed);
            return Wake(None);
        }
        queue.records.push_back(record);
        let is_waiting = std::mem::take(&mut queue.is_waiting);
        Wake(is_waiting.then(|| Arc::clone(&self.0)))
    }

    /// Whether the last attempt to write failed, or the next record would be lost.
    pub fn is_failing(&self) -> bool {
        self.0.is_failing.load(Ordering::Relaxed) || self.0.queue.lock().is_full()
    }

    /// State, and counts so far.
    pub fn figures(&self) -> Figures {
        let queue = self.0.queue.lock();
        Figures {
            lines: self.0.lines.load(Ordering::Relaxed),
            lost: self.0.lost.load(Ordering::Relaxed),
            failures: self.0.failures.load(Ordering::Relaxed),
            waiting: queue.records.len() + queue.in_hand,
            is_failing: self.0.is_failing.load(Ordering::Relaxed) || queue.is_full(),
        }
    }

    /// Its directory.
    pub fn dir(&self) -> &Path {
        &self.0.dir
    }

    /// Waits until a line after number `after` is written.
    pub fn written(&self, after: u64) -> impl Future<Output = ()> + Send + use<> {
        let mut written = self.0.written.subscribe();
        async move {
            // Fails when the journal is dropped.
            written.wait_for(|written| *written > after).await.ok();
        }
    }

    /// Writes what waits, and ends the writer. Records after that are lost. Blocks.
    pub fn close(&self) {
        self.0.queue.lock().is_closing = true;
        self.0.wake.notify_one();
        let writer = self.0.writer.lock().take();
        if let Some(Err(panic)) = writer.map(JoinHandle::join) {
            std::panic::resume_unwind(panic);
        }
    }
}

/// Wakes the writer, where it waits for that, when it is dropped.
#[derive(Debug)]
#[must_use]
pub struct Wake(Option<Arc<Shared>>);

impl Drop for Wake {
    fn drop(&mut self) {
        if let Some(shared) = &self.0 {
            shared.wake.notify_one();
        }
    }
}

/// The thread that writes.
struct Writer<'a> {
    shared: &'a Shared,
    disk: Disk,
    /// Records that are taken from the queue and not written.
    batch: VecDeque<AuditRecord>,
    sync_at: Instant,
    /// When to try again what failed.
    retry_at: Option<Instant>,
}

impl<'a> Writer<'a> {
    fn new(shared: &'a Shared, disk: Disk) -> Self {
        let sync_at = Instant::now() + SYNC_EVERY;
        Self { shared, disk, batch: VecDeque::new(), sync_at, retry_at: None }
    }

    fn run(mut self) {
        loop {
            let is_closing = self.gather();
            self.attempt();
            if is_closing {
                let ended = self.disk.end();
                self.judge(ended);
                let lost = self.batch.len();
                if lost > 0 {
                    tracing::error!(
                        lost,
                        "the audit journal takes no records, and the daemon ends"
                    );
                }
                return;
            }
            if self.retry_at.is_none() {
                std::thread::sleep(GATHER);
            }
        }
    }

    /// Waits for records, or until there is something else to do, and takes what there is. Returns
    /// whether the journal is closing.
    fn gather(&mut self) -> bool {
        let mut queue = self.shared.queue.lock();
        loop {
            let is_due = match self.retry_at {
                Some(at) => at <= Instant::now(),
                None => !queue.records.is_empty() || self.is_sync_due(),
            };
            if is_due || queue.is_closing {
                break;
            }
            let until = self.retry_at.or_else(|| self.disk.is_dirty().then_some(self.sync_at));
            queue.is_waiting = self.retry_at.is_none();
            match until {
                Some(until) => _ = self.shared.wake.wait_until(&mut queue, until),
                None => self.shared.wake.wait(&mut queue),
            }
        }
        queue.is_waiting = false;
        self.batch.append(&mut queue.records);
        let lost = std::mem::take(&mut queue.lost);
        if lost > 0 {
            self.note_lost(lost);
        }
        queue.in_hand = self.batch.len();
        queue.is_closing
    }

    fn is_sync_due(&self) -> bool {
        self.disk.is_dirty() && self.sync_at <= Instant::now()
    }

    /// Adds a record of records that are lost, or their number to that of the last such record.
    fn note_lost(&mut self, more: u64) {
        let told = self.batch.back_mut().filter(|record| record.action == "lose_records");
        if let Some(told) = told {
            told.left_out = told.left_out.map(|before| before + more);
            return;
        }
        self.batch.push_back(AuditRecord { left_out: Some(more), ..about("lose_records") });
    }

    /// Writes the batch, and syncs if that is due.
    fn attempt(&mut self) {
        let before = self.disk.seq();
        let appended = self.disk.append(&mut self.batch);
        let written = self.disk.seq();
        self.shared.lines.fetch_add(written - before, Ordering::Relaxed);
        self.shared.queue.lock().in_hand = self.batch.len();
        if written > before {
            self.shared.written.send_replace(written);
        }
        let mut done = appended;
        if done.is_ok() && self.is_sync_due() {
            done = self.disk.sync();
            self.sync_at = Instant::now() + SYNC_EVERY;
        }
        self.judge(done);
    }

    /// Notes how an attempt went, and says so where that has changed.
    fn judge(&mut self, done: io::Result<()>) {
        match done {
            Ok(()) => {
                self.retry_at = None;
                if self.shared.is_failing.swap(false, Ordering::Relaxed) {
                    tracing::info!("writing the audit journal again");
                }
            }
            Err(error) => {
                self.retry_at = Some(Instant::now() + RETRY_AFTER);
                self.shared.failures.fetch_add(1, Ordering::Relaxed);
                if !self.shared.is_failing.swap(true, Ordering::Relaxed) {
                    let dir = self.shared.dir.display();
                    tracing::error!(%error, %dir, "cannot write the audit journal");
                }
            }
        }
    }
}
