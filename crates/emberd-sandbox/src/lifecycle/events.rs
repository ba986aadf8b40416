//! Events of sandboxes: numbered, and the newest are kept.
//!
//! ```text
//! created ─▶ running ─┬─▶ frozen ─▶ thawed ─┬─▶ gone ─┬─▶ expired ─┬─▶ deleted
//!                     └──────────◀──────────┘ (VMM)   └────────────┘
//! ```
//! Each sandbox begins with `created` and ends with `deleted`. Numbers grow by one, and begin
//! above those of the daemon before: a follower that goes on after a restart misses none unseen.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use emberd_vmm::ExitReason;
use parking_lot::Mutex;
use tokio::sync::watch;

use super::phase::PhaseKind;
use crate::id::SandboxId;

/// Most events that are kept: a follower may be away for as many.
pub const SANDBOX_EVENTS_MAX: usize = 4_096;

/// Largest size of the metadata of all events that are kept, in bytes (4 MiB): older events go
/// sooner where sandboxes have large ones.
const METADATA_BYTES_MAX: usize = 4 << 20;

/// Numbers for each second since the epoch: more than a daemon has events in one.
const NUMBERS_PER_SECOND: u64 = 1 << 20;

/// One event of a sandbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SandboxEvent {
    /// Number of the event.
    pub seq: u64,
    /// When it happened, by the host's clock.
    pub at: SystemTime,
    /// Identity of the sandbox.
    pub id: SandboxId,
    /// Kind of the event.
    pub kind: SandboxEventKind,
    /// Phase of the sandbox afterwards.
    pub phase: PhaseKind,
    /// How the VMM ended, where the sandbox is gone by itself.
    pub reason: Option<ExitReason>,
    /// Names and values that callers had given the sandbox.
    pub metadata: BTreeMap<String, String>,
    /// Owner of the sandbox; none if it is nobody's.
    pub owner: Option<Arc<str>>,
}

/// Kind of an event of a sandbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SandboxEventKind {
    /// A caller asked for the sandbox.
    Created,
    /// The guest has answered.
    Running,
    /// The guest was stopped for want of use.
    Frozen,
    /// The guest goes on.
    Thawed,
    /// The sandbox's time is over.
    Expired,
    /// The VMM has ended by itself.
    Gone,
    /// The sandbox is deleted: the last event of each.
    Deleted,
}

/// Events after a number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SandboxEventPage {
    /// Events that were dropped before those of the page, if there are some.
    pub gap: Option<SandboxEventGap>,
    /// The events, oldest first.
    pub events: Vec<Arc<SandboxEvent>>,
    /// Number to continue after.
    pub next: u64,
}

/// The events between two numbers are not kept; there may be none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SandboxEventGap {
    /// Number of the last event before the gap.
    pub after: u64,
    /// Number of the first event after it.
    pub before: u64,
}

/// See the module.
pub(crate) struct EventLog {
    ring: Mutex<Ring>,
    /// Number of the newest event.
    newest: watch::Sender<u64>,
}

struct Ring {
    kept: VecDeque<Arc<SandboxEvent>>,
    metadata_bytes: usize,
    /// Number of the next event.
    next: u64,
}

impl EventLog {
    /// A log whose numbers are above those of logs that began earlier by the host's clock.
    pub fn new(began: SystemTime) -> Self {
        let since_epoch = began.duration_since(UNIX_EPOCH).unwrap_or_default();
        let next = since_epoch.as_secs().saturating_mul(NUMBERS_PER_SECOND).max(1);
        let ring = Ring { kept: VecDeque::new(), metadata_bytes: 0, next };
        Self { ring: Mutex::new(ring), newest: watch::Sender::new(next - 1) }
    }

    /// Records the event that `event` makes with its number.
    pub fn record(&self, event: impl FnOnce(u64) -> SandboxEvent) {
        let mut ring = self.ring.lock();
        let seq = ring.next;
        ring.next += 1;
        ring.keep(event(seq));
        // Under the lock: the newest number never falls.
        self.newest.send_replace(seq);
    }

    /// Returns at most `limit` of the events after number `after` that `wanted` takes, or after
    /// none: of all that are kept. A number that no event has yet counts as one that is long gone.
    pub fn page(
        &self,
        after: Option<u64>,
        limit: usize,
        wanted: impl Fn(&SandboxEvent) -> bool,
    ) -> SandboxEventPage {
        let ring = self.ring.lock();
        let oldest = ring.kept.front().map_or(ring.next, |event| event.seq);
        let is_kept = |after: &u64| (oldest..=ring.next).contains(&after.saturating_add(1));
        let start = after.filter(is_kept).map_or(oldest, |after| after + 1);
        let gap = after.filter(|after| !is_kept(after));
        let gap = gap.map(|after| SandboxEventGap { after, before: oldest });
        let mut next = start - 1;
        let mut events = Vec::new();
        // Fits: no more events are kept than a `usize` counts.
        let skipped = usize::try_from(start - oldest).unwrap_or(usize::MAX);
        for event in ring.kept.iter().skip(skipped) {
            if events.len() == limit {
                break;
            }
            next = event.seq;
            if wanted(event) {
                events.push(Arc::clone(event));
            }
        }
        SandboxEventPage { gap, events, next }
    }

    /// Waits until there is an event after number `after`.
    pub fn recorded(&self, after: u64) -> impl Future<Output = ()> + Send + use<> {
        let mut newest = self.newest.subscribe();
        async move {
            // The log lasts as long as the daemon.
            drop(newest.wait_for(|newest| *newest > after).await);
        }
    }
}

impl Ring {
    fn keep(&mut self, event: SandboxEvent) {
        self.metadata_bytes += metadata_bytes(&event);
        self.kept.push_back(Arc::new(event));
        while self.kept.len() > SANDBOX_EVENTS_MAX || self.metadata_bytes > METADATA_BYTES_MAX {
            let Some(dropped) = self.kept.pop_front() else { break };
            self.metadata_bytes -= metadata_bytes(&dropped);
        }
    }
}

fn metadata_bytes(event: &SandboxEvent) -> usize {
    event.metadata.iter().map(|(name, value)| name.len() + value.len()).sum()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn log() -> EventLog {
        EventLog::new(UNIX_EPOCH)
    }

    fn record(log: &EventLog, kind: SandboxEventKind, metadata_bytes: usize) {
        let id = SandboxId::with_key(crate::NodeKey::default());
        let metadata = BTreeMap::from([(String::new(), "x".repeat(metadata_bytes))]);
        let (at, phase, reason, owner) = (UNIX_EPOCH, PhaseKind::Running, None, None);
        log.record(|seq| SandboxEvent { seq, at, id, kind, phase, reason, metadata, owner });
    }

    fn seqs(page: &SandboxEventPage) -> Vec<u64> {
        page.events.iter().map(|event| event.seq).collect()
    }

    #[test]
    fn events_are_read_on_from_any_number() {
        let log = log();
        let none = SandboxEventPage { gap: None, events: Vec::new(), next: 0 };
        assert_eq!(log.page(None, 9, |_| true), none);
        assert_eq!(log.page(Some(0), 9, |_| true), none);
        for kind in [SandboxEventKind::Created, SandboxEventKind::Running] {
            record(&log, kind, 0);
        }
        record(&log, SandboxEventKind::Created, 0);
        assert_eq!(seqs(&log.page(None, 9, |_| true)), [1, 2, 3]);
        assert_eq!(seqs(&log.page(Some(1), 1, |_| true)), [2]);
        let created = log.page(Some(0), 9, |event| event.kind == SandboxEventKind::Created);
        assert_eq!((seqs(&created), created.next, created.gap), (vec![1, 3], 3, None));
        let running = log.page(None, 9, |event| event.kind == SandboxEventKind::Running);
        assert_eq!((seqs(&running), running.next), (vec![2], 3));
        assert_eq!(log.page(Some(3), 9, |_| true), SandboxEventPage { next: 3, ..none });
    }

    #[test]
    fn what_was_dropped_is_a_gap_and_so_is_a_number_of_another_daemon() {
        let log = log();
        for _ in 0..SANDBOX_EVENTS_MAX + 5 {
            record(&log, SandboxEventKind::Created, 0);
        }
        let gap = |after| log.page(Some(after), 1, |_| true).gap;
        assert_eq!(gap(5), None);
        assert_eq!(gap(4), Some(SandboxEventGap { after: 4, before: 6 }));
        assert_eq!(log.page(None, 1, |_| true).gap, None);
        let newest = SANDBOX_EVENTS_MAX as u64 + 5;
        assert_eq!(gap(newest), None);
        for ahead in [newest + 1, u64::MAX] {
            let page = log.page(Some(ahead), 1, |_| true);
            assert_eq!(page.gap, Some(SandboxEventGap { after: ahead, before: 6 }));
            assert_eq!(seqs(&page), [6]);
        }
        let later = EventLog::new(UNIX_EPOCH + Duration::from_secs(1));
        let page = later.page(Some(newest), 1, |_| true);
        assert_eq!(page.gap, Some(SandboxEventGap { after: newest, before: NUMBERS_PER_SECOND }));
        assert_eq!(later.page(Some(page.next), 1, |_| true).gap, None);
    }

    #[test]
    fn large_metadata_leave_room_for_fewer_events() {
        let log = log();
        for _ in 0..10 {
            record(&log, SandboxEventKind::Created, METADATA_BYTES_MAX / 4);
        }
        assert_eq!(seqs(&log.page(None, 99, |_| true)), [7, 8, 9, 10]);
        record(&log, SandboxEventKind::Created, METADATA_BYTES_MAX);
        assert_eq!(seqs(&log.page(None, 99, |_| true)), [11]);
    }

    #[tokio::test]
    async fn the_next_event_is_waited_for() {
        use futures::FutureExt as _;
        let log = log();
        let recorded = log.recorded(0);
        assert_eq!(log.recorded(0).now_or_never(), None);
        record(&log, SandboxEventKind::Created, 0);
        recorded.await;
        log.recorded(0).await;
        assert_eq!(log.recorded(1).now_or_never(), None);
    }
}
