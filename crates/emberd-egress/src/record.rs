//! What happened to the connections and lookups of one sandbox.
//!
//! A ring holds the latest records; a gap in their numbers tells that some are lost. Equal
//! lookups and denials within some seconds are one record with a count, so that a program that
//! tries again and again does not push everything else out.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use emberd_proto::{EgressDenied, EgressReason};
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::Instant;

use emberd_proto::policy::EgressLogMode as LogMode;

use crate::verdict::Source;

/// Most records of one sandbox that are kept.
pub const RECORDS_MAX: usize = 4096;

/// Most bytes of records of one sandbox that are kept (1 MiB).
pub const RECORDS_BYTES_MAX: usize = 1 << 20;

/// Time within which equal records are merged.
const MERGE_WITHIN: Duration = Duration::from_secs(10);

/// Latest records among which an equal one is looked for.
const MERGE_AMONG: usize = 32;

/// Most destinations of [`Log::denied_since`].
pub const DENIED_MAX: usize = 8;

/// Longest text of a guest in a record, in bytes; the rest is cut.
const TEXT_BYTES_MAX: usize = 1024;

/// Kind of event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A connection.
    Connection,
    /// A lookup of a name.
    Lookup,
    /// A request over a connection where HTTP is read.
    Request,
    /// A change of the policy.
    Policy,
}

impl Kind {
    /// Name in the log.
    pub fn name(self) -> &'static str {
        match self {
            Self::Connection => "connection",
            Self::Lookup => "lookup",
            Self::Request => "request",
            Self::Policy => "policy",
        }
    }
}

/// How it went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Decision {
    /// Allowed and made.
    Allowed,
    /// Refused.
    Denied,
    /// Allowed, and failed.
    Failed,
}

impl Decision {
    /// Name in the log.
    pub fn name(self) -> &'static str {
        match self {
            Self::Allowed => "allowed",
            Self::Denied => "denied",
            Self::Failed => "failed",
        }
    }

    /// Whether a reason is a refusal or a failure.
    pub fn of(reason: EgressReason) -> Self {
        match reason {
            EgressReason::LookupFailed
            | EgressReason::NoSuchName
            | EgressReason::ConnectFailed
            | EgressReason::UpstreamTls => Self::Failed,
            _ => Self::Denied,
        }
    }
}

/// Protocol of a connection, as far as it was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Carried {
    /// TLS, of which the first message was read.
    Tls,
    /// HTTP/1.
    Http,
    /// Something that was not read.
    Tcp,
    /// A lookup.
    Dns,
}

impl Carried {
    /// Name in the log.
    pub fn name(self) -> &'static str {
        match self {
            Self::Tls => "tls",
            Self::Http => "http",
            Self::Tcp => "tcp",
            Self::Dns => "dns",
        }
    }
}

/// One record. A connection's is written when it ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Number in the sandbox, from 1 on.
    pub seq: u64,
    /// When it was written.
    pub time: SystemTime,
    /// Kind of the event.
    pub kind: Kind,
    /// How it went.
    pub decision: Decision,
    /// Why it was refused or failed, or why a connection was cut.
    pub reason: Option<EgressReason>,
    /// The name, or the address where there was none.
    pub host: Option<String>,
    /// The port.
    pub port: Option<u16>,
    /// The address that was dialled, or that the guest named.
    pub address: Option<IpAddr>,
    /// The entry that decided.
    pub entry: Option<Arc<str>>,
    /// Where that entry comes from.
    pub from: Option<Source>,
    /// Protocol of the connection.
    pub protocol: Option<Carried>,
    /// Name in the TLS connection.
    pub sni: Option<String>,
    /// Method of the request.
    pub method: Option<String>,
    /// Path of the request, without its query.
    pub path: Option<String>,
    /// Bytes to the destination.
    pub sent_bytes: u64,
    /// Bytes from the destination.
    pub received_bytes: u64,
    /// How long it lasted.
    pub duration: Duration,
    /// How many equal ones this record stands for.
    pub count: u32,
}

impl Record {
    /// A record of `kind` that is not filled in.
    pub fn new(kind: Kind, decision: Decision) -> Self {
        Self {
            seq: 0,
            time: SystemTime::UNIX_EPOCH,
            kind,
            decision,
            reason: None,
            host: None,
            port: None,
            address: None,
            entry: None,
            from: None,
            protocol: None,
            sni: None,
            method: None,
            path: None,
            sent_bytes: 0,
            received_bytes: 0,
            duration: Duration::ZERO,
            count: 1,
        }
    }

    fn bytes(&self) -> usize {
        let texts = [&self.host, &self.sni, &self.method, &self.path];
        let texts: usize = texts.into_iter().flatten().map(String::len).sum();
        size_of::<Self>() + texts
    }

    fn cut(&mut self) {
        for text in [&mut self.host, &mut self.sni, &mut self.method, &mut self.path] {
            if let Some(text) = text
                && text.len() > TEXT_BYTES_MAX
            {
                let cut = (0..=TEXT_BYTES_MAX).rev().find(|at| text.is_char_boundary(*at));
                text.truncate(cut.unwrap_or(0));
            }
        }
    }

    fn can_merge(&self) -> bool {
        self.kind == Kind::Lookup || self.decision == Decision::Denied && self.sent_bytes == 0
    }

    fn is_like(&self, other: &Self) -> bool {
        let key = |record: &Self| {
            (record.kind, record.decision, record.reason, record.port, record.protocol)
        };
        key(self) == key(other)
            && (&self.host, &self.entry, &self.sni, &self.method, &self.path)
                == (&other.host, &other.entry, &other.sni, &other.method, &other.path)
    }
}

/// A part of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// Records, the oldest first.
    pub records: Vec<Record>,
    /// Number to continue after.
    pub next: u64,
    /// Records after the number asked for that are no longer kept.
    pub gap: u64,
}

/// The records of one sandbox.
#[derive(Debug)]
pub(crate) struct Log {
    /// Whether records are kept that the policy does not list.
    keeps_all: bool,
    state: Mutex<State>,
    latest: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct State {
    ring: VecDeque<Kept>,
    bytes: usize,
    /// Number of the latest record.
    seq: u64,
    /// Number of the latest record when the log was last marked: later ones are not merged with
    /// those up to it.
    marked: u64,
}

#[derive(Debug)]
struct Kept {
    record: Record,
    at: Instant,
    /// Whether the policy lets it be read.
    listed: bool,
}

impl Log {
    pub fn new(keeps_all: bool) -> Self {
        Self { keeps_all, state: Mutex::default(), latest: watch::Sender::new(0) }
    }

    /// Adds a record. Denials are kept for [`Self::denied_since`] even if `mode` does not list
    /// them, and everything where the log keeps all.
    pub fn add(&self, mut record: Record, mode: LogMode) {
        let denied = record.decision == Decision::Denied;
        let listed = match mode {
            LogMode::All => true,
            LogMode::Denied => record.decision != Decision::Allowed,
            LogMode::Off => false,
        };
        if !listed && !denied && !self.keeps_all {
            return;
        }
        record.cut();
        let mut state = self.state.lock();
        let now = Instant::now();
        if record.can_merge() && state.merge(&record, listed, now) {
            return;
        }
        state.seq += 1;
        (record.seq, record.time) = (state.seq, SystemTime::now());
        state.bytes += record.bytes();
        state.ring.push_back(Kept { record, at: now, listed });
        while state.ring.len() > RECORDS_MAX || state.bytes > RECORDS_BYTES_MAX {
            let Some(oldest) = state.ring.pop_front() else { break };
            state.bytes -= oldest.record.bytes();
        }
        let seq = state.seq;
        drop(state);
        self.latest.send_replace(seq);
    }

    /// Returns at most `limit` listed records after number `after`, of one decision if given.
    pub fn page(&self, after: u64, decision: Option<Decision>, limit: usize) -> Page {
        self.part(after, limit, |kept| {
            kept.listed && decision.is_none_or(|wanted| kept.record.decision == wanted)
        })
    }

    /// Returns at most `limit` records after number `after`, also those that the policy does not
    /// list.
    pub fn everything(&self, after: u64, limit: usize) -> Page {
        self.part(after, limit, |_| true)
    }

    fn part(&self, after: u64, limit: usize, is_wanted: impl Fn(&Kept) -> bool) -> Page {
        let state = self.state.lock();
        let oldest = state.ring.front().map_or(state.seq + 1, |kept| kept.record.seq);
        let gap = oldest.saturating_sub(after.saturating_add(1));
        let mut next = after.max(oldest - 1);
        let mut records = Vec::new();
        for kept in &state.ring {
            let record = &kept.record;
            if record.seq <= after {
                continue;
            }
            if records.len() == limit {
                return Page { records, next, gap };
            }
            next = record.seq;
            if is_wanted(kept) {
                records.push(record.clone());
            }
        }
        Page { records, next, gap }
    }

    /// Waits until there is a record after number `after`.
    pub fn after(&self, after: u64) -> impl Future<Output = ()> + Send + use<> {
        let mut latest = self.latest.subscribe();
        async move {
            // Fails when the sandbox is dropped.
            latest.wait_for(|latest| *latest > after).await.ok();
        }
    }

    /// Marks this moment.
    pub fn mark(&self) -> u64 {
        let mut state = self.state.lock();
        state.marked = state.seq;
        state.seq
    }

    /// Returns the destinations that the policy has denied since `mark`, the latest first, at
    /// most [`DENIED_MAX`].
    pub fn denied_since(&self, mark: u64) -> Vec<EgressDenied> {
        let state = self.state.lock();
        let since = state.ring.iter().rev().take_while(|kept| kept.record.seq > mark);
        let mut found: Vec<EgressDenied> = Vec::new();
        for Record { host, port, reason, count, .. } in since.map(|kept| &kept.record) {
            let (Some(host), Some(reason)) = (host, reason) else { continue };
            if !is_about_the_policy(*reason) {
                continue;
            }
            let is_full = found.len() == DENIED_MAX;
            let known = found
                .iter_mut()
                .find(|known| (&known.host, known.port, known.reason) == (host, *port, *reason));
            match known {
                Some(known) => known.count = known.count.saturating_add(*count),
                None if is_full => {}
                None => found.push(EgressDenied {
                    host: host.clone(),
                    port: *port,
                    reason: *reason,
                    count: *count,
                }),
            }
        }
        found
    }
}

/// Whether a denial is one that a caller can change, or must learn that none can. Others mislead
/// those who look for a missing entry.
fn is_about_the_policy(reason: EgressReason) -> bool {
    matches!(
        reason,
        EgressReason::NoRule
            | EgressReason::PortNotAllowed
            | EgressReason::DeniedByRule
            | EgressReason::OverCeiling
            | EgressReason::OperatorDenied
            | EgressReason::PrivateAddress
            | EgressReason::OwnAddress
    )
}

impl State {
    /// Counts `record` with an equal one, if a recent one is kept.
    fn merge(&mut self, record: &Record, listed: bool, now: Instant) -> bool {
        let marked = self.marked;
        let recent = self.ring.iter_mut().rev().take(MERGE_AMONG).take_while(|kept| {
            kept.record.seq > marked && now.duration_since(kept.at) < MERGE_WITHIN
        });
        for kept in recent {
            if kept.listed == listed && kept.record.is_like(record) {
                kept.record.count = kept.record.count.saturating_add(1);
                return true;
            }
        }
        false
    }
}

/// Returns what to ask for so that `denied` are allowed, for people and models; none if no entry
/// would allow them.
pub fn hint(denied: &[EgressDenied]) -> Option<String> {
    let mut entries: Vec<String> = denied.iter().filter_map(EgressDenied::entry).collect();
    // A lookup that is denied comes before the connection that it prevents.
    entries.sort_unstable();
    entries.dedup();
    if entries.is_empty() {
        return None;
    }
    let list = entries.iter().map(|entry| format!("\"{entry}\"")).collect::<Vec<_>>().join(", ");
    Some(format!("the sandbox's egress policy does not allow this; ask for \"allow\": [{list}]"))
}

/// As [`hint`], for one destination.
pub(crate) fn hint_for(host: &str, port: u16, reason: EgressReason) -> Option<String> {
    let (host, port) = (host.to_owned(), Some(port));
    hint(&[EgressDenied { host, port, reason, count: 1 }])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn denial(host: &str, port: u16) -> Record {
        Record {
            reason: Some(EgressReason::NoRule),
            host: Some(host.to_owned()),
            port: Some(port),
            ..Record::new(Kind::Connection, Decision::Denied)
        }
    }

    fn seqs(page: &Page) -> Vec<u64> {
        page.records.iter().map(|record| record.seq).collect()
    }

    #[test]
    fn what_the_policy_does_not_list_is_kept_for_who_reads_everything() {
        let add = |keeps_all| {
            let log = Log::new(keeps_all);
            log.add(Record::new(Kind::Connection, Decision::Allowed), LogMode::Off);
            log.add(denial("a.example", 443), LogMode::Off);
            log.add(Record::new(Kind::Connection, Decision::Allowed), LogMode::All);
            let (listed, all) = (log.page(0, None, 10), log.everything(0, 10));
            (listed.records.len(), all.records.len(), listed.next == all.next)
        };
        assert_eq!(add(false), (1, 2, true));
        assert_eq!(add(true), (1, 3, true));
    }

    #[test]
    fn the_ring_is_bounded_and_tells_its_gap() {
        let log = Log::new(false);
        for number in 0..RECORDS_MAX + 10 {
            log.add(denial(&format!("h{number}.example"), 443), LogMode::All);
        }
        let page = log.page(0, None, 3);
        let lost = page.gap;
        assert!(lost >= 10);
        assert_eq!(seqs(&page), [lost + 1, lost + 2, lost + 3]);
        let page = log.page(page.next, None, usize::MAX);
        assert_eq!((page.gap, page.records[0].seq), (0, lost + 4));
        assert_eq!(page.next, RECORDS_MAX as u64 + 10);
        let page = log.page(page.next, None, 10);
        assert_eq!((page.records.len(), page.gap), (0, 0));
    }

    #[test]
    fn long_texts_do_not_take_more_than_the_ring_has() {
        let log = Log::new(false);
        for number in 0..2000 {
            let path = Some(format!("/{number}/{}", "ü".repeat(5000)));
            log.add(Record { path, ..denial("a.example", 80) }, LogMode::All);
        }
        let state = log.state.lock();
        assert!(state.bytes <= RECORDS_BYTES_MAX);
        let sum: usize = state.ring.iter().map(|kept| kept.record.bytes()).sum();
        assert_eq!(sum, state.bytes);
    }

    #[tokio::test(start_paused = true)]
    async fn equal_denials_are_one_record_for_some_seconds() {
        let log = Log::new(false);
        for _ in 0..3 {
            log.add(denial("a.example", 443), LogMode::All);
            log.add(denial("b.example", 443), LogMode::All);
        }
        let counts = |log: &Log| {
            let page = log.page(0, None, 100);
            page.records.iter().map(|record| record.count).collect::<Vec<_>>()
        };
        assert_eq!(counts(&log), [3, 3]);
        tokio::time::advance(MERGE_WITHIN).await;
        log.add(denial("a.example", 443), LogMode::All);
        assert_eq!(counts(&log), [3, 3, 1]);
    }

    #[test]
    fn denials_since_a_mark_are_those_after_it() {
        let log = Log::new(false);
        log.add(denial("a.example", 443), LogMode::Off);
        let mark = log.mark();
        assert_eq!(log.denied_since(mark), []);
        for _ in 0..2 {
            log.add(denial("a.example", 443), LogMode::Off);
        }
        let limited = Record { reason: Some(EgressReason::RateLimit), ..denial("c.example", 1) };
        log.add(limited, LogMode::Off);
        let denied = log.denied_since(mark);
        assert_eq!(denied.len(), 1);
        assert_eq!((denied[0].host.as_str(), denied[0].count), ("a.example", 2));
        assert_eq!(log.page(0, None, 100).records, []);
        for number in 0..100 {
            log.add(denial(&format!("h{number}.example"), 443), LogMode::All);
        }
        assert_eq!(log.denied_since(mark).len(), DENIED_MAX);
    }

    #[test]
    fn a_hint_names_the_entries_to_ask_for() {
        let denied = |host: &str, port, reason| EgressDenied {
            host: host.to_owned(),
            port,
            reason,
            count: 1,
        };
        let no_rule = EgressReason::NoRule;
        assert_eq!(hint(&[]), None);
        assert_eq!(hint(&[denied("a.example", Some(443), EgressReason::OperatorDenied)]), None);
        let hint = hint(&[
            denied("b.example", Some(22), EgressReason::PortNotAllowed),
            denied("a.example", None, no_rule),
            denied("a.example", Some(443), no_rule),
            denied("2606:4700::1", Some(8443), no_rule),
        ]);
        let hint = hint.unwrap();
        assert!(
            hint.ends_with(r#""allow": ["[2606:4700::1]:8443", "a.example", "b.example:22"]"#),
            "{hint}"
        );
    }

    #[tokio::test]
    async fn a_follower_is_told_of_the_next_record() {
        let log = Log::new(false);
        let next = log.after(0);
        log.add(denial("a.example", 443), LogMode::All);
        next.await;
        log.after(0).await;
    }
}
