//! One run in a context, as its caller sees it: events, the last of them [`RunEvent::End`].

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use emberd_proto::{Characters, EgressDenials};
use tokio::sync::mpsc;

use super::event::{RunEnd, RunEvent};
use super::status::Status;

/// Name of the error of a run whose interpreter ended.
const CONTEXT_ENDED: &str = "ContextEnded";

/// A run under way, or waiting to start. Dropping it before its end interrupts it.
pub struct Run {
    events: mpsc::Receiver<RunEvent>,
    status: Arc<Status>,
    stdout: Characters,
    stderr: Characters,
    /// Events to return first.
    waiting: VecDeque<RunEvent>,
    over: bool,
    /// The source of denials, and when the run was asked for.
    watch: Option<(Arc<dyn Denials>, u64)>,
}

/// A source of what the network policy has denied to a guest.
pub(crate) trait Denials: Send + Sync {
    fn mark(&self) -> u64;
    fn denied_since(&self, mark: u64) -> EgressDenials;
}

impl Run {
    pub(super) fn new(events: mpsc::Receiver<RunEvent>, status: Arc<Status>) -> Self {
        let (stdout, stderr) = Default::default();
        Self { events, status, stdout, stderr, waiting: VecDeque::new(), over: false, watch: None }
    }

    /// Has the end of the run tell what is denied from now on.
    pub(super) fn watched(self, denials: Arc<dyn Denials>) -> Self {
        let mark = denials.mark();
        Self { watch: Some((denials, mark)), ..self }
    }

    /// The next event; `None` after [`RunEvent::End`]. Cancel safe.
    pub async fn next(&mut self) -> Option<RunEvent> {
        while self.waiting.is_empty() && !self.over {
            let event = self.events.recv().await;
            self.take(event);
        }
        self.waiting.pop_front()
    }

    fn take(&mut self, event: Option<RunEvent>) {
        match event {
            Some(RunEvent::Stdout(piece)) => {
                let whole = self.stdout.take(&piece);
                self.output(RunEvent::Stdout, whole);
            }
            Some(RunEvent::Stderr(piece)) => {
                let whole = self.stderr.take(&piece);
                self.output(RunEvent::Stderr, whole);
            }
            Some(RunEvent::End(end)) => self.finish(None, end),
            Some(event) => self.waiting.push_back(event),
            None => {
                // The interpreter has ended without reporting the end of the run.
                let (value, end) = self.status.last_words();
                let (name, traceback) = (CONTEXT_ENDED.into(), format!("{CONTEXT_ENDED}: {value}"));
                self.finish(Some(RunEvent::Error { name, value, traceback }), end);
            }
        }
    }

    fn output(&mut self, event: fn(Bytes) -> RunEvent, bytes: Vec<u8>) {
        if !bytes.is_empty() {
            self.waiting.push_back(event(bytes.into()));
        }
    }

    fn finish(&mut self, error: Option<RunEvent>, mut end: RunEnd) {
        if let Some((denials, mark)) = &self.watch {
            end.egress = denials.denied_since(*mark);
        }
        let (stdout, stderr) = (self.stdout.end(), self.stderr.end());
        self.output(RunEvent::Stdout, stdout);
        self.output(RunEvent::Stderr, stderr);
        self.waiting.extend(error);
        self.waiting.push_back(RunEvent::End(end));
        self.over = true;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn characters_are_never_cut_and_at_the_end_all_is_out() {
        let (sender, events) = mpsc::channel(8);
        let mut run = Run::new(events, Arc::new(Status::new()));
        let pieces: [&[u8]; 3] = [b"a\xe2", b"\x82", b"\xac\xf0"];
        for piece in pieces {
            sender.send(RunEvent::Stdout(Bytes::from_static(piece))).await.unwrap();
            sender.send(RunEvent::Stderr(Bytes::from_static(b"\xc3"))).await.unwrap();
        }
        // As when the interpreter is lost.
        drop(sender);
        let mut events = Vec::new();
        while let Some(event) = run.next().await {
            events.push(event);
        }
        let stdout = |bytes: &[u8]| RunEvent::Stdout(Bytes::copy_from_slice(bytes));
        let stderr = |bytes: &[u8]| RunEvent::Stderr(Bytes::copy_from_slice(bytes));
        let output = [stdout(b"a"), stderr(b"\xc3"), stdout("€".as_bytes()), stderr(b"\xc3")];
        assert_eq!(events[..4], output);
        assert_eq!(events[4..6], [stdout(b"\xf0"), stderr(b"\xc3")]);
        assert!(matches!(&events[6], RunEvent::Error { name, .. } if name == CONTEXT_ENDED));
        assert!(matches!(events[7..], [RunEvent::End(_)]), "{events:?}");
    }
}
