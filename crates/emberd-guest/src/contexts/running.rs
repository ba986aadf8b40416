//! A run under way, as the task of its interpreter sees it.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use emberd_proto::{ContextEvent, EgressDenials, InterruptedBy};
use futures::future::BoxFuture;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::backlog::{Backlog, Output};
use super::event::{NumberedEvent, RunEnd, RunEvent};
use super::lines::Said;
use super::log::{Log, ended};
use super::status::Status;

/// Most bytes of output and events of one run (64 MiB); the rest is dropped and flagged.
const RUN_BYTES_MAX: usize = 64 << 20;

/// A piece of news of a context.
pub(super) enum Received {
    Output(Output, Bytes),
    Lines(Vec<Said>),
}

/// A run under way.
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
pub(super) struct Running {
    pub events: mpsc::Sender<NumberedEvent>,
    /// Not yet handed on.
    pub waiting: VecDeque<NumberedEvent>,
    log: Arc<Log>,
    /// Output that arrived before the run began, and the number of the first of it.
    early: Backlog,
    early_seq: Option<u64>,
    since: Instant,
    /// When the run was asked for, for what the network policy has denied since.
    pub mark: u64,
    /// Passes when the guest has run for the time limit, and then for the grace.
    pub deadline: Option<BoxFuture<'static, ()>>,
    /// When the run is interrupted again.
    pub again: Option<Instant>,
    bytes: usize,
    /// Whether the interpreter has begun the run.
    pub begun: bool,
    pub interrupted_by: InterruptedBy,
    /// Whether to interrupt the run once it has begun.
    pub interrupt: bool,
    /// Whether the caller has left.
    pub left: bool,
    pub timed_out: bool,
    truncated: bool,
    execution_count: u64,
}

impl Running {
    pub fn new(
        events: mpsc::Sender<NumberedEvent>,
        log: Arc<Log>,
        deadline: Option<BoxFuture<'static, ()>>,
        mark: u64,
    ) -> Self {
        Self {
            events,
            waiting: VecDeque::new(),
            log,
            early: Backlog::default(),
            early_seq: None,
            since: Instant::now(),
            mark,
            deadline,
            again: None,
            bytes: 0,
            begun: false,
            interrupted_by: InterruptedBy::default(),
            interrupt: false,
            left: false,
            timed_out: false,
            truncated: false,
            execution_count: 0,
        }
    }

    /// The rest of a run that was asked for so long ago, by a caller who is gone.
    pub fn resumed(self, passed: Duration) -> Self {
        let since = self.since.checked_sub(passed).unwrap_or(self.since);
        Self { since, left: true, ..self }
    }

    /// Whether to read more from the guest before the waiting events are handed on. Output may
    /// overtake the event before it, so output is held back until the run has begun.
    pub fn takes(&self) -> bool {
        self.waiting.is_empty() || !self.begun
    }

    /// Handles the guest's frame with number `seq`; returns whether the run has ended.
    pub fn take(&mut self, seq: u64, received: Received, status: &Status) -> bool {
        let lines = match received {
            Received::Output(output, text) => {
                self.output(seq, output, text);
                return false;
            }
            Received::Lines(lines) => lines,
        };
        for Said { event, bytes } in lines {
            match event {
                // A line before the run has begun belongs to no run.
                None => self.truncated |= self.begun,
                Some(ContextEvent::Ready) => {}
                Some(ContextEvent::Started { execution_count, interrupted_by }) => {
                    status.count(execution_count);
                    self.begin(seq, execution_count, interrupted_by);
                }
                Some(ContextEvent::Done { execution_count }) => {
                    self.execution_count = execution_count;
                    self.tell_early();
                    return true;
                }
                Some(_) if !self.begun => {}
                Some(ContextEvent::Result { data }) => {
                    self.tell(seq, RunEvent::Result(data), bytes);
                }
                Some(ContextEvent::Display { data }) => {
                    self.tell(seq, RunEvent::Display(data), bytes);
                }
                Some(ContextEvent::Error { name, value, traceback }) => {
                    self.tell(seq, RunEvent::Error { name, value, traceback }, bytes);
                }
            }
        }
        false
    }

    /// Some of its events before number `seq` are lost; perhaps that it has begun.
    pub fn miss(&mut self, seq: u64) {
        self.truncated = true;
        self.begun = true;
        self.tell_early();
        self.log.miss(seq);
    }

    fn begin(&mut self, seq: u64, execution_count: u64, interrupted_by: InterruptedBy) {
        self.begun = true;
        self.interrupted_by = interrupted_by;
        self.execution_count = execution_count;
        // In front of the output that overtook it, with the first number of that: there are as many
        // numbers as events.
        let seq = self.early_seq.unwrap_or(seq);
        self.hand_on(seq, RunEvent::Started { execution_count }, 0);
        self.tell_early();
    }

    fn output(&mut self, seq: u64, output: Output, text: Bytes) {
        if text.is_empty() {
            return;
        }
        let bytes = text.len();
        if !self.begun {
            self.bytes = self.bytes.saturating_add(bytes);
            self.early_seq.get_or_insert(seq);
            self.truncated |= !self.early.push(output, &text);
            return;
        }
        self.tell(seq, output.event(text), bytes);
    }

    /// Tells what came early, which was counted then.
    fn tell_early(&mut self) {
        let Some(seq) = self.early_seq.take() else { return };
        for event in std::mem::take(&mut self.early).drain() {
            let bytes = match &event {
                RunEvent::Stdout(text) | RunEvent::Stderr(text) => text.len(),
                _ => 0,
            };
            self.hand_on(seq, event, bytes);
        }
    }

    fn tell(&mut self, seq: u64, event: RunEvent, bytes: usize) {
        self.bytes = self.bytes.saturating_add(bytes);
        if self.bytes > RUN_BYTES_MAX {
            self.truncated = true;
        } else {
            self.hand_on(seq, event, bytes);
        }
    }

    fn hand_on(&mut self, seq: u64, event: RunEvent, bytes: usize) {
        let seq = self.log.push(seq, &event, bytes);
        if !self.left {
            self.waiting.push_back(NumberedEvent { seq, event });
        }
    }

    /// The caller has left: interrupts the run.
    pub fn leave(&mut self) {
        self.left = true;
        self.interrupt = true;
        self.waiting.clear();
    }

    fn end(&self, egress: EgressDenials) -> RunEnd {
        RunEnd {
            execution_count: self.execution_count,
            timed_out: self.timed_out,
            truncated: self.truncated,
            duration: self.since.elapsed(),
            egress,
        }
    }

    /// Hands on the waiting events.
    async fn flush(&mut self) {
        for event in self.waiting.drain(..) {
            // A caller that has left takes no events.
            if self.events.send(event).await.is_err() {
                return;
            }
        }
    }

    /// Hands on the waiting events and the end of the run, which has number `seq`.
    pub async fn finish(mut self, seq: u64, egress: EgressDenials) {
        let end = RunEvent::End(self.end(egress));
        self.hand_on(seq, end, 0);
        self.flush().await;
    }

    /// As [`Self::finish`], where the interpreter has ended, for the reason `why`.
    pub async fn lose(mut self, seq: u64, why: &str, egress: EgressDenials) {
        self.tell_early();
        self.hand_on(seq, ended(why), why.len());
        self.finish(seq, egress).await;
    }
}
