//! The audit journal: one record for each decision.

use serde::{Deserialize, Serialize};

/// Most records of one answer of the journal.
pub const AUDIT_RECORDS_MAX: usize = 1000;

/// A decision: an answer to a request, a connection of a program, or something about the journal
/// itself. One line of the journal, in this order of fields.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct AuditRecord {
    /// Number of the record in the journal, from 1 on, without gaps.
    pub seq: u64,
    /// SHA-256 of the line before it, without its line feed, in hexadecimal; 64 zeros in the first.
    pub prev: String,
    /// When the decision was made (RFC 3339, UTC).
    pub time: String,
    /// Operation id of the request; `use_port` for a request to a server in a sandbox, by its host
    /// or by headers; `unknown` where no operation takes it; `egress` for a connection or a lookup
    /// of a program; `start_daemon`, `stop_daemon`; `lose_records`, `mend_journal` and
    /// `remove_files` for what happened to the journal.
    pub action: String,
    /// Id of the request, as in `x-request-id`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<String>,
    /// On whose behalf the request was made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub principal: Option<String>,
    /// The other end of the connection: an IP address with its port, or `uid=UID,pid=PID`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer: Option<String>,
    /// The sandbox.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sandbox: Option<String>,
    /// HTTP status of the answer. Absent where the caller hung up before it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// Code of the error that the answer has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    /// Limits that the request, or its program, has reached.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub limits: Vec<String>,
    /// The connection or lookup, with `egress`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub egress: Option<AuditEgress>,
    /// Number of records: lost with `lose_records`; of the same kind that were left out before this
    /// one otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub left_out: Option<u64>,
    /// Bytes of a torn line that were cut off, with `mend_journal`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cut_bytes: Option<u64>,
    /// Number of the last record that was removed with its file, with `remove_files`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub removed_to: Option<u64>,
}

/// A connection or a lookup of a program in a sandbox, and what was decided. Paths and contents
/// are not in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct AuditEgress {
    /// `connection`, `lookup`, `request` or `policy`.
    pub kind: String,
    /// `allowed`, `denied` or `failed`.
    pub decision: String,
    /// Why it was denied, or failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Name of the destination, or its address where no name is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// Port of the destination.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// Address that was connected to, or that the guest named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// The entry that decided, without its options.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub entry: Option<String>,
    /// Bytes to the destination.
    pub sent_bytes: u64,
    /// Bytes from the destination.
    pub received_bytes: u64,
    /// Number of equal events that the record stands for.
    pub count: u32,
}

/// A part of the audit journal.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct AuditPage {
    /// Records, oldest first. There may be fewer than asked for, even none, before the end.
    pub records: Vec<AuditRecord>,
    /// Value of `after` that continues.
    pub next: u64,
    /// Whether the end of the journal was reached.
    pub is_end: bool,
    /// Number of records after the one asked for whose files were removed.
    pub gap: u64,
}

/// One element of a journal that is followed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(untagged)]
pub enum AuditEvent {
    /// A record.
    Record(Box<AuditRecord>),
    /// Records whose files were removed.
    Gap {
        /// Number of records.
        gap: u64,
    },
}

/// The records to read of the journal.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ReadAudit {
    /// Number of the record to continue after; 0 for all that are kept.
    pub after: u64,
    /// Only records of this time and later (RFC 3339).
    pub since: Option<String>,
    /// Only records of this action.
    pub action: Option<String>,
    /// Only records of this sandbox.
    pub sandbox: Option<String>,
    /// Most records; as many as the daemon gives at once when absent.
    pub limit: Option<usize>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_short_where_nothing_is_to_say() {
        let record = AuditRecord { seq: 1, action: "a".to_owned(), ..AuditRecord::default() };
        let json = serde_json::to_string(&record).unwrap();
        assert_eq!(json, r#"{"seq":1,"prev":"","time":"","action":"a"}"#);
        assert_eq!(serde_json::from_str::<AuditRecord>(&json).unwrap(), record);
        let event: AuditEvent = serde_json::from_str(r#"{"gap":3}"#).unwrap();
        assert_eq!(event, AuditEvent::Gap { gap: 3 });
        let event: AuditEvent = serde_json::from_str(&json).unwrap();
        assert_eq!(event, AuditEvent::Record(Box::new(record)));
    }
}
