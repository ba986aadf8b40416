//! Programs that go on while daemons end, and of which every event is known.

use emberd_api::{ProcessEventKind, ProcessSpec, TtySize};
use emberd_client::Client;

use super::{Cut, answered};

/// Numbers each line that it is given.
const TERMINAL: &str = "stty -echo; n=0; while read -r line; do n=$((n + 1)); echo $n $line; done";

/// Counts the ticks of a clock.
const TICKER: &str = "n=0; while sleep 0.05; do n=$((n + 1)); echo $n; done";

/// Ticks that are waited for each time.
const TICKS: u64 = 3;

/// A kind of program.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Program {
    Terminal,
    Ticker,
}

impl Program {
    pub fn spec(self) -> ProcessSpec {
        let (code, tty) = match self {
            Self::Terminal => (TERMINAL, Some(TtySize { cols: 80, rows: 24 })),
            Self::Ticker => (TICKER, None),
        };
        ProcessSpec { tty, ..ProcessSpec::of_argv(["sh", "-c", code]) }
    }
}

/// A program, and what its caller has heard of it.
pub struct Watched {
    program: Program,
    pid: u32,
    /// Number of the next event.
    next: u64,
    /// Begin of a line whose end is not here yet.
    text: String,
    /// Lines that were heard.
    heard: u64,
    /// The last line that the terminal has answered, and the last that was given to it.
    last: u64,
    given: u64,
}

impl Watched {
    pub fn new(program: Program, pid: u32) -> Self {
        Self { program, pid, next: 0, text: String::new(), heard: 0, last: 0, given: 0 }
    }

    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Has the program answer, or waits until it has gone on.
    pub async fn read_on(&mut self, client: &Client, id: &str) -> Result<(), Cut> {
        match self.program {
            Program::Terminal => {
                self.given += 1;
                let line = format!("{}\n", self.given);
                answered(client.write_stdin(id, self.pid, line, false).await)?;
                let given = self.given;
                self.hear(client, id, |watched| watched.last == given).await
            }
            Program::Ticker => {
                let until = self.heard + TICKS;
                self.hear(client, id, |watched| watched.heard >= until).await
            }
        }
    }

    /// Reads events, each by its number, until `is_enough`.
    async fn hear(
        &mut self,
        client: &Client,
        id: &str,
        is_enough: impl Fn(&Self) -> bool,
    ) -> Result<(), Cut> {
        let mut attachment = answered(client.attach(id, self.pid, self.next).await)?;
        while !is_enough(self) {
            let event = answered(attachment.event().await)?.expect("it runs");
            assert_eq!(event.id, self.next, "{id}: an event is lost or repeated: {event:?}");
            self.next += 1;
            match event.kind {
                ProcessEventKind::Started { pid } => assert_eq!((pid, event.id), (self.pid, 0)),
                ProcessEventKind::Stdout(said) => self.take(&said.text),
                other => panic!("{id}: {other:?}"),
            }
        }
        Ok(())
    }

    fn take(&mut self, text: &str) {
        self.text.push_str(text);
        while let Some(end) = self.text.find('\n') {
            let line: String = self.text.drain(..=end).collect();
            let words: Vec<u64> =
                line.split_whitespace().map(|word| word.parse().unwrap()).collect();
            match (self.program, &words[..]) {
                // The terminal's echo of a line that came before its program had switched it off.
                (Program::Terminal, [given]) => assert!(*given <= self.given, "{line:?}"),
                (Program::Terminal, [number, answered]) => {
                    self.count(*number, &line);
                    // A line whose writing was not answered may have never arrived.
                    assert!(self.last < *answered && *answered <= self.given, "{line:?}");
                    self.last = *answered;
                }
                (Program::Ticker, [number]) => self.count(*number, &line),
                _ => panic!("{line:?}"),
            }
        }
    }

    fn count(&mut self, number: u64, line: &str) {
        self.heard += 1;
        assert_eq!(number, self.heard, "output is lost or repeated: {line:?}");
    }
}
