//! One process as callers hold it.

use std::sync::Arc;
use std::time::{Instant, SystemTime};

use bytes::Bytes;
use emberd_proto::frame::BULK_BYTES_MAX;
use emberd_proto::process::{STDIN_WINDOW_BYTES, SignalName, TtySize};
use emberd_proto::{ExecExit, HostMessage};
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::{Mutex as AsyncMutex, Notify, OwnedMutexGuard, Semaphore, SemaphorePermit, mpsc};
use tokio_util::sync::CancellationToken;

use super::error::ProcessError;
use super::log::{Log, ProcessEvent, ProcessEventKind, Read};
use crate::note::ProcessNote;

/// Most frames that wait to be written to the guest. A guest reads them whatever its program
/// does, and input has its own window: this queue fills only if the guest is stuck.
const OUTGOING_MAX: usize = 16;

/// A message to the guest.
#[derive(Debug)]
pub(super) enum Outgoing {
    Message(HostMessage),
    Stdin(Bytes),
    StdinEnd,
}

/// A process as it is now.
#[derive(Debug, Clone)]
pub struct ProcessView {
    /// Process id in the guest.
    pub pid: u32,
    /// Program and arguments; those of its code alone if it was started from code.
    pub argv: Vec<String>,
    /// User requested for the process.
    pub user: Option<String>,
    /// Whether the process has a terminal.
    pub tty: bool,
    /// When the process was started.
    pub started_at: SystemTime,
    /// Number of the next event.
    pub next_seq: u64,
    /// How the process ended; none while it runs.
    pub exit: Option<ExecExit>,
}

/// A process of a sandbox, or its record after its end. Clones share the process.
#[derive(Debug, Clone)]
pub struct Process(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    pid: u32,
    /// Under which the guest keeps it, if it does.
    id: Option<u64>,
    about: ProcessNote,
    state: Mutex<State>,
    /// Notified of every event.
    changed: Notify,
    outgoing: mpsc::Sender<Outgoing>,
    /// One permit for each byte of input the guest takes at this moment.
    window: Semaphore,
    /// Whether input was ended. Locked by the writer of the input.
    stdin_ended: Arc<AsyncMutex<bool>>,
    /// Cancelled when the process has ended.
    ended: CancellationToken,
    /// Cancelled when the process is deleted: it ends and its record is removed.
    deleted: CancellationToken,
}

#[derive(Debug)]
struct State {
    log: Log,
    ended_at: Option<Instant>,
}

impl Process {
    /// A process that has not happened yet, which the guest keeps as `id`. Of its input the guest
    /// takes `window` bytes at once, and none if that has ended.
    pub(super) fn new(
        pid: u32,
        id: Option<u64>,
        about: ProcessNote,
        window: usize,
        stdin_ended: bool,
    ) -> (Self, mpsc::Receiver<Outgoing>) {
        let (outgoing, waiting) = mpsc::channel(OUTGOING_MAX);
        let inner = Inner {
            pid,
            id,
            about,
            state: Mutex::new(State { log: Log::new(), ended_at: None }),
            changed: Notify::new(),
            outgoing,
            window: Semaphore::new(window),
            stdin_ended: Arc::new(AsyncMutex::new(stdin_ended)),
            ended: CancellationToken::new(),
            deleted: CancellationToken::new(),
        };
        (Self(Arc::new(inner)), waiting)
    }

    /// Returns the process id in the guest.
    pub fn pid(&self) -> u32 {
        self.0.pid
    }

    /// Returns the id under which the guest keeps the process.
    pub(super) fn id(&self) -> Option<u64> {
        self.0.id
    }

    /// Returns the note of the process, once the end of its input is sent as frame `frame`.
    pub(super) fn note_of_end(&self, frame: u64) -> ProcessNote {
        self.0.about.with_end_of_input(frame)
    }

    /// Returns the present state of the process.
    pub fn view(&self) -> ProcessView {
        let started_at = self.0.about.started_at();
        let ProcessNote { argv, user, tty, .. } = self.0.about.clone();
        let state = self.state();
        let (next_seq, exit) = (state.log.next(), state.log.exit().cloned());
        ProcessView { pid: self.0.pid, argv, user, tty, started_at, next_seq, exit }
    }

    /// Returns the events from number `from` on, past and future ones.
    pub fn events(&self, from: u64) -> ProcessEvents {
        ProcessEvents { process: self.clone(), next: from }
    }

    /// Waits for the end of the process and returns how it ended.
    pub async fn wait(&self) -> ExecExit {
        self.0.ended.cancelled().await;
        // The end is recorded before it is announced.
        self.state().log.exit().cloned().unwrap_or_default()
    }

    /// Returns the standard input, once no other writer holds it.
    ///
    /// # Errors
    /// [`ProcessError::Ended`], [`ProcessError::StdinEnded`].
    pub async fn stdin(&self) -> Result<ProcessStdin, ProcessError> {
        let lock = Arc::clone(&self.0.stdin_ended).lock_owned();
        let ended = self.unless_ended(async { Ok(lock.await) }).await?;
        if *ended {
            return Err(ProcessError::StdinEnded(self.0.pid));
        }
        Ok(ProcessStdin { process: self.clone(), ended })
    }

    /// Sends a signal to the process and its descendants.
    ///
    /// # Errors
    /// [`ProcessError::Ended`].
    pub async fn signal(&self, signal: SignalName) -> Result<(), ProcessError> {
        self.say(Outgoing::Message(HostMessage::Signal { signal })).await
    }

    /// Changes the size of the process's terminal.
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

    /// Has the process and its descendants killed by the task that attends it.
    pub(super) fn delete(&self) {
        self.0.deleted.cancel();
    }

    /// Waits until the process is deleted.
    pub fn deleted(&self) -> impl Future<Output = ()> + Send + use<> {
        self.0.deleted.clone().cancelled_owned()
    }

    pub(super) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// Returns when the process ended and the bytes of output kept; none while it runs.
    pub(super) fn ended(&self) -> Option<(Instant, usize)> {
        let state = self.state();
        Some((state.ended_at?, state.log.bytes()))
    }

    /// Whether the process is not known to have ended.
    pub(super) fn runs(&self) -> bool {
        !self.0.ended.is_cancelled()
    }

    /// Records an event.
    pub(super) fn happened(&self, seq: u64, event: ProcessEventKind) {
        self.state().log.push(seq, event);
        self.0.changed.notify_waiters();
    }

    /// Waits until event number `seq` is known, or the process has ended.
    pub(crate) async fn knows(&self, seq: u64) {
        loop {
            let changed = self.0.changed.notified();
            if self.state().log.next() > seq || self.0.ended.is_cancelled() {
                return;
            }
            changed.await;
        }
    }

    /// Returns `bytes` to the input window; `false` if fewer bytes were sent.
    pub(super) fn took(&self, bytes: u64) -> bool {
        let sent = STDIN_WINDOW_BYTES.saturating_sub(self.0.window.available_permits());
        let taken = usize::try_from(bytes).ok().filter(|bytes| *bytes <= sent);
        taken.map(|bytes| self.0.window.add_permits(bytes)).is_some()
    }

    /// Records how the process ended, as event `seq` if its guest told it.
    pub(super) fn end(&self, seq: Option<u64>, exit: ExecExit) {
        let mut state = self.state();
        let seq = seq.unwrap_or_else(|| state.log.next());
        state.log.push(seq, ProcessEventKind::Exited(exit));
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

/// Events of one process, read in order. A slow reader delays neither the process nor others.
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

/// The standard input of one process, held by one writer.
#[derive(Debug)]
pub struct ProcessStdin {
    process: Process,
    ended: OwnedMutexGuard<bool>,
}

impl ProcessStdin {
    /// Writes `bytes`; waits while the program does not read. Dropping the future leaves part
    /// of them unwritten.
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

    /// Ends the input.
    ///
    /// # Errors
    /// [`ProcessError::Ended`].
    pub async fn end(mut self) -> Result<(), ProcessError> {
        self.process.say(Outgoing::StdinEnd).await?;
        *self.ended = true;
        Ok(())
    }
}
