//! The shared state of all operations in one guest: its connections and permits.
//!
//! Every operation ends when the sandbox is deleted or its microVM ends. A guest that breaks the
//! protocol is hostile or broken, and is ended at once.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use emberd_proto::FrameError;
use parking_lot::Mutex;
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::error::{ChannelError, GuestError};
use crate::host::{ByteStream, End, Host};
use crate::link::Link;
use crate::random::random;

/// Time that a guest may take for an answer that needs no work: an emulated guest on a busy host
/// is slow.
pub(crate) const ANSWER_MAX: Duration = Duration::from_secs(60);

/// Time to wait after a closed connection for the end of the whole microVM.
const END_GRACE: Duration = Duration::from_secs(1);

/// Why nothing more is done in a guest that was left.
const DETACHED: &str = "it was left to another daemon";

/// Most connections one guest keeps open while they are not used.
const IDLE_LINKS_MAX: usize = 8;

/// Most execs one guest runs at once; more wait. Bounds the output held.
const EXECS_MAX: usize = 64;

/// Most operations on files of one guest at once; more wait. With the watches less than half of
/// the connections a guest takes.
const FILE_OPERATIONS_MAX: usize = 64;

/// Most watches of files of one guest; more wait until one ends.
const WATCHES_MAX: usize = 32;

/// Most connections to the ports of one sandbox at once: half of what its agent serves, so that
/// execs always find a connection.
pub const PORT_CONNECTIONS_MAX: usize = 128;

/// See the module.
pub(crate) struct Session<S> {
    /// The sandbox's name.
    pub name: String,
    pub host: Box<dyn Host<S>>,
    /// Tells this session from that of another daemon.
    pub epoch: u64,
    /// One permit for each exec that may run.
    pub execs: Semaphore,
    /// One permit for each operation on files that may go on.
    pub file_operations: Arc<Semaphore>,
    /// One permit for each watch of files.
    pub watches: Arc<Semaphore>,
    /// One permit for each connection to a port that may be open.
    pub port_connections: Arc<Semaphore>,
    /// The idle connections; none are kept once they were closed.
    idle: Mutex<Option<Vec<Link<S>>>>,
    /// Cancelled when another daemon goes on with the guest.
    detached: CancellationToken,
}

impl<S: ByteStream> Session<S> {
    /// A session that begins with one idle connection, or with none.
    pub fn new(name: String, host: Box<dyn Host<S>>, first: Option<Link<S>>) -> Self {
        Self {
            name,
            host,
            epoch: u64::from_ne_bytes(random()),
            execs: Semaphore::new(EXECS_MAX),
            file_operations: Arc::new(Semaphore::new(FILE_OPERATIONS_MAX)),
            watches: Arc::new(Semaphore::new(WATCHES_MAX)),
            port_connections: Arc::new(Semaphore::new(PORT_CONNECTIONS_MAX)),
            idle: Mutex::new(Some(first.into_iter().collect())),
            detached: CancellationToken::new(),
        }
    }

    /// Adds the sandbox's own variables to the `env` of a program, which may set them itself.
    pub fn add_env(&self, env: &mut BTreeMap<String, String>) {
        for (name, value) in self.host.env().into_iter().flatten() {
            env.entry(name.clone()).or_insert_with(|| value.clone());
        }
    }

    /// Waits for `operation` while the guest lives.
    pub async fn guarded<T>(
        &self,
        operation: impl Future<Output = Result<T, GuestError>>,
    ) -> Result<T, GuestError> {
        tokio::select! {
            biased;
            end = self.host.ended() => Err(self.end(end)),
            () = self.detached.cancelled() => Err(self.end(End::Gone(DETACHED.to_owned()))),
            outcome = operation => outcome,
        }
    }

    /// Waits for `operation` while the guest runs for `time`.
    ///
    /// # Errors
    /// [`GuestError::Unresponsive`].
    pub async fn in_time<T>(
        &self,
        time: Duration,
        operation: impl Future<Output = T>,
    ) -> Result<T, GuestError> {
        tokio::select! {
            biased;
            outcome = operation => Ok(outcome),
            () = self.host.run_for(time) => {
                Err(GuestError::Unresponsive { guest: self.name.clone(), waited: time })
            }
        }
    }

    /// Turns a failed conversation into its error, and ends a guest that broke the protocol.
    pub async fn failed(&self, source: ChannelError) -> GuestError {
        let hostile = match source {
            ChannelError::Refused(refusal) => return GuestError::Refused(refusal),
            // A VMM that ends in the middle of a frame cuts it.
            ChannelError::Frame(FrameError::Truncated(_))
            | ChannelError::Connect(_)
            | ChannelError::Closed
            | ChannelError::Io(_) => false,
            ChannelError::Frame(_) | ChannelError::Protocol(_) => true,
        };
        let guest = self.name.clone();
        if hostile {
            let error = &source as &dyn std::error::Error;
            tracing::warn!(id = %guest, error, "the guest broke the protocol: its microVM is ended");
            self.host.end();
            self.close();
            return GuestError::Failed { guest, source };
        }
        match timeout(END_GRACE, self.host.ended()).await {
            Ok(end) => self.end(end),
            Err(_) => GuestError::Failed { guest, source },
        }
    }

    fn end(&self, end: End) -> GuestError {
        let guest = self.name.clone();
        match end {
            End::Deleted => GuestError::Deleted { guest },
            End::Gone(reason) => GuestError::Gone { guest, reason },
        }
    }

    /// Returns an idle connection, else a new one.
    pub async fn link(&self) -> Result<Link<S>, ChannelError> {
        while let Some(mut link) = self.pop() {
            if link.is_idle() {
                return Ok(link);
            }
        }
        self.new_link().await
    }

    /// Returns a new connection.
    pub async fn new_link(&self) -> Result<Link<S>, ChannelError> {
        let stream = self.host.connect().await.map_err(ChannelError::Connect)?;
        let (link, _) = Link::greet(stream).await?;
        Ok(link)
    }

    // The lock is not held while a connection is checked.
    fn pop(&self) -> Option<Link<S>> {
        self.idle.lock().as_mut()?.pop()
    }

    /// Ends all operations, and leaves all programs of the guest as they are: another daemon goes
    /// on with them.
    pub fn detach(&self) {
        self.detached.cancel();
        self.close();
    }

    /// Whether another daemon goes on with the programs.
    pub fn is_detached(&self) -> bool {
        self.detached.is_cancelled()
    }

    /// Keeps a connection whose operation ended in step.
    pub fn keep(&self, link: Link<S>) {
        if let Some(idle) = self.idle.lock().as_mut()
            && idle.len() < IDLE_LINKS_MAX
        {
            idle.push(link);
        }
    }

    /// Whether an idle connection is open that the guest has not closed.
    pub fn is_idle(&self) -> bool {
        self.idle.lock().as_mut().and_then(|idle| idle.last_mut()).is_some_and(Link::is_idle)
    }

    /// Closes the idle connections, and from now on each that ends its operation.
    pub fn close(&self) {
        let idle = self.idle.lock().take();
        drop(idle);
    }
}
