//! Counts of all sandboxes of one daemon together. What sandboxes did that have ended counts on.

use std::sync::atomic::{AtomicU64, Ordering};

use emberd_proto::EgressReason;

use crate::record::{Decision, Record};

/// Counts of the sandboxes of one daemon so far, and their connections now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DaemonTotals {
    /// Connections that were made.
    pub allowed: u64,
    /// Connections, lookups and requests that were denied, for every reason.
    pub denied: Vec<(EgressReason, u64)>,
    /// Connections and lookups that were allowed and failed, for every reason.
    pub failed: Vec<(EgressReason, u64)>,
    /// Bytes to destinations.
    pub sent_bytes: u64,
    /// Bytes from destinations.
    pub received_bytes: u64,
    /// Connections that are open or being made.
    pub connections: usize,
    /// Most of those at once.
    pub connections_max: usize,
}

/// The counters behind [`DaemonTotals`].
#[derive(Debug, Default)]
pub(crate) struct Tally {
    pub allowed: AtomicU64,
    pub sent: AtomicU64,
    pub received: AtomicU64,
    /// In the order of [`EgressReason::ALL`].
    refused: [AtomicU64; EgressReason::ALL.len()],
}

impl Tally {
    /// Counts what a record tells of a refusal or a failure.
    pub fn count(&self, record: &Record) {
        if record.decision != Decision::Allowed {
            let reason = record.reason.unwrap_or(EgressReason::Other);
            self.refused[reason as usize].fetch_add(1, Ordering::Relaxed);
        }
    }

    /// The counts, with so many connections now.
    pub fn totals(&self, connections: usize, connections_max: usize) -> DaemonTotals {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let refused = EgressReason::ALL.into_iter().zip(self.refused.iter().map(read));
        let (denied, failed) =
            refused.partition(|(reason, _)| Decision::of(*reason) == Decision::Denied);
        DaemonTotals {
            allowed: read(&self.allowed),
            denied,
            failed,
            sent_bytes: read(&self.sent),
            received_bytes: read(&self.received),
            connections,
            connections_max,
        }
    }
}
