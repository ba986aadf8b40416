//! One process as callers hold it.

use std::sync::Arc;
use std::time::{Instant, SystemTime};

use bytes::Bytes;
use emberd_proto::frame::BULK_BYTES_MAX;
use emberd_proto::process::{ProcessSpec, STDIN_WINDOW_BYTES, SignalName, TtySize};
use emberd_proto::{ExecExit, HostMessage};
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::{Mutex as AsyncMutex, Notify, OwnedMutexGuard, Semaphore, SemaphorePermit, mpsc};
use tokio_util::sync::CancellationToken;

use super::error::ProcessError;
use super::log::{Log, Output, ProcessEvent, Read};

/// Frames to the guest that may wait to be written. A guest reads them whatever its program
/// does, and input has a window of its own: this fills only where the guest is stuck.
const OUTGOING_MAX: usize = 16;

/// Something to say to the guest.
#[derive(Debug)]
pub(super) enum Outgoing {
    Message(HostMessage),
    Stdin(Bytes),
    StdinEnd,
}

/// What a process was started as.
#[derive(Debug, Clone)]
pub(super) struct About {
    argv: Vec<String>,
    user: Option<String>,
    tty: bool,
}

impl About {
    /// What is worth remembering of `spec`.
    pub fn of(spec: &ProcessSpec) -> Self {
        let argv = spec.argv.iter().chain(&spec.args).cloned().collect();
        Self { argv, user: spec.user.clone(), tty: spec.tty.is_some() }
    }
}

/// A process as it is now.
#[derive(Debug, Clone)]
pub struct ProcessView {
    /// Its number in the guest.
    pub pid: u32,
    /// Program and arguments; those of its code alone if it was started from code.
    pub argv: Vec<String>,
    /// Who it was asked to run as.
    pub user: Option<String>,
    /// Whether it has a terminal.
    pub tty: bool,
    /// When it was started.
    pub started_at: SystemTime,
    /// Number of the next event there will be.
    pub next_seq: u64,
    /// How it ended; none while it runs.
    pub exit: Option<ExecExit>,
}

/// A process of a sandbox, or what is remembered of it. Clones are the same process.
#[derive(Debug, Clone)]
pub struct Process(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    pid: u32,
    about: About,
    started_at: SystemTime,
    state: Mutex<State>,
    /// Rung for every event.
    changed: Notify,
    outgoing: mpsc::Sender<Outgoing>,
    /// One permit for each byte of input the guest takes at this moment.
    window: Semaphore,
    /// Whether input was ended. Held by whoever writes it.
    stdin_ended: Arc<AsyncMutex<bool>>,
    /// Cancelled when it has ended.
    ended: CancellationToken,
    /// Cancelled when it is to end, and not to be remembered.
    deleted: CancellationToken,
}

#[derive(Debug)]
struct State {
    log: Log,
    ended_at: Option<Instant>,
}

impl Process {
    pub(super) fn new(pid: u32, about: About) -> (Self, mpsc::Receiver<Outgoing>) {
        let (outgoing, waiting) = mpsc::channel(OUTGOING_MAX);
        let inner = Inner {
            pid,
            about,
            started_at: SystemTime::now(),
            state: Mutex::new(State { log: Log::new(), ended_at: None }),
            changed: Notify::new(),
            outgoing,
            window: Semaphore::new(STDIN_WINDOW_BYTES),
            stdin_ended: Arc::default(),
            ended: CancellationToken::new(),
            deleted: CancellationToken::new(),
        };
        (Self(Arc::new(inner)), waiting)
    }

    /// Its number in the guest.
    pub fn pid(&self) -> u32 {
        self.0.pid
    }

    /// It as it is now.
    pub fn view(&self) -> ProcessView {
        let About { argv, user, tty } = self.0.about.clone();
        let state = self.state();
        let (next_seq, exit) = (state.log.next(), state.log.exit().cloned());
        let started_at = self.0.started_at;
        ProcessView { pid: self.0.pid, argv, user, tty, started_at, next_seq, exit }
    }

    /// What happened to it, from event number `from` on, and what will.
    pub fn events(&self, from: u64) -> ProcessEvents {
        ProcessEvents { process: self.clone(), next: from }
    }

    /// Waits until it has ended, and says how.
    pub async fn wait(&self) -> ExecExit {
        self.0.ended.cancelled().await;
        // The end is entered before it is told.
        self.state().log.exit().cloned().unwrap_or_default()
    }

    /// Its standard input, once nobody else writes to it.
    ///
    /// # Errors
    /// [`ProcessError::Ended`], [`ProcessError::StdinEnded`].
    pub async fn stdin(&self) -> Result<ProcessStdin, ProcessError> {
        let turn = Arc::clone(&self.0.stdin_ended).lock_owned();
        let ended = self.unless_ended(async { Ok(turn.await) }).await?;
        if *ended {
            return Err(ProcessError::StdinEnded(self.0.pid));
        }
        Ok(ProcessStdin { process: self.clone(), ended })
    }

    /// Sends a signal to it and all it started.
    ///
    /// # Errors
    /// [`ProcessError::Ended`].
    pub async fn signal(&self, signal: SignalName) -> Result<(), ProcessError> {
        self.say(Outgoing::Message(HostMessage::Signal { signal })).await
    }

    /// Changes the size of its terminal.
    ///
    /// # Errors
    /// [`ProcessError::Invalid`], [`ProcessError::NoTerminal`], [`ProcessError::Ended`].
    pub async fn resize(&self, size: TtySize) -> Result<(), ProcessError> {
        size.check()?;
        if !self.0.about.tty {
            return Err(ProcessError::NoTerminal(self.0.pid));
        }
        self.say(Outgoing::Message(HostMessage::Resize(size))).await
    }

    /// Has it killed, with all it started, by the task that attends it.
    pub(super) fn delete(&self) {
        self.0.deleted.cancel();
    }

    /// Waits until it is deleted.
    pub fn deleted(&self) -> impl Future<Output = ()> + Send + use<> {
        self.0.deleted.clone().cancelled_owned()
    }

    pub(super) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// When it ended, and how many bytes of its output are kept; none while it runs.
    pub(super) fn ended(&self) -> Option<(Instant, usize)> {
        let state = self.state();
        Some((state.ended_at?, state.log.bytes()))
    }

    /// Notes what it wrote.
    pub(super) fn wrote(&self, output: Output, bytes: &[u8]) {
        self.state().log.write(output, bytes);
        self.0.changed.notify_waiters();
    }

    /// Lets as much more input pass; `false` if so much was never sent.
    pub(super) fn took(&self, bytes: usize) -> bool {
        let sent = STDIN_WINDOW_BYTES.saturating_sub(self.0.window.available_permits());
        let likely = bytes <= sent;
        if likely {
            self.0.window.add_permits(bytes);
        }
        likely
    }

    /// Notes how it ended.
    pub(super) fn end(&self, exit: ExecExit) {
        let mut state = self.state();
        state.log.end(exit);
        state.ended_at = Some(Instant::now());
        drop(state);
        self.0.ended.cancel();
        self.0.changed.notify_waiters();
    }

    async fn say(&self, next: Outgoing) -> Result<(), ProcessError> {
        let ended = || ProcessError::Ended(self.0.pid);
        self.unless_ended(async { self.0.outgoing.send(next).await.map_err(|_| ended()) }).await
    }

    async fn unless_ended<T>(
        &self,
        what: impl Future<Output = Result<T, ProcessError>>,
    ) -> Result<T, ProcessError> {
        tokio::select! {
            biased;
            () = self.0.ended.cancelled() => Err(ProcessError::Ended(self.0.pid)),
            outcome = what => outcome,
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock()
    }
}

/// Events of one process, read in order. Reading slowly delays nobody.
#[derive(Debug)]
pub struct ProcessEvents {
    process: Process,
    next: u64,
}

impl ProcessEvents {
    /// The next event; none after the last. Cancel safe.
    pub async fn next(&mut self) -> Option<ProcessEvent> {
        loop {
            let changed = self.process.0.changed.notified();
            let read = self.process.state().log.read(self.next);
            match read {
                Read::Event(event) => {
                    self.next = event.seq + 1;
                    return Some(event);
                }
                Read::End => return None,
                Read::Wait => changed.await,
            }
        }
    }
}

/// The standard input of one process, in the hands of one writer.
#[derive(Debug)]
pub struct ProcessStdin {
    process: Process,
    ended: OwnedMutexGuard<bool>,
}

impl ProcessStdin {
    /// Writes `bytes`; waits for as long as the program does not read. Dropping the future
    /// leaves some of it unwritten.
    ///
    /// # Errors
    /// [`ProcessError::Ended`].
    pub async fn write(&mut self, mut bytes: Bytes) -> Result<(), ProcessError> {
        let process = &self.process;
        while !bytes.is_empty() {
            let piece = bytes.split_to(bytes.len().min(BULK_BYTES_MAX));
            let room = u32::try_from(piece.len()).unwrap_or(u32::MAX);
            let window = async {
                // The semaphore is never closed.
                let room = process.0.window.acquire_many(room).await;
                room.map(SemaphorePermit::forget).map_err(|_| ProcessError::Ended(process.0.pid))
            };
            process.unless_ended(window).await?;
            process.say(Outgoing::Stdin(piece)).await?;
        }
        Ok(())
    }

    /// Ends it.
    ///
    /// # Errors
    /// [`ProcessError::Ended`].
    pub async fn end(mut self) -> Result<(), ProcessError> {
        self.process.say(Outgoing::StdinEnd).await?;
        *self.ended = true;
        Ok(())
    }
}
