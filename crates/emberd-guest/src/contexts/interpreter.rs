//! The task of one interpreter: reads its events and sends it the code to run.
//!
//! ```text
//! idle ── order ─▶ line sent ─▶ started ─▶ events … ─▶ done ─▶ idle
//!                                 │ caller gone, interrupt, time limit ─▶ SIGINT
//!                                 └ time limit and grace ─▶ the interpreter is ended
//! ```
//! A caller that does not read blocks its own run only: the guest stops writing.

use std::future;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use emberd_proto::{
    ContextCall, ContextEvent, ExecExit, Frame, GuestMessage, HostMessage, InterruptedBy, Kind,
    SignalName, chain,
};
use futures::future::BoxFuture;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::time::{Instant, sleep_until};

use super::backlog::Output;
use super::error::ContextError;
use super::event::NumberedEvent;
use super::lines::{Lines, Malformed, Said};
use super::log::Log;
use super::running::{Received, Running};
use super::status::Status;
use crate::error::GuestError;
use crate::host::ByteStream;
use crate::note::{ContextNote, Note, RunNote};
use crate::session::ANSWER_MAX;
use crate::tether::{Tether, Told};

/// Time that an interpreter may take to become ready. A forked one waits for its zygote, and an
/// emulated one on a busy host takes more than a minute to import the modules of the pack `code`.
const READY_WAIT: Duration = Duration::from_secs(180);

/// Time that an interpreter may take to end a run that was interrupted at its time limit.
const INTERRUPT_GRACE: Duration = Duration::from_secs(5);

/// Pause between two interrupts of a run whose interpreter, or a program it started, may miss
/// one.
const INTERRUPT_AGAIN: Duration = Duration::from_secs(1);

/// Most bytes of an interpreter's output quoted when it did not start (4 KiB).
const WORDS_BYTES_MAX: usize = 4 << 10;

/// Code to run, and the channel of its events.
pub(super) struct Order {
    /// The call.
    pub line: Bytes,
    /// Time limit from the start of the run.
    pub timeout: Option<Duration>,
    /// Receiver of the events.
    pub events: mpsc::Sender<NumberedEvent>,
    /// When it was asked for, for what the network policy has denied since.
    pub mark: u64,
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
pub(super) struct Interpreter<S: ByteStream> {
    tether: Tether<S>,
    /// Number of the next event.
    next: u64,
    lines: Lines,
    status: Arc<Status>,
    log: Arc<Log>,
    interrupted: watch::Receiver<u64>,
    /// Tells the next daemon about the context.
    note: ContextNote,
    /// How the last run could be interrupted.
    interrupted_by: InterruptedBy,
}

impl<S: ByteStream> Interpreter<S> {
    pub fn new(
        tether: Tether<S>,
        status: Arc<Status>,
        log: Arc<Log>,
        interrupted: watch::Receiver<u64>,
        line_bytes: Arc<Semaphore>,
        note: ContextNote,
    ) -> Self {
        let (next, lines) = (tether.next_seq(), Lines::new(line_bytes));
        let interrupted_by = InterruptedBy::default();
        Self { tether, next, lines, status, log, interrupted, note, interrupted_by }
    }

    /// Waits until the interpreter was started.
    pub async fn started(&mut self) -> Result<(), GuestError> {
        let session = Arc::clone(self.tether.session());
        let told = session.in_time(ANSWER_MAX, self.tether.next()).await??;
        if let Told::Event { frame, .. } = told {
            match frame.message() {
                Ok(GuestMessage::Started { .. }) => {
                    self.next += 1;
                    return Ok(());
                }
                Ok(GuestMessage::Refused(refusal)) => return Err(GuestError::Refused(refusal)),
                _ => {}
            }
        }
        Err(self.tether.broken("unexpected answer to a context").await)
    }

    /// Waits until the interpreter is ready.
    pub async fn ready(&mut self) -> Result<(), ContextError> {
        let mut words = Vec::new();
        let late = self.tether.session().host.run_for(READY_WAIT);
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

    /// Tells the next daemon that a caller knows the context.
    pub async fn is_ready(&mut self) -> Result<(), GuestError> {
        self.note.is_ready = true;
        self.tether.note(Note::Context(self.note.clone()).text());
        self.tether.flush().await
    }

    /// Closes the connection; the guest keeps the program.
    pub fn hang_up(&mut self) {
        self.tether.hang_up();
    }

    /// Kills the interpreter; the guest forgets it.
    pub async fn delete(self) -> Result<(), GuestError> {
        self.tether.delete().await
    }

    /// Expects event number `seq` next: those before it are known.
    pub fn expect(&mut self, seq: u64) {
        self.next = seq;
    }

    /// As [`Self::serve`], once the run of a daemon before has ended. Its caller is gone, and not
    /// because it wanted to.
    pub async fn serve_after(
        &mut self,
        run: Option<RunNote>,
        orders: mpsc::Receiver<Order>,
    ) -> String {
        let Some(run) = run else { return self.serve(orders).await };
        let (events, _) = mpsc::channel(1);
        let host = &self.tether.session().host;
        let deadline = run.rest().map(|rest| host.run_for(rest));
        let running = Running::new(events, Arc::clone(&self.log), deadline, host.mark());
        let mut running = running.resumed(run.passed());
        running.interrupted_by = run.interrupted_by;
        if let Err(ended) = self.follow(&mut running).await {
            return self.end(ended, running).await;
        }
        self.interrupted_by = running.interrupted_by;
        self.finish(running).await;
        self.serve(orders).await
    }

    async fn finish(&mut self, run: Running) {
        self.status.set_busy(false);
        let egress = self.tether.session().host.denied_since(run.mark);
        run.finish(self.last_number(), egress).await;
    }

    /// Number of the last event.
    fn last_number(&self) -> u64 {
        self.note.number(self.next.saturating_sub(1))
    }

    /// Runs the orders until the interpreter ends; returns why it ended.
    pub async fn serve(&mut self, mut orders: mpsc::Receiver<Order>) -> String {
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
            let session = Arc::clone(self.tether.session());
            let deadline = order.timeout.map(|timeout| session.host.run_for(timeout));
            let log = Arc::clone(&self.log);
            let mut run = Running::new(order.events, log, deadline, order.mark);
            let ran = self.run(order.line, order.timeout, &mut run).await;
            if let Err(ended) = ran {
                return self.end(ended, run).await;
            }
            self.finish(run).await;
        }
    }

    /// Ends the run under way with the interpreter; returns why that ended.
    async fn end(&mut self, ended: Ended, run: Running) -> String {
        if let Ended::Malformed | Ended::TimedOut = ended {
            // An interpreter that cannot be reached has ended, or will be deleted.
            self.tether.say(&HostMessage::Signal { signal: SignalName::SigKill }).await.ok();
        }
        let reason = ended.reason();
        // Recorded before it is announced.
        self.status.die(&reason);
        let egress = self.tether.session().host.denied_since(run.mark);
        run.lose(self.last_number(), &reason, egress).await;
        reason
    }

    async fn run(
        &mut self,
        line: Bytes,
        timeout: Option<Duration>,
        run: &mut Running,
    ) -> Result<(), Ended> {
        self.interrupted.borrow_and_update();
        self.ask(line, timeout).await?;
        self.follow(run).await?;
        self.interrupted_by = run.interrupted_by;
        // All that was sent has arrived.
        self.tether.settle();
        Ok(())
    }

    /// Sends a call, with a note of it.
    async fn ask(&mut self, line: Bytes, timeout: Option<Duration>) -> Result<(), GuestError> {
        let (sent, by) = (self.tether.sent(), self.interrupted_by);
        self.note.execution_count = self.status.now().1;
        self.note.run = Some(RunNote::new(self.next, sent, timeout, by));
        self.tether.note(Note::Context(self.note.clone()).text());
        self.tether.send(Kind::Data, line).await
    }

    /// Passes on the events of a run until its end.
    async fn follow(&mut self, run: &mut Running) -> Result<(), Ended> {
        let events = run.events.clone();
        loop {
            // Unordered, so that a program that prints without pause can be interrupted.
            tokio::select! {
                received = receive(&mut self.tether, &mut self.next, &mut self.lines),
                    if run.takes() =>
                {
                    let received = received?;
                    let seq = self.note.number(self.next - 1);
                    if self.lines.has_skipped() {
                        run.miss(seq);
                    }
                    if run.take(seq, received, &self.status) {
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
                    run.deadline = Some(self.tether.session().host.run_for(INTERRUPT_GRACE));
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
        self.tether.say(&HostMessage::Signal { signal: SignalName::SigInt }).await?;
        if by == InterruptedBy::Call {
            self.tether.send(Kind::Data, line_of(&ContextCall::Interrupt)).await?;
        }
        Ok(())
    }

    async fn receive(&mut self) -> Result<Received, Ended> {
        receive(&mut self.tether, &mut self.next, &mut self.lines).await
    }
}

/// A call as the interpreter reads it.
pub(super) fn line_of(call: &ContextCall) -> Bytes {
    let mut line = serde_json::to_vec(call).expect("strings become JSON");
    line.push(b'\n');
    line.into()
}

/// Waits for the guest's next event. Cancel safe.
async fn receive<S: ByteStream>(
    tether: &mut Tether<S>,
    next: &mut u64,
    lines: &mut Lines,
) -> Result<Received, Ended> {
    let session = Arc::clone(tether.session());
    let room = async {
        lines.room().await;
        Ok(())
    };
    session.guarded(room).await?;
    let Told::Event { seq, frame } = tether.next().await? else {
        return Err(tether.broken("a context takes no input").await.into());
    };
    if std::mem::replace(next, seq.saturating_add(1)) != seq {
        lines.skip();
    }
    match frame.kind {
        Kind::Stdout => Ok(Received::Output(Output::Stdout, frame.payload)),
        Kind::Stderr => Ok(Received::Output(Output::Stderr, frame.payload)),
        Kind::Data => Ok(Received::Lines(lines.push(&frame.payload)?)),
        Kind::Control => match exit(&frame) {
            Some(exit) => Err(Ended::Exited(exit)),
            None => Err(tether.broken("unexpected message about a context").await.into()),
        },
        Kind::Stdin | Kind::StdinEnd | Kind::DataEnd => {
            Err(tether.broken("unexpected frame about a context").await.into())
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
