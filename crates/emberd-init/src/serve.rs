//! The sockets and ports that the host connects to.
//!
//! As PID 1, the agent serves both possible transports, because the VMM has one of them: an
//! `AF_VSOCK` port, and a virtio port that carries many streams. Off PID 1, it serves a Unix
//! socket.

use std::convert::Infallible;
use std::fs;
use std::future;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use emberd_proto::message::{AGENT_PORT, READY_PORT};
use tokio::io::Interest;
use tokio::net::{UnixListener, UnixStream};
use tokio::runtime::Runtime;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Semaphore;
use tokio_vsock::{VMADDR_CID_ANY, VMADDR_CID_HOST, VsockAddr, VsockListener, VsockStream};

use crate::accept;
use crate::agent::Agent;
use crate::connection::{self, ConnectionError};
use crate::duplex::Duplex;
use crate::uevents::Uevents;
use crate::{console, sys, zygote};

mod mux;
mod port;

/// Maximum number of connections. Further connections are closed unanswered.
const CONNECTIONS_MAX: usize = 512;

/// Why the agent cannot serve.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The runtime, or the watch for signals and ended children, cannot be created.
    #[error("cannot watch for events")]
    Runtime(#[source] io::Error),
    /// The Unix socket cannot be created.
    #[error("cannot listen on {}", .0.display())]
    Listen(PathBuf, #[source] io::Error),
    /// A transport failed.
    #[error("cannot accept connections on {door}")]
    Accept {
        /// The transport.
        door: &'static str,
        /// The cause.
        source: io::Error,
    },
}

/// Serves the host of a microVM.
///
/// # Errors
/// If no transport can be served any more.
pub fn guest(agent: Agent, uevents: Uevents) -> Result<Infallible, ServeError> {
    let runtime = runtime()?;
    runtime.block_on(async {
        let agent = Arc::new(agent);
        let hall = Hall::new(&agent);
        let uevents = uevents.into_async().map_err(ServeError::Runtime)?;
        tokio::select! {
            Err(error) = reap(&agent) => Err(error),
            never = zygote::keep(&agent) => match never {},
            never = agent.egress.run() => match never {},
            Err(error) = vsock(&hall) => Err(error),
            Err(source) = mux::serve(&hall, &uevents) => {
                Err(ServeError::Accept { door: "the virtio port", source })
            }
        }
    })
}

/// Serves the Unix socket at `path`, which must not exist, until SIGTERM or SIGINT. Then kills
/// running programs and removes the socket. Connects to `ready` once it serves, as a guest does.
///
/// # Errors
/// [`ServeError`].
pub fn unix(agent: Agent, path: &Path, ready: Option<PathBuf>) -> Result<(), ServeError> {
    let runtime = runtime()?;
    runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate()).map_err(ServeError::Runtime)?;
        let mut interrupt = signal(SignalKind::interrupt()).map_err(ServeError::Runtime)?;
        let listener = listen(path).map_err(|source| ServeError::Listen(path.into(), source))?;
        if let Some(ready) = ready {
            tell_ready(UnixStream::connect(ready));
        }
        let agent = Arc::new(agent);
        let hall = Hall::new(&agent);
        let arrival = async || Ok((listener.accept().await?.0, future::pending()));
        let outcome = tokio::select! {
            _ = terminate.recv() => Ok(()),
            _ = interrupt.recv() => Ok(()),
            Err(error) = reap(&agent) => Err(error),
            never = zygote::keep(&agent) => match never {},
            never = agent.egress.run() => match never {},
            source = accept(&hall, arrival) => {
                Err(ServeError::Accept { door: "the Unix socket", source })
            }
        };
        fs::remove_file(path).ok();
        outcome
    })
}

fn runtime() -> Result<Runtime, ServeError> {
    tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(ServeError::Runtime)
}

async fn reap(agent: &Agent) -> Result<Infallible, ServeError> {
    agent.reaper.run(|| agent.sweep()).await.map_err(ServeError::Runtime)
}

/// Creates a socket that only its owner can connect to.
fn listen(path: &Path) -> io::Result<UnixListener> {
    let listener = UnixListener::bind(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// Serves `AF_VSOCK`, or waits forever on a kernel without it.
///
/// A guest may have the address family but no device; then no host ever connects.
async fn vsock(hall: &Hall) -> Result<Infallible, ServeError> {
    let Ok(listener) = VsockListener::bind(VsockAddr::new(VMADDR_CID_ANY, AGENT_PORT)) else {
        return future::pending().await;
    };
    tell_ready(VsockStream::connect(VsockAddr::new(VMADDR_CID_HOST, READY_PORT)));
    let source = accept(hall, async || {
        let (stream, _) = listener.accept().await?;
        let cut = reset(stream.as_fd())?;
        Ok((stream, cut))
    });
    Err(ServeError::Accept { door: "vsock", source: source.await })
}

/// Waits until `stream` is reset, which happens to every vsock connection when the machine is
/// restored. The runtime reports a reset to writers only, so a reader would not notice it.
fn reset(stream: BorrowedFd<'_>) -> io::Result<impl Future<Output = ()> + Send + use<>> {
    let connection = sys::watch(stream.try_clone_to_owned()?, Interest::ERROR)?;
    Ok(async move { drop(connection.ready(Interest::ERROR).await) })
}

/// Connects once, in the background, and hangs up, which tells the host that the agent serves. A
/// host that does not listen finds out by connecting itself.
fn tell_ready<S>(connect: impl Future<Output = io::Result<S>> + Send + 'static) {
    tokio::spawn(async move { drop(connect.await) });
}

/// Serves each connection that `next` accepts, together with what cuts it off, until `next` fails
/// permanently.
async fn accept<S: Duplex + 'static, C: Future<Output = ()> + Send + 'static>(
    hall: &Hall,
    next: impl AsyncFnMut() -> io::Result<(S, C)>,
) -> io::Error {
    accept::accept(next, |(stream, cut)| hall.admit(Box::new(stream), cut)).await
}

/// Serves connections from all transports.
struct Hall {
    agent: Arc<Agent>,
    permits: Arc<Semaphore>,
}

impl Hall {
    fn new(agent: &Arc<Agent>) -> Self {
        Self { agent: Arc::clone(agent), permits: Arc::new(Semaphore::new(CONNECTIONS_MAX)) }
    }

    /// Serves `stream` concurrently with all others, until `cut` completes.
    fn admit(&self, stream: Box<dyn Duplex>, cut: impl Future<Output = ()> + Send + 'static) {
        let Ok(permit) = Arc::clone(&self.permits).try_acquire_owned() else { return };
        let agent = Arc::clone(&self.agent);
        let number = agent.next_number();
        tokio::spawn(async move {
            let served = tokio::select! {
                served = connection::serve(Arc::clone(&agent), stream, number) => served,
                () = cut => Err(ConnectionError::HostLeft),
                () = agent.adoption.closes(number) => Err(ConnectionError::HostLeft),
            };
            match served {
                // A failed connection is not an error of the agent.
                Ok(()) | Err(ConnectionError::HostLeft | ConnectionError::Io(_)) => {}
                Err(error) => console::report(&error),
            }
            drop(permit);
        });
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use futures::FutureExt as _;

    use super::*;

    #[tokio::test]
    async fn reset_is_noticed_without_reading() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let mut cut = pin!(reset(ours.as_fd()).unwrap());
        assert_eq!(cut.as_mut().now_or_never(), None);
        // Unread data makes closing a Unix socket a reset.
        ours.try_write(b"unread").unwrap();
        drop(theirs);
        cut.await;
    }
}
