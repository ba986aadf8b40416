//! Connections to TCP ports inside a sandbox.
//!
//! ```text
//! caller ── GuestTcp ═ 64 KiB each way ═ carrier (a task) ── Line ── agent ── port
//! ```
//!
//! The carrier moves bytes in both directions while the sandbox lives and the caller holds its
//! end. It holds at most one frame for each direction.

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf as _, Bytes};
use emberd_proto::frame::BULK_BYTES_MAX;
use emberd_proto::message::DIAL_WINDOW_BYTES;
use emberd_proto::{Frame, GuestMessage, HostMessage, Kind, RefusalCode};
use tokio::io::{
    AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, DuplexStream, ReadBuf,
};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::error::GuestError;
use crate::host::ByteStream;
use crate::line::Line;
use crate::session::{PORT_CONNECTIONS_MAX, Session};

/// Bytes held between caller and carrier, each way (64 KiB).
const PIPE_BYTES: usize = 64 << 10;

/// Time that a guest may take to finish a connection that both sides have ended.
const LINGER_MAX: Duration = Duration::from_secs(10);

/// Why a connection to a port failed.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// No program in the sandbox listens on the port.
    #[error("nothing listens on port {port} of sandbox {sandbox}")]
    NotListening {
        /// Which sandbox.
        sandbox: String,
        /// Which port.
        port: u16,
    },
    /// The limit of open connections is reached.
    #[error("sandbox {0} has reached the limit of {PORT_CONNECTIONS_MAX} port connections")]
    TooMany(String),
    /// The guest did not complete the operation.
    #[error(transparent)]
    Guest(#[from] GuestError),
}

/// The TCP ports of one guest.
pub struct Ports<S> {
    session: Arc<Session<S>>,
}

impl<S: ByteStream> Ports<S> {
    pub(crate) fn new(session: Arc<Session<S>>) -> Self {
        Self { session }
    }

    /// Connects to a TCP port of the guest's own loopback interface.
    ///
    /// # Errors
    /// [`DialError`].
    pub async fn dial(&self, port: u16) -> Result<GuestTcp, DialError> {
        let (session, name) = (&self.session, &self.session.name);
        let permit = Arc::clone(&session.port_connections).try_acquire_owned();
        let permit = permit.map_err(|_| DialError::TooMany(name.clone()))?;
        session.host.stir();
        let mut line = Line::open(Arc::clone(session)).await?;
        match line.ask(&HostMessage::Dial { port }).await {
            Ok(GuestMessage::Dialed) => {}
            Ok(_) => return Err(line.broken("unexpected answer to a dial").await.into()),
            Err(GuestError::Refused(refusal)) if refusal.code == RefusalCode::NotFound => {
                line.done();
                return Err(DialError::NotListening { sandbox: name.clone(), port });
            }
            Err(error) => return Err(error.into()),
        }
        let (near, far) = tokio::io::duplex(PIPE_BYTES);
        let (end, left) = (Arc::new(End::default()), CancellationToken::new());
        let tcp = GuestTcp { near, end: Arc::clone(&end), left: left.clone() };
        let (id, session) = (name.clone(), Arc::clone(session));
        tokio::spawn(async move {
            let carried = left.run_until_cancelled(carry(&session, line, far, &end)).await;
            if let Some(Err(error)) = carried {
                tracing::debug!(%id, port, %error, "connection to a port failed");
            }
            drop(permit);
        });
        Ok(tcp)
    }
}

/// A connection to a port of a sandbox. Shutting it down ends the direction to the port and
/// leaves the other one open; dropping it closes both.
///
/// Reading fails with [`io::ErrorKind::ConnectionReset`] when the connection broke, or the
/// sandbox ended, before the server on the port had sent everything.
#[derive(Debug)]
pub struct GuestTcp {
    near: DuplexStream,
    end: Arc<End>,
    /// Cancelled when the caller has dropped its end.
    left: CancellationToken,
}

/// How the direction from the port ended.
#[derive(Debug, Default)]
struct End {
    /// The port has sent all.
    orderly: AtomicBool,
    error: OnceLock<String>,
}

impl AsyncRead for GuestTcp {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.near).poll_read(context, buffer))?;
        let ended = buffer.filled().len() == before && buffer.remaining() > 0;
        if ended && !self.end.orderly.load(Ordering::Acquire) {
            let error = self.end.error.get().map_or("the connection broke", String::as_str);
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::ConnectionReset, error)));
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for GuestTcp {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.near).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.near).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.near).poll_shutdown(context)
    }
}

impl Drop for GuestTcp {
    fn drop(&mut self) {
        // Once the port has ended, what the caller wrote may still arrive.
        if !self.end.orderly.load(Ordering::Acquire) {
            self.left.cancel();
        }
    }
}

/// Moves bytes until both directions have ended; the guest's connection is idle again then.
async fn carry<S: ByteStream>(
    session: &Session<S>,
    line: Line<S>,
    far: DuplexStream,
    end: &End,
) -> Result<(), GuestError> {
    let outcome = Carrier::new(session, line, far).run(end).await;
    if let Err(error) = &outcome {
        // Set once, and before the caller's end is dropped, which is when it is looked at.
        end.error.get_or_init(|| error.to_string());
    }
    outcome
}

struct Carrier<'a, S> {
    session: &'a Session<S>,
    line: Line<S>,
    far: DuplexStream,
    /// From the port, on its way to the caller.
    pending: Bytes,
    /// Buffer for one read from the caller.
    chunk: Box<[u8]>,
    /// Bytes that may be sent before the guest grants more.
    window: usize,
    port_ended: bool,
    caller_ended: bool,
}

impl<'a, S: ByteStream> Carrier<'a, S> {
    fn new(session: &'a Session<S>, line: Line<S>, far: DuplexStream) -> Self {
        Self {
            session,
            line,
            far,
            pending: Bytes::new(),
            chunk: vec![0; BULK_BYTES_MAX].into(),
            window: DIAL_WINDOW_BYTES,
            port_ended: false,
            caller_ended: false,
        }
    }

    async fn run(mut self, end: &End) -> Result<(), GuestError> {
        loop {
            let (mut from_caller, mut to_caller) = tokio::io::split(&mut self.far);
            let room = self.window.min(self.chunk.len());
            let takes_more = !self.caller_ended && room > 0;
            tokio::select! {
                frame = self.line.frame(), if self.pending.is_empty() => {
                    let frame = frame?;
                    drop((from_caller, to_caller));
                    if self.take(frame, end).await? {
                        self.line.done();
                        return Ok(());
                    }
                }
                read = from_caller.read(&mut self.chunk[..room]), if takes_more => {
                    let bytes = read.unwrap_or(0);
                    self.session.host.knock();
                    self.caller_ended = bytes == 0;
                    self.window -= bytes;
                    let kind = if self.caller_ended { Kind::DataEnd } else { Kind::Data };
                    self.line.send(kind, &self.chunk[..bytes]).await?;
                }
                written = to_caller.write(&self.pending), if !self.pending.is_empty() => {
                    // The token of a caller that has left is cancelled too.
                    let Ok(written) = written else { return Ok(()) };
                    self.pending.advance(written);
                }
                () = sleep(LINGER_MAX), if self.port_ended && self.caller_ended => return Ok(()),
            }
        }
    }

    /// Handles a frame of the guest; returns whether it was the last one.
    async fn take(&mut self, frame: Frame, end: &End) -> Result<bool, GuestError> {
        match frame.kind {
            Kind::Data if !self.port_ended && !frame.payload.is_empty() => {
                self.session.host.stir();
                self.pending = frame.payload;
                Ok(false)
            }
            Kind::DataEnd if !self.port_ended => {
                self.port_ended = true;
                end.orderly.store(true, Ordering::Release);
                // Fails for a caller that has left.
                self.far.shutdown().await.ok();
                Ok(false)
            }
            Kind::Control => match frame.message() {
                Ok(GuestMessage::DataTaken { bytes })
                    if bytes <= DIAL_WINDOW_BYTES - self.window =>
                {
                    self.window += bytes;
                    Ok(false)
                }
                Ok(GuestMessage::Done) if self.port_ended && self.caller_ended => Ok(true),
                Ok(_) => Err(self.line.broken("unexpected message on a port connection").await),
                Err(error) => Err(self.line.malformed(error).await),
            },
            _ => Err(self.line.broken("unexpected frame on a port connection").await),
        }
    }
}
