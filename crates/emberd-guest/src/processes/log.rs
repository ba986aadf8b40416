//! The latest events of a process, numbered and bounded in number and bytes.

use std::collections::VecDeque;

use bytes::Bytes;
use emberd_proto::ExecExit;

/// Most bytes of output kept of one process (1 MiB).
pub const EVENT_BYTES_MAX: usize = 1 << 20;

/// Most events kept of one process: a program that writes byte by byte makes many small ones,
/// each of which costs more than its byte.
pub const EVENTS_MAX: usize = 8192;

/// One thing that happened to a process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProcessEvent {
    /// Number of the event: one more than that of the event before it.
    pub seq: u64,
    /// The event itself.
    pub kind: ProcessEventKind,
}

/// One event of a process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ProcessEventKind {
    /// The process runs.
    Started,
    /// The process wrote to standard output, or to its terminal.
    Stdout(Bytes),
    /// The process wrote to standard error.
    Stderr(Bytes),
    /// The process ended; no event follows.
    Exited(ExecExit),
    /// Events from `first_missing` up to and including this one's number are no longer kept.
    Gap {
        /// Number of the first missing event.
        first_missing: u64,
    },
}

/// Result of reading from some event number on.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Read {
    Event(ProcessEvent),
    /// The next event has not happened yet.
    Wait,
    /// No event follows.
    End,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Log {
    events: VecDeque<ProcessEventKind>,
    /// Number of the first event kept.
    first: u64,
    bytes: usize,
    exit: Option<ExecExit>,
}

impl Log {
    pub fn new() -> Self {
        Self { events: VecDeque::new(), first: 0, bytes: 0, exit: None }
    }

    /// Number of the next event.
    pub fn next(&self) -> u64 {
        self.first + self.events.len() as u64
    }

    /// How many bytes of output are kept.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    pub fn exit(&self) -> Option<&ExecExit> {
        self.exit.as_ref()
    }

    /// Adds the event with number `seq`. Those between it and the last are not known to anybody.
    pub fn push(&mut self, seq: u64, event: ProcessEventKind) {
        if seq > self.next() {
            self.events.clear();
            self.bytes = 0;
            self.first = seq;
        }
        if let ProcessEventKind::Exited(exit) = &event {
            self.exit = Some(exit.clone());
        }
        self.bytes += size(&event);
        self.events.push_back(event);
        while self.events.len() > EVENTS_MAX || self.bytes > EVENT_BYTES_MAX {
            let Some(oldest) = self.events.pop_front() else { break };
            self.bytes -= size(&oldest);
            self.first += 1;
        }
    }

    pub fn read(&self, from: u64) -> Read {
        if from < self.first {
            let kind = ProcessEventKind::Gap { first_missing: from };
            return Read::Event(ProcessEvent { seq: self.first - 1, kind });
        }
        let index = usize::try_from(from - self.first).ok();
        match index.and_then(|index| self.events.get(index)) {
            Some(kind) => Read::Event(ProcessEvent { seq: from, kind: kind.clone() }),
            None if self.exit.is_some() => Read::End,
            None => Read::Wait,
        }
    }
}

fn size(event: &ProcessEventKind) -> usize {
    match event {
        ProcessEventKind::Stdout(bytes) | ProcessEventKind::Stderr(bytes) => bytes.len(),
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn stdout(log: &Log, seq: u64) -> Vec<u8> {
        match log.read(seq) {
            Read::Event(ProcessEvent { kind: ProcessEventKind::Stdout(bytes), .. }) => {
                bytes.to_vec()
            }
            other => panic!("event {seq} is {other:?}"),
        }
    }

    fn started() -> Log {
        let mut log = Log::new();
        log.push(0, ProcessEventKind::Started);
        log
    }

    fn write(log: &mut Log, bytes: &[u8]) {
        log.push(log.next(), ProcessEventKind::Stdout(Bytes::copy_from_slice(bytes)));
    }

    #[test]
    fn events_are_numbered_from_the_start_to_the_end() {
        let mut log = started();
        write(&mut log, b"a");
        assert_eq!(log.read(2), Read::Wait);
        log.push(2, ProcessEventKind::Exited(ExecExit::default()));
        assert!(matches!(log.read(0), Read::Event(e) if e.kind == ProcessEventKind::Started));
        assert_eq!(stdout(&log, 1), b"a");
        assert!(matches!(log.read(2), Read::Event(e) if e.kind
            == ProcessEventKind::Exited(ExecExit::default())));
        assert_eq!((log.read(3), log.read(u64::MAX)), (Read::End, Read::End));
    }

    #[test]
    fn memory_is_bounded_and_what_is_lost_is_told() {
        let mut log = started();
        let piece = vec![b'x'; 1 << 16];
        for _ in 0..100 {
            write(&mut log, &piece);
        }
        assert_eq!(log.bytes, EVENT_BYTES_MAX);
        let Read::Event(gap) = log.read(7) else { panic!("no gap") };
        assert_eq!(gap.kind, ProcessEventKind::Gap { first_missing: 7 });
        assert_eq!(gap.seq + 1, log.first);
        assert_eq!(stdout(&log, gap.seq + 1).len(), piece.len());
        for _ in 0..2 * EVENTS_MAX {
            write(&mut log, b"x");
        }
        assert_eq!(log.events.len(), EVENTS_MAX);
    }

    #[test]
    fn what_the_guest_no_longer_has_is_a_gap_and_numbers_stay_its_own() {
        let mut log = started();
        write(&mut log, b"a");
        log.push(9, ProcessEventKind::Stdout(Bytes::from_static(b"b")));
        assert_eq!((stdout(&log, 9), log.next()), (b"b".to_vec(), 10));
        let Read::Event(gap) = log.read(1) else { panic!("no gap") };
        assert_eq!((gap.seq, gap.kind), (8, ProcessEventKind::Gap { first_missing: 1 }));
    }

    /// One thing that is done to a log.
    #[derive(Debug, Clone)]
    enum Op {
        Write {
            is_error: bool,
            bytes: usize,
            times: usize,
        },
        /// Follows the events from the one after the last that was read.
        Follow,
        /// Reads the event with a number, given in per cent of the next one's.
        Read {
            percent: u64,
        },
    }

    fn op() -> impl Strategy<Value = Op> {
        let write = |bytes, times| {
            (any::<bool>(), bytes, times).prop_map(|(is_error, bytes, times)| Op::Write {
                is_error,
                bytes,
                times,
            })
        };
        prop_oneof![
            4 => write(0..3_usize, 1..EVENTS_MAX / 2),
            3 => write(0..EVENT_BYTES_MAX / 3, 1..5),
            3 => Just(Op::Follow),
            3 => (0..120_u64).prop_map(|percent| Op::Read { percent }),
        ]
    }

    /// The model of a log: every event there ever was.
    #[derive(Default)]
    struct Model {
        all: Vec<ProcessEventKind>,
        has_ended: bool,
    }

    impl Model {
        /// Number of the first event that is kept: the latest events that are within both limits.
        fn first(&self) -> usize {
            let mut bytes = 0;
            let within = self.all.iter().rev().take(EVENTS_MAX).take_while(|event| {
                bytes += size(event);
                bytes <= EVENT_BYTES_MAX
            });
            self.all.len() - within.count()
        }

        fn read(&self, from: usize, first: usize) -> Read {
            if from < first {
                let kind = ProcessEventKind::Gap { first_missing: from as u64 };
                return Read::Event(ProcessEvent { seq: first as u64 - 1, kind });
            }
            match self.all.get(from) {
                Some(kind) => Read::Event(ProcessEvent { seq: from as u64, kind: kind.clone() }),
                None if self.has_ended => Read::End,
                None => Read::Wait,
            }
        }
    }

    /// Reads all events of `log` from number `from` on, as `model` has them; returns the number
    /// of the next one.
    fn follow(log: &Log, model: &Model, mut from: usize) -> usize {
        let first = model.first();
        loop {
            let read = log.read(from as u64);
            assert_eq!(read, model.read(from, first));
            let Read::Event(event) = read else { return from };
            assert!(event.seq >= from as u64, "the numbers of events never fall");
            from = usize::try_from(event.seq).unwrap() + 1;
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        #[test]
        fn a_log_keeps_its_latest_events_and_tells_of_every_gap(ops in vec(op(), 1..16)) {
            let mut log = started();
            let mut model = Model { all: vec![ProcessEventKind::Started], has_ended: false };
            let mut followed = 0;
            for op in ops {
                match op {
                    Op::Write { is_error, bytes, times } => for _ in 0..times {
                        // One letter for each event, so that none can stand for its neighbour.
                        let letter = b'a' + u8::try_from(model.all.len() % 26).unwrap();
                        let text = Bytes::from(vec![letter; bytes]);
                        let event = if is_error {
                            ProcessEventKind::Stderr(text)
                        } else {
                            ProcessEventKind::Stdout(text)
                        };
                        log.push(log.next(), event.clone());
                        model.all.push(event);
                    },
                    Op::Follow => followed = follow(&log, &model, followed),
                    Op::Read { percent } => {
                        let from = usize::try_from(log.next() * percent / 100).unwrap();
                        prop_assert_eq!(log.read(from as u64), model.read(from, model.first()));
                    }
                }
                let kept = &model.all[model.first()..];
                prop_assert_eq!(log.next(), model.all.len() as u64);
                prop_assert_eq!(log.bytes(), kept.iter().map(size).sum::<usize>());
                prop_assert_eq!(log.events.len(), kept.len());
            }
            log.push(log.next(), ProcessEventKind::Exited(ExecExit::default()));
            model.all.push(ProcessEventKind::Exited(ExecExit::default()));
            model.has_ended = true;
            follow(&log, &model, followed);
            follow(&log, &model, 0);
        }
    }
}
