//! The task that listens to one interpreter, and has it run what is ordered.
//!
//! ```text
//! idle ── order ─▶ line sent ─▶ started ─▶ events … ─▶ done ─▶ idle
//!                                 │ caller gone, interrupt, time limit ─▶ SIGINT
//!                                 └ time limit and grace ─▶ the interpreter is ended
//! ```
//! A caller that does not read holds up the run, and nothing else: the guest stops writing.

use std::collections::VecDeque;
use std::future;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use emberd_proto::{
    ContextCall, ContextEvent, ExecExit, Frame, GuestMessage, HostMessage, InterruptedBy, Kind,
    SignalName,
};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::time::{Instant, sleep_until, timeout};

use super::backlog::{Backlog, Output};
use super::error::ContextError;
use super::event::{RunEnd, RunEvent};
use super::lines::{Lines, Malformed, Said};
use super::status::Status;
use crate::chain::chain;
use crate::error::GuestError;
use crate::host::ByteStream;
use crate::line::{LineReader, LineWriter};

/// How long an interpreter may take to get ready. One that is forked waits for its zygote, and
/// an emulated one on a busy host imports what the pack `code` has in more than a minute.
const READY_WAIT: Duration = Duration::from_secs(180);

/// How long an interpreter that is interrupted at its time limit may take to end the run.
const INTERRUPT_GRACE: Duration = Duration::from_secs(5);

/// Pause between two interrupts of a run whose interpreter may miss one, or has begun a program
/// that does.
const INTERRUPT_AGAIN: Duration = Duration::from_secs(1);

/// Most bytes one run says, output and events together (64 MiB); the rest is dropped and
/// flagged.
const RUN_BYTES_MAX: usize = 64 << 20;

/// Most bytes of an interpreter's output that tell why it did not start (4 KiB).
const WORDS_BYTES_MAX: usize = 4 << 10;

/// Code to run, and whoever waits for it.
pub(super) struct Order {
    /// The call.
    pub line: Vec<u8>,
    /// Time limit from its turn on.
    pub timeout: Option<Duration>,
    /// Where events go.
    pub events: mpsc::Sender<RunEvent>,
}

/// How an interpreter came to its end.
enum Ended {
    Exited(ExecExit),
    Malformed,
    TimedOut,
    Lost(GuestError),
}

impl From<GuestError> for Ended {
    fn from(error: GuestError) -> Self {
        Self::Lost(error)
    }
}

impl From<Malformed> for Ended {
    fn from(Malformed: Malformed) -> Self {
        Self::Malformed
    }
}

impl Ended {
    /// For people.
    fn reason(&self) -> String {
        match self {
            Self::Exited(ExecExit { error: Some(error), .. }) => error.clone(),
            Self::Exited(ExecExit { signal: Some(signal), .. }) => {
                format!("its interpreter was killed by signal {signal}")
            }
            Self::Exited(exit) => {
                format!("its interpreter ended with exit code {}", exit.exit_code)
            }
            Self::Malformed => "its interpreter sent a malformed event and was killed".to_owned(),
            Self::TimedOut => {
                let grace = INTERRUPT_GRACE.as_secs();
                format!("it ignored its interrupt and was killed {grace} s after its time limit")
            }
            Self::Lost(error) => chain(error),
        }
    }
}

/// An interpreter, at the other end of a connection of its own.
pub(super) struct Interpreter<S> {
    reader: LineReader<S>,
    writer: LineWriter<S>,
    lines: Lines,
    status: Arc<Status>,
    interrupted: watch::Receiver<u64>,
}

/// What the guest said.
enum Heard {
    Output(Output, Bytes),
    Lines(Vec<Said>),
}

impl<S: ByteStream> Interpreter<S> {
    pub fn new(
        reader: LineReader<S>,
        writer: LineWriter<S>,
        status: Arc<Status>,
        interrupted: watch::Receiver<u64>,
        line_bytes: Arc<Semaphore>,
    ) -> Self {
        Self { reader, writer, lines: Lines::new(line_bytes), status, interrupted }
    }

    /// Waits until it is ready.
    pub async fn ready(&mut self) -> Result<(), ContextError> {
        let mut words = Vec::new();
        let listen = async {
            loop {
                match self.hear().await? {
                    Heard::Output(_, text) => {
                        let room = WORDS_BYTES_MAX - words.len();
                        words.extend_from_slice(&text[..text.len().min(room)]);
                    }
                    Heard::Lines(lines) => match lines.first() {
                        None => {}
                        Some(Said { event: Some(ContextEvent::Ready), .. }) => return Ok(()),
                        Some(_) => return Err(Ended::Malformed),
                    },
                }
            }
        };
        let reason = match timeout(READY_WAIT, listen).await {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(Ended::Lost(error))) => return Err(error.into()),
            Ok(Err(ended)) => ended.reason(),
            Err(_) => format!("it was not ready within {READY_WAIT:?}"),
        };
        let words = String::from_utf8_lossy(&words);
        let words = words.trim_end();
        let colon = if words.is_empty() { "" } else { ": " };
        Err(ContextError::Start(format!("{reason}{colon}{words}")))
    }

    /// Runs what is ordered until the interpreter has ended; says how it did.
    pub async fn serve(mut self, mut orders: mpsc::Receiver<Order>) -> String {
        loop {
            let order = tokio::select! {
                biased;
                // What comes between runs, from threads and the like, is nobody's.
                heard = self.hear() => match heard {
                    Ok(_) => continue,
                    Err(ended) => return ended.reason(),
                },
                order = orders.recv() => order,
            };
            let Some(order) = order else { return future::pending().await };
            if order.events.is_closed() {
                continue;
            }
            self.status.set_busy(true);
            let mut run = Running::new(order.events, order.timeout);
            let ran = self.run(&order.line, &mut run).await;
            if let Err(ended) = ran {
                // First known, then told: whoever waits asks why.
                self.status.lose(run.end());
                let reason = ended.reason();
                self.status.die(&reason);
                run.waiting.extend(run.early.drain());
                run.flush().await;
                return reason;
            }
            self.status.set_busy(false);
            run.finish().await;
        }
    }

    async fn run(&mut self, line: &[u8], run: &mut Running) -> Result<(), Ended> {
        self.interrupted.borrow_and_update();
        self.writer.send(Kind::Data, line).await?;
        let events = run.events.clone();
        loop {
            // In no order, so that a program that never stops talking can be interrupted.
            tokio::select! {
                heard = hear(&mut self.reader, &mut self.lines), if run.takes() => {
                    if run.take(heard?, &self.status) {
                        return Ok(());
                    }
                }
                permit = events.reserve(), if !run.takes() => match permit {
                    Ok(permit) => permit.send(run.waiting.pop_front().expect("it is not empty")),
                    Err(_) => run.leave(),
                },
                () = events.closed(), if !run.left => run.leave(),
                Ok(()) = self.interrupted.changed() => run.interrupt = true,
                () = until(run.again) => run.interrupt = true,
                () = until(run.deadline) => {
                    if run.timed_out {
                        return Err(Ended::TimedOut);
                    }
                    run.timed_out = true;
                    run.interrupt = true;
                    run.deadline = Some(Instant::now() + INTERRUPT_GRACE);
                }
            }
            // Before it has begun, nothing would heed it.
            if !run.begun || !run.interrupt {
                continue;
            }
            run.interrupt = false;
            let repeated = run.interrupted_by != InterruptedBy::Signal;
            run.again = repeated.then(|| Instant::now() + INTERRUPT_AGAIN);
            self.interrupt(run.interrupted_by).await?;
        }
    }

    async fn interrupt(&mut self, by: InterruptedBy) -> Result<(), Ended> {
        self.writer.say(&HostMessage::Signal { signal: SignalName::SigInt }).await?;
        if by == InterruptedBy::Call {
            self.writer.send(Kind::Data, &line_of(&ContextCall::Interrupt)).await?;
        }
        Ok(())
    }

    async fn hear(&mut self) -> Result<Heard, Ended> {
        hear(&mut self.reader, &mut self.lines).await
    }
}

/// A call as the interpreter reads it.
pub(super) fn line_of(call: &ContextCall) -> Vec<u8> {
    let mut line = serde_json::to_vec(call).expect("strings become JSON");
    line.push(b'\n');
    line
}

/// Waits for what the guest says next. Cancel safe.
async fn hear<S: ByteStream>(
    reader: &mut LineReader<S>,
    lines: &mut Lines,
) -> Result<Heard, Ended> {
    reader.unless_ended(lines.room()).await?;
    let frame = reader.frame().await?;
    match frame.kind {
        Kind::Stdout => Ok(Heard::Output(Output::Stdout, frame.payload)),
        Kind::Stderr => Ok(Heard::Output(Output::Stderr, frame.payload)),
        Kind::Data => Ok(Heard::Lines(lines.push(&frame.payload)?)),
        Kind::Control => match exit(&frame) {
            Some(exit) => Err(Ended::Exited(exit)),
            None => Err(reader.broken("unexpected message on a context connection").await.into()),
        },
        Kind::Stdin | Kind::StdinEnd | Kind::DataEnd => {
            Err(reader.broken("unexpected frame on a context connection").await.into())
        }
    }
}

fn exit(frame: &Frame) -> Option<ExecExit> {
    match frame.message() {
        Ok(GuestMessage::Exited(exit)) => Some(exit),
        _ => None,
    }
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline).await,
        None => future::pending().await,
    }
}

/// A run under way.
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
struct Running {
    events: mpsc::Sender<RunEvent>,
    /// Not yet handed on.
    waiting: VecDeque<RunEvent>,
    /// What came before the run has begun.
    early: Backlog,
    since: Instant,
    deadline: Option<Instant>,
    /// When it is interrupted once more.
    again: Option<Instant>,
    bytes: usize,
    /// Whether the interpreter has begun with it.
    begun: bool,
    interrupted_by: InterruptedBy,
    /// Whether it is to be interrupted once it has begun.
    interrupt: bool,
    /// Whether nobody listens any more.
    left: bool,
    timed_out: bool,
    truncated: bool,
    execution_count: u64,
}

impl Running {
    fn new(events: mpsc::Sender<RunEvent>, timeout: Option<Duration>) -> Self {
        let since = Instant::now();
        Self {
            events,
            waiting: VecDeque::new(),
            early: Backlog::default(),
            since,
            deadline: timeout.map(|timeout| since + timeout),
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

    /// Whether more is taken from the guest before what waits is handed on. Output overtakes
    /// the event that came after it, so what comes before the run has begun is kept back.
    fn takes(&self) -> bool {
        self.waiting.is_empty() || !self.begun
    }

    /// Takes what the guest said; whether the run is over.
    fn take(&mut self, heard: Heard, status: &Status) -> bool {
        let lines = match heard {
            Heard::Output(output, text) => {
                self.output(output, text);
                return false;
            }
            Heard::Lines(lines) => lines,
        };
        for Said { event, bytes } in lines {
            match event {
                // What is said before a run has begun is nobody's, as between two runs.
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

    /// Nobody listens any more: what is run for nobody is interrupted.
    fn leave(&mut self) {
        self.left = true;
        self.interrupt = true;
        self.waiting.clear();
        self.early = Backlog::default();
    }

    fn end(&self) -> RunEnd {
        RunEnd {
            execution_count: self.execution_count,
            timed_out: self.timed_out,
            truncated: self.truncated,
            duration: self.since.elapsed(),
        }
    }

    /// Hands on what waits.
    async fn flush(&mut self) {
        for event in self.waiting.drain(..) {
            // A caller that has left wants none of it.
            if self.events.send(event).await.is_err() {
                return;
            }
        }
    }

    /// Hands on what waits, and that it is over.
    async fn finish(mut self) {
        let end = self.end();
        self.flush().await;
        self.events.send(RunEvent::End(end)).await.ok();
    }
}
