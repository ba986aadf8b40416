//! The audit journal of the daemon: what is recorded in it, and who waits for it.
//!
//! No content is: of a request the operation, the sandbox, the principal and the outcome, of a
//! connection where it went to. Code, variables, files, paths and queries are never looked at.

use std::sync::Arc;
use std::time::SystemTime;

use emberd_api::{AuditEgress, AuditRecord};
use emberd_audit::{Journal, OpenError, Options, Wake};
use emberd_config::{AuditChoice, AuditOptions};
use emberd_egress::{Record, SandboxEgress};
use emberd_sandbox::SandboxId;
use parking_lot::Mutex;
use tokio::sync::Semaphore;
use tokio_util::task::TaskTracker;

use crate::egress_record;
use crate::log::Bucket;

/// Most requests that read the journal at once; each may read much of it.
const READERS_MAX: usize = 4;

/// Most records of connections that are taken from a sandbox at once.
const RECORDS_AT_ONCE: usize = 256;

/// The audit journal of a daemon, or none. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct Audit(Option<Arc<Inner>>);

#[derive(Debug)]
struct Inner {
    journal: Journal,
    /// Whether what cannot be recorded must not happen.
    is_required: bool,
    refusals: Mutex<Refusals>,
    followers: TaskTracker,
    readers: Arc<Semaphore>,
}

/// How often callers whom nobody knows were refused.
#[derive(Debug, Default)]
struct Refusals {
    bucket: Bucket,
    left_out: u64,
}

impl Audit {
    /// Opens the journal that is configured, if any is. Blocks.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn open(options: &AuditOptions) -> Result<Self, OpenError> {
        if options.choice == AuditChoice::Off {
            return Ok(Self(None));
        }
        let journal = Journal::open(Options {
            dir: options.dir.clone(),
            file_bytes_max: options.file_mib << 20,
            keep: options.keep,
            keep_bytes: options.keep_mib << 20,
        })?;
        Ok(Self(Some(Arc::new(Inner {
            journal,
            is_required: options.choice == AuditChoice::Required,
            refusals: Mutex::default(),
            followers: TaskTracker::new(),
            readers: Arc::new(Semaphore::new(READERS_MAX)),
        }))))
    }

    /// The journal, if there is one.
    pub fn journal(&self) -> Option<&Journal> {
        self.0.as_ref().map(|inner| &inner.journal)
    }

    /// Whether nothing may happen that would be recorded, because it cannot be.
    pub fn refuses(&self) -> bool {
        self.0.as_ref().is_some_and(|inner| inner.is_required && inner.journal.is_failing())
    }

    /// The permits for reading the journal.
    pub fn readers(&self) -> Option<Arc<Semaphore>> {
        self.0.as_ref().map(|inner| Arc::clone(&inner.readers))
    }

    /// Records `record`.
    pub fn record(&self, record: AuditRecord) {
        drop(self.put(record));
    }

    /// Records `record`, and wakes the thread that writes when the returned value is dropped.
    #[must_use]
    pub fn put(&self, record: AuditRecord) -> Option<Wake> {
        self.0.as_ref().map(|inner| inner.journal.put(record))
    }

    /// Records the refusal of a caller whom nobody knows. Of a flood, only some are, with the
    /// number of those that are not.
    pub fn record_refusal(&self, record: AuditRecord) {
        let Some(inner) = &self.0 else { return };
        let mut refusals = inner.refusals.lock();
        if !refusals.bucket.take(std::time::Instant::now()) {
            refusals.left_out += 1;
            return;
        }
        let left_out = Some(std::mem::take(&mut refusals.left_out)).filter(|count| *count > 0);
        drop(refusals);
        inner.journal.record(AuditRecord { left_out, ..record });
    }

    /// Records the connections of a sandbox from now on, until it ends.
    pub fn follow(&self, id: SandboxId, egress: SandboxEgress) {
        let Some(inner) = self.0.clone() else { return };
        inner.followers.clone().spawn(async move {
            let mut after = 0;
            loop {
                // Asked first: what is recorded before the end is read after it.
                let is_over = egress.is_closed();
                let page = egress.everything(after, RECORDS_AT_ONCE);
                after = page.next;
                if page.gap > 0 {
                    let left_out = Some(page.gap);
                    inner.journal.record(AuditRecord { left_out, ..of_sandbox(id, now()) });
                }
                let is_done = page.records.is_empty();
                for record in page.records {
                    inner.journal.record(of_connection(id, record));
                }
                match (is_done, is_over) {
                    (true, true) => return,
                    (true, false) => egress.recorded(after).await,
                    (false, _) => {}
                }
            }
        });
    }

    /// Waits until everything is written, the connections of sandboxes included, which must have
    /// ended. What is recorded after that is lost.
    pub async fn close(&self) {
        let Some(inner) = self.0.clone() else { return };
        inner.followers.close();
        inner.followers.wait().await;
        inner.journal.record(event("stop_daemon", now()));
        let closed = tokio::task::spawn_blocking(move || inner.journal.close()).await;
        if let Err(panicked) = closed {
            std::panic::resume_unwind(panicked.into_panic());
        }
    }
}

/// The time now, as records have it.
pub fn now() -> String {
    time(SystemTime::now())
}

/// A time as records have it: of microseconds, and in UTC.
pub fn time(at: SystemTime) -> String {
    humantime::format_rfc3339_micros(at).to_string()
}

/// A record of an action at a time.
pub fn event(action: &str, time: String) -> AuditRecord {
    AuditRecord { action: action.to_owned(), time, ..AuditRecord::default() }
}

fn of_sandbox(id: SandboxId, time: String) -> AuditRecord {
    AuditRecord { sandbox: Some(id.to_string()), ..event("egress", time) }
}

/// A connection, without what programs said on it: no paths, and no names in TLS, which are those
/// of the destination or were refused.
fn of_connection(id: SandboxId, record: Record) -> AuditRecord {
    let at = time(record.time);
    let body = egress_record::body(id, record);
    let egress = AuditEgress {
        kind: body.kind,
        decision: body.decision.name().to_owned(),
        reason: body.reason.map(|reason| reason.to_string()),
        host: body.host,
        port: body.port,
        address: body.address,
        entry: body.entry,
        sent_bytes: body.sent_bytes,
        received_bytes: body.received_bytes,
        count: body.count,
    };
    AuditRecord { egress: Some(egress), ..of_sandbox(id, at) }
}
