//! An operation in a sandbox: a connection to its guest, and an end for every case.
//!
//! Whatever a caller waits for ends when the sandbox is deleted or its VMM ends. A guest that
//! breaks the protocol is hostile or broken, and cannot be trusted with another word: its microVM
//! is ended.

use std::sync::Arc;
use std::time::Duration;

use emberd_proto::exec::STDIN_BYTES_MAX;
use emberd_proto::{Frame, FrameError, GuestMessage, HostMessage, Kind, Refusal, SpecError};
use emberd_vmm::{ExitReason, Stream};

use crate::SandboxId;
use crate::answer::ended;
use crate::channel::{ChannelError, GuestConnection, Reader, Writer};
use crate::sandbox::Sandbox;

/// How long a guest may take to answer what it can answer at once: an emulated one on a busy
/// host is slow, not silent.
pub(crate) const ANSWER_MAX: Duration = Duration::from_secs(60);

/// Why an operation has no result. How a program itself ended is never an error.
#[derive(Debug, thiserror::Error)]
pub enum OperationError {
    /// No such sandbox.
    #[error("unknown sandbox {0}")]
    Unknown(SandboxId),
    /// The spec breaks a limit.
    #[error(transparent)]
    Invalid(#[from] SpecError),
    /// Standard input is too large.
    #[error("stdin is {0} bytes, over the limit of {STDIN_BYTES_MAX}")]
    StdinTooLarge(usize),
    /// The sandbox is still being created.
    #[error("sandbox {0} is still being created")]
    NotReady(SandboxId),
    /// The sandbox was deleted meanwhile.
    #[error("sandbox {0} was deleted meanwhile")]
    Deleted(SandboxId),
    /// The sandbox's microVM ended by itself.
    #[error("the microVM of sandbox {id} is gone: its VMM {reason}")]
    Gone {
        /// Which sandbox.
        id: SandboxId,
        /// How the VMM ended.
        reason: ExitReason,
    },
    /// The guest did not answer in time; what was asked may or may not have been done.
    #[error("the guest of sandbox {id} did not answer within {waited:?}")]
    Unresponsive {
        /// Which sandbox.
        id: SandboxId,
        /// How long was waited.
        waited: Duration,
    },
    /// The guest said that it will not, or cannot.
    #[error("{}", .0.message)]
    Refused(Refusal),
    /// The guest could not be talked to; what was asked may or may not have been done.
    #[error("sandbox {id} did not do as it should")]
    Guest {
        /// Which sandbox.
        id: SandboxId,
        /// What the guest did.
        source: ChannelError,
    },
}

/// Waits for `operation` in `sandbox`, for as long as that lives.
pub(crate) async fn guarded<T>(
    sandbox: &Sandbox,
    operation: impl Future<Output = Result<T, OperationError>>,
) -> Result<T, OperationError> {
    let id = sandbox.id;
    let ready = sandbox.ready.get().ok_or(OperationError::NotReady(id))?;
    let mut exit = ready.exit.clone();
    tokio::select! {
        biased;
        () = sandbox.ending.cancelled() => Err(OperationError::Deleted(id)),
        reason = exit.wait() => Err(OperationError::Gone { id, reason }),
        outcome = operation => outcome,
    }
}

/// What a failed conversation means, and the end of a guest that broke the protocol.
pub(crate) async fn failed(sandbox: &Arc<Sandbox>, source: ChannelError) -> OperationError {
    let id = sandbox.id;
    let hostile = match source {
        ChannelError::Refused(refusal) => return OperationError::Refused(refusal),
        // A VMM that ends in the middle of a frame cuts it.
        ChannelError::Frame(FrameError::Truncated(_))
        | ChannelError::Connect(_)
        | ChannelError::Closed
        | ChannelError::Io(_) => false,
        ChannelError::Frame(_) | ChannelError::Protocol(_) => true,
    };
    if hostile {
        let error = &source as &dyn std::error::Error;
        tracing::warn!(%id, error, "the guest broke the protocol: its microVM is ended");
        let sandbox = Arc::clone(sandbox);
        tokio::spawn(async move { sandbox.kill().await });
        return OperationError::Guest { id, source };
    }
    let Some(ready) = sandbox.ready.get() else { return OperationError::NotReady(id) };
    match ended(&mut ready.exit.clone()).await {
        Some(reason) => OperationError::Gone { id, reason },
        None => OperationError::Guest { id, source },
    }
}

/// A connection to the guest of one sandbox, for one operation at a time. Dropping it in the
/// middle of one ends that in the guest.
pub(crate) struct Line {
    sandbox: Arc<Sandbox>,
    connection: GuestConnection<Stream>,
}

impl Line {
    /// Takes an idle connection of the sandbox, or opens one.
    pub async fn open(sandbox: Arc<Sandbox>) -> Result<Self, OperationError> {
        let ready = sandbox.ready.get().ok_or(OperationError::NotReady(sandbox.id))?;
        let open = in_time(&sandbox, async { sandbox.connection(ready).await });
        let connection = open.await?;
        Ok(Self { sandbox, connection })
    }

    /// Sends one message and returns the one that answers it, which a guest can give at once.
    pub async fn ask(&mut self, message: &HostMessage) -> Result<GuestMessage, OperationError> {
        in_time(&self.sandbox, self.connection.ask(message)).await
    }

    /// Reads the next frame, however long it takes. Cancel safe.
    pub async fn frame(&mut self) -> Result<Frame, OperationError> {
        patiently(&self.sandbox, self.connection.frame()).await
    }

    /// Writes one frame, however long it takes. The connection is not idle after it.
    pub async fn send(&mut self, kind: Kind, payload: &[u8]) -> Result<(), OperationError> {
        patiently(&self.sandbox, self.connection.send(kind, payload)).await
    }

    /// Ends a guest whose frame is not what one of its kind holds.
    pub async fn malformed(&mut self, error: FrameError) -> OperationError {
        failed(&self.sandbox, ChannelError::Frame(error)).await
    }

    /// Writes one message, however long it takes. The connection is not idle after it.
    pub async fn say(&mut self, message: &HostMessage) -> Result<(), OperationError> {
        let json = serde_json::to_vec(message).expect("messages have string keys only");
        self.send(Kind::Control, &json).await
    }

    /// Ends a guest that broke the protocol by what its frames mean.
    pub fn broken(
        &self,
        rule: &'static str,
    ) -> impl Future<Output = OperationError> + Send + use<> {
        let sandbox = Arc::clone(&self.sandbox);
        async move { failed(&sandbox, ChannelError::Protocol(rule)).await }
    }

    /// Which sandbox.
    pub fn id(&self) -> SandboxId {
        self.sandbox.id
    }

    /// Says that the operation ended in step: another may follow on this connection.
    pub fn done(mut self) {
        self.connection.set_idle();
        if let Some(ready) = self.sandbox.ready.get()
            && self.connection.is_idle()
        {
            ready.keep(self.connection);
        }
    }

    /// Both directions of one line together again.
    pub fn join(reader: LineReader, writer: LineWriter) -> Self {
        let connection = GuestConnection::join(reader.reader, writer.writer);
        Self { sandbox: reader.sandbox, connection }
    }

    /// Both directions apart.
    pub fn split(self) -> (LineReader, LineWriter) {
        let (reader, writer) = self.connection.split();
        let reader = LineReader { sandbox: Arc::clone(&self.sandbox), reader };
        (reader, LineWriter { sandbox: self.sandbox, writer })
    }
}

/// What comes from the guest.
pub(crate) struct LineReader {
    sandbox: Arc<Sandbox>,
    reader: Reader<Stream>,
}

impl LineReader {
    /// Reads the next frame, however long it takes. Cancel safe.
    pub async fn frame(&mut self) -> Result<Frame, OperationError> {
        patiently(&self.sandbox, self.reader.frame()).await
    }

    /// Waits for something else than the guest, for as long as the sandbox lives.
    pub fn unless_ended<T>(
        &self,
        what: impl Future<Output = T>,
    ) -> impl Future<Output = Result<T, OperationError>> {
        let sandbox = Arc::clone(&self.sandbox);
        async move { guarded(&sandbox, async { Ok(what.await) }).await }
    }

    /// Ends a guest that broke the protocol by what its frames mean.
    pub async fn broken(&mut self, rule: &'static str) -> OperationError {
        failed(&self.sandbox, ChannelError::Protocol(rule)).await
    }
}

/// What goes to the guest.
pub(crate) struct LineWriter {
    sandbox: Arc<Sandbox>,
    writer: Writer<Stream>,
}

impl LineWriter {
    /// Writes one message, however long it takes.
    pub async fn say(&mut self, message: &HostMessage) -> Result<(), OperationError> {
        patiently(&self.sandbox, self.writer.say(message)).await
    }

    /// Writes `payload` in frames of one kind, however long it takes; an empty one as one frame.
    pub async fn send(&mut self, kind: Kind, payload: &[u8]) -> Result<(), OperationError> {
        patiently(&self.sandbox, self.writer.send(kind, payload)).await
    }
}

async fn in_time<T>(
    sandbox: &Arc<Sandbox>,
    conversation: impl Future<Output = Result<T, ChannelError>>,
) -> Result<T, OperationError> {
    let id = sandbox.id;
    let timely = async {
        let late = OperationError::Unresponsive { id, waited: ANSWER_MAX };
        match tokio::time::timeout(ANSWER_MAX, conversation).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(source)) => Err(failed(sandbox, source).await),
            Err(_) => Err(late),
        }
    };
    guarded(sandbox, timely).await
}

async fn patiently<T>(
    sandbox: &Arc<Sandbox>,
    conversation: impl Future<Output = Result<T, ChannelError>>,
) -> Result<T, OperationError> {
    let explained = async {
        match conversation.await {
            Ok(outcome) => Ok(outcome),
            Err(source) => Err(failed(sandbox, source).await),
        }
    };
    guarded(sandbox, explained).await
}
