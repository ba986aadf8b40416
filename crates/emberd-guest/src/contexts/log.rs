//! The latest events of a context's runs, numbered and bounded in number and bytes.
//!
//! The number of an event is that of the guest's frame that completed it, so that every daemon
//! gives it the same. Numbers grow; there may be others between two events.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::event::{NumberedEvent, RunEnd, RunEvent};

/// Most bytes of events kept of one context (1 MiB). A larger event is told to the caller of its
/// run only, and to others as a gap.
pub const CONTEXT_EVENTS_BYTES_MAX: usize = 1 << 20;

/// Most events kept of one context: each costs more than its bytes.
pub const CONTEXT_EVENTS_MAX: usize = 8192;

/// Name of the error of a run whose interpreter ended.
const CONTEXT_ENDED: &str = "ContextEnded";

/// See the module. Shared by the task of the interpreter and all followers.
#[derive(Debug)]
pub(super) struct Log {
    known: Mutex<Known>,
    changed: Notify,
}

#[derive(Debug)]
struct Known {
    events: VecDeque<Kept>,
    bytes: usize,
    /// Events with a lower number are not kept.
    first: u64,
    /// The lowest number that the next event may have.
    next: u64,
    /// Number of the run that has begun and not ended.
    under_way: Option<u64>,
    closed: bool,
}

#[derive(Debug)]
struct Kept {
    event: NumberedEvent,
    bytes: usize,
}

/// The outcome of reading from some event number on.
enum Read {
    Event(NumberedEvent),
    /// The next event has not happened yet.
    Wait,
    /// No event follows.
    End,
}

impl Log {
    /// Events before number `first` are not known, and others have not happened.
    pub fn new(first: u64) -> Self {
        let (events, bytes, under_way, closed) = Default::default();
        let known = Mutex::new(Known { events, bytes, first, next: first, under_way, closed });
        Self { known, changed: Notify::new() }
    }

    /// The lowest number that the next event may have.
    pub fn next(&self) -> u64 {
        self.known.lock().next
    }

    /// Adds an event of `bytes` bytes. It gets number `seq`, or a higher one if another event has
    /// that; returns the number.
    pub fn push(&self, seq: u64, event: &RunEvent, bytes: usize) -> u64 {
        let mut known = self.known.lock();
        let seq = seq.max(known.next);
        match event {
            RunEvent::Started { execution_count } => known.under_way = Some(*execution_count),
            RunEvent::End(_) => known.under_way = None,
            _ => {}
        }
        known.keep(seq, event, bytes);
        drop(known);
        self.changed.notify_waiters();
        seq
    }

    /// Whatever had a number before `seq` and has not been added is lost.
    pub fn miss(&self, seq: u64) {
        let mut known = self.known.lock();
        if seq > known.next {
            let gap = RunEvent::Gap { first_missing: known.next };
            known.keep(seq - 1, &gap, 0);
            drop(known);
            self.changed.notify_waiters();
        }
    }

    /// Ends the run under way, if there is one, with its interpreter.
    pub fn cut(&self, why: &str) {
        let (seq, under_way) = {
            let known = self.known.lock();
            (known.next, known.under_way)
        };
        if let Some(execution_count) = under_way {
            let seq = self.push(seq, &ended(why), why.len());
            let end = RunEnd { execution_count, ..RunEnd::default() };
            self.push(seq + 1, &RunEvent::End(end), 0);
        }
    }

    /// No event follows: the context is deleted.
    pub fn close(&self) {
        self.known.lock().closed = true;
        self.changed.notify_waiters();
    }
}

impl Known {
    fn keep(&mut self, seq: u64, event: &RunEvent, bytes: usize) {
        let (event, bytes) = if bytes > CONTEXT_EVENTS_BYTES_MAX {
            (RunEvent::Gap { first_missing: seq }, 0)
        } else {
            (own(event), bytes)
        };
        self.next = seq.saturating_add(1);
        self.bytes += bytes;
        self.events.push_back(Kept { event: NumberedEvent { seq, event }, bytes });
        while self.events.len() > CONTEXT_EVENTS_MAX || self.bytes > CONTEXT_EVENTS_BYTES_MAX {
            let Some(oldest) = self.events.pop_front() else { break };
            self.bytes -= oldest.bytes;
            self.first = oldest.event.seq.saturating_add(1);
        }
    }

    fn read(&self, from: u64) -> Read {
        if from < self.first {
            let event = RunEvent::Gap { first_missing: from };
            return Read::Event(NumberedEvent { seq: self.first - 1, event });
        }
        let index = self.events.partition_point(|kept| kept.event.seq < from);
        match self.events.get(index) {
            Some(kept) => {
                let mut event = kept.event.clone();
                if let RunEvent::Gap { first_missing } = &mut event.event {
                    *first_missing = from.max(*first_missing);
                }
                Read::Event(event)
            }
            None if self.closed => Read::End,
            None => Read::Wait,
        }
    }
}

/// The error of a run whose interpreter ended.
pub(super) fn ended(why: &str) -> RunEvent {
    let (name, traceback) = (CONTEXT_ENDED.to_owned(), format!("{CONTEXT_ENDED}: {why}"));
    RunEvent::Error { name, value: why.to_owned(), traceback }
}

/// A copy that keeps no more memory than it has bytes of output.
fn own(event: &RunEvent) -> RunEvent {
    match event {
        RunEvent::Stdout(text) => RunEvent::Stdout(Bytes::copy_from_slice(text)),
        RunEvent::Stderr(text) => RunEvent::Stderr(Bytes::copy_from_slice(text)),
        event => event.clone(),
    }
}

/// Events of the runs of one context, read in order. A slow reader delays neither the context nor
/// others.
pub struct ContextEvents {
    log: Arc<Log>,
    next: u64,
    /// Passes with the sandbox.
    over: BoxFuture<'static, ()>,
}

impl ContextEvents {
    pub(super) fn new(log: Arc<Log>, from: u64, over: BoxFuture<'static, ()>) -> Self {
        Self { log, next: from, over }
    }

    /// The next event; none once the context or its sandbox is deleted. Cancel safe.
    pub async fn next(&mut self) -> Option<NumberedEvent> {
        loop {
            let changed = self.log.changed.notified();
            let read = self.log.known.lock().read(self.next);
            match read {
                Read::Event(event) => {
                    self.next = event.seq.saturating_add(1);
                    return Some(event);
                }
                Read::End => return None,
                Read::Wait => tokio::select! {
                    () = changed => {}
                    () = &mut self.over => return None,
                },
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;
    use proptest::prelude::*;

    use super::*;

    fn started(execution_count: u64) -> RunEvent {
        RunEvent::Started { execution_count }
    }

    fn text(bytes: usize) -> RunEvent {
        RunEvent::Stdout(vec![b'x'; bytes].into())
    }

    /// The events there are from `from` on, and whether no more follow.
    fn read(log: &Arc<Log>, from: u64) -> (Vec<NumberedEvent>, bool) {
        let over = Box::pin(std::future::pending());
        let mut events = ContextEvents::new(Arc::clone(log), from, over);
        let mut all = Vec::new();
        loop {
            match events.next().now_or_never() {
                Some(Some(event)) => all.push(event),
                ended => return (all, ended.is_some()),
            }
        }
    }

    #[test]
    fn events_have_the_numbers_of_their_frames_and_grow() {
        let log = Arc::new(Log::new(0));
        assert_eq!(log.push(2, &started(1), 0), 2);
        assert_eq!(log.push(5, &text(1), 1), 5);
        assert_eq!(log.push(5, &text(1), 1), 6, "two in one frame");
        log.miss(4);
        log.miss(7);
        assert_eq!(log.next(), 7, "nothing was missed");
        let numbers = |from| read(&log, from).0.iter().map(|event| event.seq).collect::<Vec<_>>();
        assert_eq!(numbers(0), [2, 5, 6]);
        assert_eq!(numbers(3), [5, 6]);
        assert!(numbers(7).is_empty());
        log.miss(20);
        let (events, _) = read(&log, 10);
        let gap = RunEvent::Gap { first_missing: 10 };
        assert_eq!(events, [NumberedEvent { seq: 19, event: gap }]);
        log.close();
        assert!(read(&log, 20).1);
    }

    #[test]
    fn memory_is_bounded_and_what_is_lost_is_told() {
        let log = Arc::new(Log::new(0));
        for seq in 0..40 {
            log.push(seq, &text(64 << 10), 64 << 10);
        }
        let (events, _) = read(&log, 3);
        let gap = RunEvent::Gap { first_missing: 3 };
        assert_eq!(events[0], NumberedEvent { seq: 23, event: gap });
        assert_eq!(events[1..].len() * (64 << 10), CONTEXT_EVENTS_BYTES_MAX);
        let large = CONTEXT_EVENTS_BYTES_MAX + 1;
        log.push(40, &text(large), large);
        let (events, _) = read(&log, 40);
        let gap = RunEvent::Gap { first_missing: 40 };
        assert_eq!(events, [NumberedEvent { seq: 40, event: gap }], "others stay");
        assert!(!matches!(read(&log, 39).0[0].event, RunEvent::Gap { .. }));
        for seq in 41..41 + 2 * CONTEXT_EVENTS_MAX as u64 {
            log.push(seq, &text(1), 1);
        }
        assert_eq!(log.known.lock().events.len(), CONTEXT_EVENTS_MAX);
    }

    #[test]
    fn a_run_that_is_cut_has_an_end() {
        let log = Arc::new(Log::new(0));
        log.cut("nothing runs");
        assert_eq!(read(&log, 0).0, []);
        log.push(3, &started(7), 0);
        log.cut("it was restarted");
        let (events, _) = read(&log, 4);
        assert_eq!(events[0], NumberedEvent { seq: 4, event: ended("it was restarted") });
        assert!(matches!(&events[1].event, RunEvent::End(end) if end.execution_count == 7));
        log.cut("again");
        assert_eq!(log.next(), 6);
    }

    #[tokio::test]
    async fn followers_end_with_the_sandbox() {
        let (end, ended) = tokio::sync::oneshot::channel::<()>();
        let over = Box::pin(async move { drop(ended.await) });
        let mut events = ContextEvents::new(Arc::new(Log::new(0)), 0, over);
        assert!(events.next().now_or_never().is_none());
        drop(end);
        assert_eq!(events.next().await, None);
    }

    proptest! {
        #[test]
        fn reading_on_is_reading_at_once(
            steps in prop::collection::vec((0..4_u64, 0..300_000_usize, 0..9), 1..60),
        ) {
            let log = Arc::new(Log::new(0));
            let (mut seq, mut next, mut got) = (0, 0, Vec::new());
            for (skip, bytes, step) in steps {
                seq += skip;
                match step {
                    0 => log.miss(seq),
                    1..4 => {
                        let (events, _) = read(&log, next);
                        next = events.last().map_or(next, |event| event.seq + 1);
                        got.extend(events);
                    }
                    _ => seq = log.push(seq, &text(bytes), bytes),
                }
            }
            got.extend(read(&log, next).0);
            let grow = got.is_sorted_by(|one, other| one.seq < other.seq);
            prop_assert!(grow);
            // From what is kept on, both are the same.
            let (all, _) = read(&log, 0);
            let kept = all.iter().filter(|event| !matches!(event.event, RunEvent::Gap { .. }));
            for event in kept {
                prop_assert!(got.contains(event), "{}", event.seq);
            }
        }
    }
}
