//! Network access of all sandboxes in the metrics. Sandboxes that have ended count.

use std::sync::atomic::AtomicU64;

use emberd_api::EgressReason;
use emberd_egress::Egress;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Because {
    reason: &'static str,
}

/// Counts what sandboxes have reached, and what they have not.
pub fn register(registry: &mut Registry, egress: &Egress) {
    let totals = egress.totals();
    let counters = [
        ("egress_allowed", "Connections of sandboxes that were made", totals.allowed),
        ("egress_sent_bytes", "Bytes from sandboxes to other hosts", totals.sent_bytes),
        ("egress_received_bytes", "Bytes from other hosts to sandboxes", totals.received_bytes),
    ];
    for (name, help, value) in counters {
        let counter = Counter::<u64, AtomicU64>::default();
        counter.inc_by(value);
        registry.register(name, help, counter);
    }
    let help = "Connections, lookups and requests of sandboxes that were denied";
    registry.register("egress_denied", help, by_reason(totals.denied));
    let help = "Connections and lookups of sandboxes that were allowed and failed";
    registry.register("egress_failed", help, by_reason(totals.failed));
    let gauges = [
        (
            "egress_connections",
            "Connections of sandboxes that are open or being made",
            totals.connections,
        ),
        (
            "egress_connections_max",
            "Most connections of all sandboxes at once",
            totals.connections_max,
        ),
    ];
    for (name, help, value) in gauges {
        let gauge = Gauge::<u64, AtomicU64>::default();
        gauge.set(value as u64);
        registry.register(name, help, gauge);
    }
}

/// Every reason has a series from the start: the first denials are an increase then.
fn by_reason(counts: Vec<(EgressReason, u64)>) -> Family<Because, Counter> {
    let family = Family::<Because, Counter>::default();
    for (reason, count) in counts {
        family.get_or_create(&Because { reason: reason.name() }).inc_by(count);
    }
    family
}
