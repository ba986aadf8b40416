//! Follows the output of a process, over connections that break.

use std::time::Duration;

use emberd_api::{ExecExit, ProcessEvent, ProcessEventKind};
use emberd_client::{Client, ClientError, Events};

use crate::failure::Failure;
use crate::text::{Cleaner, Kept};

/// Most times in a row that a broken connection is opened again.
const RETURNS_MAX: u32 = 5;

/// Pause before the first of these; each is twice as long as the one before.
const RETURN_PAUSE: Duration = Duration::from_millis(50);

/// The output of a process, as far as it was read.
#[derive(Debug)]
pub struct Followed {
    client: Client,
    sandbox: String,
    process: u32,
    /// Number of the next event.
    pub next: u64,
    events: Option<Events<ProcessEvent>>,
    stdout: (Cleaner, Kept),
    stderr: (Cleaner, Kept),
    /// Whether events before those read are not kept any more.
    pub has_gap: bool,
    /// How the process ended.
    pub exit: Option<ExecExit>,
}

impl Followed {
    /// The events of a process from number `from` on.
    pub fn new(client: &Client, sandbox: &str, process: u32, from: u64) -> Self {
        Self {
            client: client.clone(),
            sandbox: sandbox.to_owned(),
            process,
            next: from,
            events: None,
            stdout: Default::default(),
            stderr: Default::default(),
            has_gap: false,
            exit: None,
        }
    }

    /// Waits for more output, and returns it; none once the process has ended. Cancel safe.
    pub async fn more(&mut self) -> Result<Option<String>, Failure> {
        let mut returns = 0;
        while self.exit.is_none() {
            let Some(events) = &mut self.events else {
                let events = self.client.process_events(&self.sandbox, self.process, self.next);
                self.events = Some(events.await?);
                continue;
            };
            match events.next().await {
                Ok(Some(event)) => return Ok(Some(self.take(event))),
                // The daemon stops, or the process was deleted: asking again tells.
                Ok(None) | Err(ClientError::Broken { .. }) if returns < RETURNS_MAX => {}
                Ok(None) => return Ok(None),
                Err(error) => return Err(error.into()),
            }
            self.events = None;
            tokio::time::sleep(RETURN_PAUSE * (1 << returns)).await;
            returns += 1;
        }
        Ok(None)
    }

    fn take(&mut self, ProcessEvent { id, kind }: ProcessEvent) -> String {
        self.next = id.saturating_add(1);
        let ((cleaner, kept), text) = match kind {
            ProcessEventKind::Stdout(text) => (&mut self.stdout, text.text),
            ProcessEventKind::Stderr(text) => (&mut self.stderr, text.text),
            ProcessEventKind::Exit(exit) => {
                self.exit = Some(exit);
                return String::new();
            }
            ProcessEventKind::Gap { .. } => {
                self.has_gap = true;
                return String::new();
            }
            ProcessEventKind::Started { .. } | ProcessEventKind::Other => return String::new(),
        };
        cleaner.push(&text, kept);
        text
    }

    /// The process.
    pub fn process(&self) -> u32 {
        self.process
    }

    /// Standard output and standard error.
    pub fn into_texts(self) -> [(&'static str, Kept); 2] {
        let finished = |(cleaner, mut kept): (Cleaner, Kept)| {
            cleaner.finish(&mut kept);
            kept
        };
        [("stdout", finished(self.stdout)), ("stderr", finished(self.stderr))]
    }
}
