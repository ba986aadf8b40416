//! One run in a context, as its caller sees it: events, the last of them [`RunEvent::End`].

use std::collections::VecDeque;
use std::sync::Arc;

use tokio::sync::mpsc;

use super::event::{NumberedEvent, RunEnd, RunEvent};
use super::log::{Log, ended};
use super::status::Status;

/// A run under way, or waiting to start. Dropping it before its end interrupts it.
pub struct Run {
    events: mpsc::Receiver<NumberedEvent>,
    status: Arc<Status>,
    log: Arc<Log>,
    /// The last events of a run that was lost with its interpreter.
    last: VecDeque<NumberedEvent>,
    over: bool,
}

impl Run {
    pub(super) fn new(
        events: mpsc::Receiver<NumberedEvent>,
        status: Arc<Status>,
        log: Arc<Log>,
    ) -> Self {
        Self { events, status, log, last: VecDeque::new(), over: false }
    }

    /// The next event; `None` after [`RunEvent::End`]. Cancel safe.
    pub async fn next(&mut self) -> Option<NumberedEvent> {
        if !self.over {
            let event = self.events.recv().await;
            self.over = event.as_ref().is_none_or(|event| matches!(event.event, RunEvent::End(_)));
            if event.is_some() {
                return event;
            }
            self.lose();
        }
        self.last.pop_front()
    }

    /// The interpreter has ended without reporting the end of the run.
    fn lose(&mut self) {
        let (why, execution_count) = self.status.last_words();
        let end = RunEvent::End(RunEnd { execution_count, ..RunEnd::default() });
        let seq = self.log.next();
        self.last.extend([ended(&why), end].map(|event| NumberedEvent { seq, event }));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_run_whose_interpreter_is_gone_has_an_end() {
        let (sender, events) = mpsc::channel(8);
        let mut run = Run::new(events, Arc::new(Status::new()), Arc::new(Log::new(4)));
        let first = NumberedEvent { seq: 3, event: RunEvent::Stdout("a".into()) };
        sender.send(first.clone()).await.unwrap();
        drop(sender);
        assert_eq!(run.next().await, Some(first));
        let error = run.next().await.unwrap();
        assert!(matches!(error.event, RunEvent::Error { name, .. } if name == "ContextEnded"));
        assert!(matches!(run.next().await.unwrap().event, RunEvent::End(_)));
        assert_eq!(run.next().await, None);
    }
}
