//! One guest that has answered, as its host holds it.

use std::sync::Arc;
use std::time::Duration;

use emberd_proto::{ExecSpec, GuestLimits, GuestMessage, HostMessage, Metrics};

use crate::contexts::{Contexts, Registry as ContextRegistry};
use crate::egress::{self, EgressLink};
use crate::error::{ChannelError, GuestError, LimitsError};
use crate::exec::{self, Executed};
use crate::files::Files;
use crate::host::{ByteStream, Host};
use crate::line::Line;
use crate::link::{Link, Room};
use crate::ports::Ports;
use crate::processes::{Processes, Registry as ProcessRegistry};
use crate::recover::{self, Recovered};
use crate::renewal;
use crate::session::Session;

/// One guest that has answered. Clones are the same guest.
pub struct Guest<S> {
    session: Arc<Session<S>>,
    processes: Arc<ProcessRegistry>,
    contexts: Arc<ContextRegistry>,
}

impl<S> Clone for Guest<S> {
    fn clone(&self) -> Self {
        Self {
            session: Arc::clone(&self.session),
            processes: Arc::clone(&self.processes),
            contexts: Arc::clone(&self.contexts),
        }
    }
}

impl<S: ByteStream> Guest<S> {
    /// Returns the guest of the sandbox `name`, run by `host`, with its first connection.
    pub fn new(name: String, host: impl Host<S>, first: Link<S>) -> Self {
        Self::with(name, host, Some(first))
    }

    /// Returns the guest of the sandbox `name`, which an earlier daemon started and `host` runs
    /// now. It is not connected to: [`Self::recover`] is to come first.
    pub fn adopted(name: String, host: impl Host<S>) -> Self {
        Self::with(name, host, None)
    }

    fn with(name: String, host: impl Host<S>, first: Option<Link<S>>) -> Self {
        Self {
            session: Arc::new(Session::new(name, Box::new(host), first)),
            processes: Arc::default(),
            contexts: Arc::default(),
        }
    }

    /// Runs `spec` and waits for its end; `grace` is how long after the program's own time limit
    /// the guest may take to report it. Dropping the future ends the program.
    ///
    /// # Errors
    /// [`GuestError`].
    pub async fn exec(
        &self,
        spec: ExecSpec,
        stdin: &[u8],
        room: &mut Room<'_>,
        grace: Duration,
    ) -> Result<Executed, GuestError> {
        exec::exec(&self.session, spec, stdin, room, grace).await
    }

    /// Returns the present resource usage. The guest reports it and may report anything.
    ///
    /// # Errors
    /// [`GuestError`].
    pub async fn metrics(&self) -> Result<Metrics, GuestError> {
        let mut line = Line::open(Arc::clone(&self.session)).await?;
        match line.ask(&HostMessage::Metrics).await? {
            GuestMessage::Metrics(metrics) => {
                line.done();
                Ok(metrics)
            }
            _ => Err(line.broken("unexpected answer to a metrics request").await),
        }
    }

    /// Pings the guest, without a time limit.
    ///
    /// # Errors
    /// [`ChannelError`].
    pub async fn ping(&self) -> Result<(), ChannelError> {
        let mut link = self.session.link().await?;
        link.ping().await?;
        self.session.keep(link);
        Ok(())
    }

    /// Sets the guest's wall clock, which stands still while the guest is paused.
    ///
    /// # Errors
    /// [`ChannelError`].
    pub async fn correct_clock(&self) -> Result<(), ChannelError> {
        let mut link = self.session.link().await?;
        renewal::correct_clock(&mut link).await?;
        self.session.keep(link);
        Ok(())
    }

    /// Limits what all programs of the guest take together; returns once the limits hold.
    ///
    /// # Errors
    /// [`LimitsError::Unavailable`] where the guest cannot hold one of them.
    pub async fn limit(&self, limits: GuestLimits) -> Result<(), LimitsError> {
        let mut line = Line::open(Arc::clone(&self.session)).await?;
        match line.ask(&HostMessage::Limit(limits)).await {
            Ok(GuestMessage::Done) => {
                line.done();
                Ok(())
            }
            Ok(_) => Err(line.broken("unexpected answer to a limit request").await.into()),
            Err(GuestError::Refused(refusal)) => Err(LimitsError::Unavailable(refusal)),
            Err(error) => Err(error.into()),
        }
    }

    /// Returns the guest's files.
    pub fn files(&self) -> Files<S> {
        Files::new(Arc::clone(&self.session))
    }

    /// Returns the guest's processes.
    pub fn processes(&self) -> Processes<S> {
        Processes::new(Arc::clone(&self.session), Arc::clone(&self.processes))
    }

    /// Returns the guest's contexts.
    pub fn contexts(&self) -> Contexts<S> {
        Contexts::new(Arc::clone(&self.session), Arc::clone(&self.contexts))
    }

    /// Goes on with the processes and contexts that an earlier daemon started in this guest, and
    /// ends its execs and transfers. To be called before anything else is asked of the guest, and
    /// again after an error.
    ///
    /// # Errors
    /// [`GuestError`]; what was found before it stays.
    pub async fn recover(&self) -> Result<Recovered, GuestError> {
        recover::recover(&self.session, &self.processes(), &self.contexts()).await
    }

    /// Ends all operations in this guest and closes its connections, and leaves its processes and
    /// contexts running, for another daemon to [`Self::recover`].
    pub fn detach(&self) {
        self.session.detach();
    }

    /// Returns the guest's TCP ports.
    pub fn ports(&self) -> Ports<S> {
        Ports::new(Arc::clone(&self.session))
    }

    /// Asks the guest to send the connections of its programs to the host. A later session
    /// replaces the one before.
    ///
    /// # Errors
    /// [`GuestError`].
    pub async fn egress(&self) -> Result<EgressLink<S>, GuestError> {
        egress::open(Arc::clone(&self.session)).await
    }

    /// Whether an idle connection is open that the guest has not closed.
    pub fn is_idle(&self) -> bool {
        self.session.is_idle()
    }

    /// Closes the connections that are not used.
    pub fn close(&self) {
        self.session.close();
    }
}
