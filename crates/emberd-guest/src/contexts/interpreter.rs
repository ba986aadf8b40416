//! The task of one interpreter: reads its events and sends it the code to run.
//!
//! ```text
//! idle ── order ─▶ line sent ─▶ started ─▶ events … ─▶ done ─▶ idle
//!                                 │ caller gone, interrupt, time limit ─▶ SIGINT
//!                                 └ time limit and grace ─▶ the interpreter is ended
//! ```
//! A caller that does not read blocks its own run only: the guest stops writing.

use std::collections::VecDeque;
use std::future;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use emberd_proto::{
    ContextCall, ContextEvent, EgressDenials, ExecExit, Frame, GuestMessage, HostMessage,
    InterruptedBy, Kind, SignalName, chain,
};
use futures::future::BoxFuture;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::time::{Instant, sleep_until};

use super::backlog::{Backlog, Output};
use super::error::ContextError;
use super::event::{RunEnd, RunEvent};
use super::lines::{Lines, Malformed, Said};
use super::status::Status;
use crate::error::GuestError;
use crate::host::ByteStream;
use crate::line::{LineReader, LineWriter};

/// Time that an interpreter may take to become ready. A forked one waits for its zygote, and an
/// emulated one on a busy host takes more than a minute to import the modules of the pack `code`.
const READY_WAIT: Duration = Duration::from_secs(180);

/// Time that an interpreter may take to end a run that was interrupted at its time limit.
const INTERRUPT_GRACE: Duration = Duration::from_secs(5);

/// Pause between two interrupts of a run whose interpreter, or a program it started, may miss
/// one.
const INTERRUPT_AGAIN: Duration = Duration::from_secs(1);

/// Most bytes of output and events of one run (64 MiB); the rest is dropped and flagged.
const RUN_BYTES_MAX: usize = 64 << 20;

/// Most bytes of an interpreter's output quoted when it did not start (4 KiB).
const WORDS_BYTES_MAX: usize = 4 << 10;

/// Code to run, and the channel of its events.
pub(super) struct Order {
    /// The call.
    pub line: Vec<u8>,
    /// Time limit from the start of the run.
    pub timeout: Option<Duration>,
    /// Receiver of the events.
    pub events: mpsc::Sender<RunEvent>,
}

/// How an interpreter ended.
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

/// One frame of the guest.
enum Received {
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

    /// Waits until the interpreter is ready.
    pub async fn ready(&mut self) -> Result<(), ContextError> {
        let mut words = Vec::new();
        let late = self.reader.run_for(READY_WAIT);
        let listen = async {
            loop {
                match self.receive().await? {
                    Received::Output(_, text) => {
                        let room = WORDS_BYTES_MAX - words.len();
                        words.extend_from_slice(&text[..text.len().min(room)]);
                    }
                    Received::Lines(lines) => match lines.first() {
                        None => {}
                        Some(Said { event: Some(ContextEvent::Ready), .. }) => return Ok(()),
                        Some(_) => return Err(Ended::Malformed),
                    },
                }
            }
        };
        let listened = tokio::select! {
            biased;
            listened = listen => Some(listened),
            () = late => None,
        };
        let reason = match listened {
            Some(Ok(())) => return Ok(()),
            Some(Err(Ended::Lost(error))) => return Err(error.into()),
            Some(Err(ended)) => ended.reason(),
            None => format!("it was not ready within {READY_WAIT:?}"),
        };
        let words = String::from_utf8_lossy(&words);
        let words = words.trim_end();
        let colon = if words.is_empty() { "" } else { ": " };
        Err(ContextError::Start(format!("{reason}{colon}{words}")))
    }

    /// Runs the orders until the interpreter ends; returns why it ended.
    pub async fn serve(mut self, mut orders: mpsc::Receiver<Order>) -> String {
        loop {
            let order = tokio::select! {
                biased;
                // Output between runs, such as that of threads, belongs to no run.
                received = self.receive() => match received {
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
            let deadline = order.timeout.map(|timeout| self.reader.run_for(timeout));
            let mut run = Running::new(order.events, deadline);
            let ran = self.run(&order.line, &mut run).await;
            if let Err(ended) = ran {
                // Recorded before it is announced: a waiting caller reads the reason.
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
            // Unordered, so that a program that prints without pause can be interrupted.
            tokio::select! {
                received = receive(&mut self.reader, &mut self.lines), if run.takes() => {
                    if run.take(received?, &self.status) {
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
                () = passed(&mut run.deadline) => {
                    if run.timed_out {
                        return Err(Ended::TimedOut);
                    }
                    run.timed_out = true;
                    run.interrupt = true;
                    run.deadline = Some(self.reader.run_for(INTERRUPT_GRACE));
                }
            }
            // Before the run has begun, an interrupt would have no effect.
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

    async fn receive(&mut self) -> Result<Received, Ended> {
        receive(&mut self.reader, &mut self.lines).await
    }
}

/// A call as the interpreter reads it.
pub(super) fn line_of(call: &ContextCall) -> Vec<u8> {
    let mut line = serde_json::to_vec(call).expect("strings become JSON");
    line.push(b'\n');
    line
}

/// Waits for the guest's next frame. Cancel safe.
async fn receive<S: ByteStream>(
    reader: &mut LineReader<S>,
    lines: &mut Lines,
) -> Result<Received, Ended> {
    reader.unless_ended(lines.room()).await?;
    let frame = reader.frame().await?;
    match frame.kind {
        Kind::Stdout => Ok(Received::Output(Output::Stdout, frame.payload)),
        Kind::Stderr => Ok(Received::Output(Output::Stderr, frame.payload)),
        Kind::Data => Ok(Received::Lines(lines.push(&frame.payload)?)),
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

/// Waits until `deadline` has passed, if there is one.
async fn passed(deadline: &mut Option<BoxFuture<'static, ()>>) {
    match deadline {
        Some(deadline) => deadline.await,
        None => future::pending().await,
    }
}

/// A run under way.
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
struct Running {
    events: mpsc::Sender<RunEvent>,
    /// Not yet handed on.
    waiting: VecDeque<RunEvent>,
    /// Output that arrived before the run began.
    early: Backlog,
    since: Instant,
    /// Passes when the guest has run for the time limit, and then for the grace.
    deadline: Option<BoxFuture<'static, ()>>,
    /// When the run is interrupted again.
    again: Option<Instant>,
    bytes: usize,
    /// Whether the interpreter has begun the run.
    begun: bool,
    interrupted_by: InterruptedBy,
    /// Whether to interrupt the run once it has begun.
    interrupt: bool,
    /// Whether the caller has left.
    left: bool,
    timed_out: bool,
    truncated: bool,
    execution_count: u64,
}

impl Running {
    fn new(events: mpsc::Sender<RunEvent>, deadline: Option<BoxFuture<'static, ()>>) -> Self {
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
    fn takes(&self) -> bool {
        self.waiting.is_empty() || !self.begun
    }

    /// Handles a frame of the guest; returns whether the run has ended.
    fn take(&mut self, received: Received, status: &Status) -> bool {
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
            // Its caller's end knows.
            egress: EgressDenials::default(),
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

    /// Hands on the waiting events and the end of the run.
    async fn finish(mut self) {
        let end = self.end();
        self.flush().await;
        self.events.send(RunEvent::End(end)).await.ok();
    }
}
