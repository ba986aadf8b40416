//! A run under way, as the task of its interpreter sees it.

use std::collections::VecDeque;

use bytes::Bytes;
use emberd_proto::{ContextEvent, EgressDenials, InterruptedBy};
use futures::future::BoxFuture;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::backlog::{Backlog, Output};
use super::event::{RunEnd, RunEvent};
use super::lines::Said;
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
    pub events: mpsc::Sender<RunEvent>,
    /// Not yet handed on.
    pub waiting: VecDeque<RunEvent>,
    /// Output that arrived before the run began.
    pub early: Backlog,
    since: Instant,
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
    pub fn new(events: mpsc::Sender<RunEvent>, deadline: Option<BoxFuture<'static, ()>>) -> Self {
        let since = Instant::now();
        Self {
            events,
            waiting: VecDeque::new(),
            early: Backlog::default(),
            since,
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

    /// Whether to read more from the guest before the waiting events are handed on. Output may
    /// overtake the event before it, so output is held back until the run has begun.
    pub fn takes(&self) -> bool {
        self.waiting.is_empty() || !self.begun
    }

    /// Handles a frame of the guest; returns whether the run has ended.
    pub fn take(&mut self, received: Received, status: &Status) -> bool {
        let lines = match received {
            Received::Output(output, text) => {
                self.output(output, text);
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
                    self.begin(execution_count, interrupted_by);
                }
                Some(ContextEvent::Done { execution_count }) => {
                    self.execution_count = execution_count;
                    self.waiting.extend(self.early.drain());
                    return true;
                }
                Some(_) if !self.begun => {}
                Some(ContextEvent::Result { data }) => self.tell(RunEvent::Result(data), bytes),
                Some(ContextEvent::Display { data }) => self.tell(RunEvent::Display(data), bytes),
                Some(ContextEvent::Error { name, value, traceback }) => {
                    self.tell(RunEvent::Error { name, value, traceback }, bytes);
                }
            }
        }
        false
    }

    /// Some of its events are lost; perhaps that it has begun.
    pub fn miss(&mut self) {
        self.truncated = true;
        self.begun = true;
        self.waiting.extend(self.early.drain());
    }

    fn begin(&mut self, execution_count: u64, interrupted_by: InterruptedBy) {
        self.begun = true;
        self.interrupted_by = interrupted_by;
        self.execution_count = execution_count;
        if !self.left {
            // In front of the output that overtook it.
            self.waiting.push_back(RunEvent::Started { execution_count });
            self.waiting.extend(self.early.drain());
        }
    }

    fn output(&mut self, output: Output, text: Bytes) {
        if text.is_empty() || self.left {
            return;
        }
        if !self.begun {
            self.bytes = self.bytes.saturating_add(text.len());
            self.truncated |= !self.early.push(output, &text);
            return;
        }
        let bytes = text.len();
        self.tell(output.event(text), bytes);
    }

    fn tell(&mut self, event: RunEvent, bytes: usize) {
        self.bytes = self.bytes.saturating_add(bytes);
        if self.bytes > RUN_BYTES_MAX {
            self.truncated = true;
        } else if !self.left {
            self.waiting.push_back(event);
        }
    }

    /// The caller has left: interrupts the run.
    pub fn leave(&mut self) {
        self.left = true;
        self.interrupt = true;
        self.waiting.clear();
        self.early = Backlog::default();
    }

    pub fn end(&self) -> RunEnd {
        RunEnd {
            execution_count: self.execution_count,
            timed_out: self.timed_out,
            truncated: self.truncated,
            duration: self.since.elapsed(),
            // Its caller's end knows.
            egress: EgressDenials::default(),
        }
    }

    /// Hands on the waiting events.
    pub async fn flush(&mut self) {
        for event in self.waiting.drain(..) {
            // A caller that has left takes no events.
            if self.events.send(event).await.is_err() {
                return;
            }
        }
    }

    /// Hands on the waiting events and the end of the run.
    pub async fn finish(mut self) {
        let end = self.end();
        self.flush().await;
        self.events.send(RunEvent::End(end)).await.ok();
    }
}
