//! Records of egress as the API and the operator's log show them.

use emberd_api::{EgressDecision, EgressRecord};
use emberd_egress::{Decision, Record};
use emberd_sandbox::SandboxId;

/// The body of a record of the sandbox `id`.
pub fn body(id: SandboxId, record: Record) -> EgressRecord {
    EgressRecord {
        seq: record.seq,
        time: humantime::format_rfc3339_micros(record.time).to_string(),
        sandbox: id.to_string(),
        kind: record.kind.name().to_owned(),
        decision: decision(record.decision),
        reason: record.reason,
        host: record.host,
        port: record.port,
        address: record.address.map(|address| address.to_string()),
        entry: record.entry.map(|entry| entry.to_string()),
        from: record.from.map(|from| from.to_string()),
        protocol: record.protocol.map(|protocol| protocol.name().to_owned()),
        sni: record.sni,
        method: record.method,
        path: record.path,
        sent_bytes: record.sent_bytes,
        received_bytes: record.received_bytes,
        duration_ms: u64::try_from(record.duration.as_millis()).unwrap_or(u64::MAX),
        count: record.count,
    }
}

/// The body of a decision.
pub fn decision(decision: Decision) -> EgressDecision {
    match decision {
        Decision::Allowed => EgressDecision::Allowed,
        Decision::Denied => EgressDecision::Denied,
        Decision::Failed => EgressDecision::Failed,
    }
}
