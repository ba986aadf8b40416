//! The audit journal in the metrics: what is written, and whether it takes more.

use std::sync::atomic::AtomicU64;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use crate::audit::Audit;

/// Counts what the journal has done, if there is one.
pub fn register(registry: &mut Registry, audit: &Audit) {
    let Some(journal) = audit.journal() else { return };
    let figures = journal.figures();
    let counters = [
        ("audit_lines", "Lines of the audit journal that were written", figures.lines),
        ("audit_lost", "Records that the audit journal had no room for", figures.lost),
        (
            "audit_write_failures",
            "Attempts to write the audit journal that failed",
            figures.failures,
        ),
    ];
    for (name, help, value) in counters {
        let counter = Counter::<u64, AtomicU64>::default();
        counter.inc_by(value);
        registry.register(name, help, counter);
    }
    let gauges = [
        (
            "audit_failing",
            "1 while the audit journal takes no records",
            u64::from(figures.is_failing),
        ),
        (
            "audit_waiting",
            "Records that wait to be written to the audit journal",
            figures.waiting as u64,
        ),
    ];
    for (name, help, value) in gauges {
        let gauge = Gauge::<u64, AtomicU64>::default();
        gauge.set(value);
        registry.register(name, help, gauge);
    }
}
