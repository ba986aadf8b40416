//! Egress of one daemon and of its sandboxes, as the rest of the daemon holds them.

use std::fmt;
use std::io;
use std::net::IpAddr;
use std::num::NonZero;
use std::sync::Arc;

use emberd_proto::{EgressDenials, EgressReason};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::runtime::{Builder, Handle, Runtime};

use crate::lookup::addresses;
use crate::mux::MuxError;
use crate::name::Name;
use crate::network::{HostNetwork, Network};
use crate::policy::Policy;
use crate::record::{Decision, Page, hint};
use crate::resolve::{LOOKUPS_MAX, Resolver};
use crate::session;
use crate::state::{Daemon, Sandbox, Totals, guard};
use crate::tally::DaemonTotals;
use crate::verdict::{Denied, Source, Verdict};

/// Default of most connections of one daemon.
pub const CONNECTIONS_MAX_DEFAULT: usize = 4096;

/// Processors of the host for each thread of the runtime.
const PROCESSORS_PER_THREAD: usize = 4;

/// Egress of one daemon. It has threads of its own, so that bulk transfers of sandboxes do not
/// delay requests.
pub struct Egress {
    daemon: Arc<Daemon>,
    handle: Handle,
    /// Taken only when dropped; none if the caller owns it.
    runtime: Option<Runtime>,
}

/// Egress of one sandbox. Clones are the same sandbox.
#[derive(Clone)]
pub struct SandboxEgress {
    sandbox: Arc<Sandbox>,
    runtime: Handle,
}

/// The fate of a connection that is not made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    /// Whether it would be allowed, denied, or fail for lack of an address.
    pub decision: Decision,
    /// Why not.
    pub reason: Option<EgressReason>,
    /// The entry that decides.
    pub entry: Option<Arc<str>>,
    /// Where the entry comes from.
    pub from: Option<Source>,
    /// The addresses that would be tried.
    pub addresses: Vec<IpAddr>,
}

impl Egress {
    /// Starts the threads; `connections_max` bounds the connections of all sandboxes.
    ///
    /// # Errors
    /// When the threads cannot be started.
    pub fn new(connections_max: usize) -> io::Result<Self> {
        Self::with_network(connections_max, Arc::new(HostNetwork))
    }

    /// As [`Self::new`], over another network.
    ///
    /// # Errors
    /// When the threads cannot be started.
    pub fn with_network(connections_max: usize, network: Arc<dyn Network>) -> io::Result<Self> {
        let processors = std::thread::available_parallelism().map_or(1, NonZero::get);
        let runtime = Builder::new_multi_thread()
            .worker_threads((processors / PROCESSORS_PER_THREAD).max(1))
            .max_blocking_threads(LOOKUPS_MAX)
            .thread_name("emberd-egress")
            .enable_all()
            .build()?;
        let mut egress = Self::on(runtime.handle().clone(), connections_max, network);
        egress.runtime = Some(runtime);
        Ok(egress)
    }

    /// As [`Self::with_network`], on a runtime of the caller's, whose clock is that of all limits.
    pub fn on(handle: Handle, connections_max: usize, network: Arc<dyn Network>) -> Self {
        let resolver = Resolver::new(Arc::clone(&network));
        let (connections, tally) = Default::default();
        let keeps_all = false;
        let daemon = Daemon { network, resolver, connections, connections_max, keeps_all, tally };
        Self { daemon: Arc::new(daemon), handle, runtime: None }
    }

    /// Keeps what policies do not list too, for [`SandboxEgress::everything`].
    ///
    /// # Panics
    /// When a sandbox has its egress already.
    #[must_use]
    pub fn keeping_all(mut self) -> Self {
        let daemon = Arc::get_mut(&mut self.daemon).expect("no sandbox has its egress yet");
        daemon.keeps_all = true;
        self
    }

    /// Returns what all sandboxes have done so far.
    pub fn totals(&self) -> DaemonTotals {
        let daemon = &self.daemon;
        daemon.tally.totals(daemon.connections.taken(), daemon.connections_max)
    }

    /// Returns the egress of a new sandbox.
    pub fn sandbox(&self, policy: &Arc<Policy>) -> SandboxEgress {
        let sandbox = Arc::new(Sandbox::new(Arc::clone(&self.daemon), policy));
        SandboxEgress { sandbox, runtime: self.handle.clone() }
    }
}

impl fmt::Debug for Egress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let connections = self.daemon.connections.taken();
        f.debug_struct("Egress").field("connections", &connections).finish_non_exhaustive()
    }
}

impl Drop for Egress {
    fn drop(&mut self) {
        // A runtime must not be waited for where the daemon's tasks run.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl SandboxEgress {
    /// Serves a session: what the guest opens over `stream` after it has answered that it is
    /// ready. Returns when the guest has ended the session or the sandbox is closed. Dropping the
    /// future ends the session and its connections.
    ///
    /// # Errors
    /// When the stream failed, or the guest broke the protocol.
    pub async fn serve(
        &self,
        stream: impl AsyncRead + AsyncWrite + Send + 'static,
    ) -> Result<(), MuxError> {
        let session = self.runtime.spawn(session::run(Arc::clone(&self.sandbox), stream));
        let _aborting = AbortOnDrop(session.abort_handle());
        match session.await {
            Ok(ended) => ended,
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            // The daemon stops.
            Err(_) => Ok(()),
        }
    }

    /// Returns the policy in force.
    pub fn policy(&self) -> Arc<Policy> {
        self.sandbox.policy()
    }

    /// Puts the first policy in force, before the sandbox is handed out.
    pub fn begin(&self, policy: Arc<Policy>) {
        self.sandbox.begin(policy);
    }

    /// Puts another policy in force. Returns how many connections it does not allow; they are
    /// reset at once.
    pub fn replace(&self, policy: Arc<Policy>) -> usize {
        self.sandbox.replace(policy)
    }

    /// Returns what would happen to a connection to a name or an address. Nothing is sent but the
    /// lookup of a name that the policy allows.
    pub async fn check(&self, host: &str, port: u16) -> Check {
        let (sandbox, host) = (Arc::clone(&self.sandbox), host.to_owned());
        let checking = self.runtime.spawn(async move { check(&sandbox, &host, port).await });
        let unknown = Check::refused(EgressReason::LookupFailed);
        checking.await.unwrap_or(unknown)
    }

    /// Returns at most `limit` records after number `after`, of one decision if given.
    pub fn log(&self, after: u64, decision: Option<Decision>, limit: usize) -> Page {
        self.sandbox.log.page(after, decision, limit)
    }

    /// Returns at most `limit` records after number `after`, also those that the policy does not
    /// list: its denials, and the others under [`Egress::keeping_all`].
    pub fn everything(&self, after: u64, limit: usize) -> Page {
        self.sandbox.log.everything(after, limit)
    }

    /// Waits until there is a record after number `after`, or the sandbox is closed.
    pub fn recorded(&self, after: u64) -> impl Future<Output = ()> + Send + use<> {
        let (recorded, closed) = (self.sandbox.log.after(after), self.sandbox.closed.clone());
        async move {
            closed.run_until_cancelled_owned(recorded).await;
        }
    }

    /// Whether the sandbox is closed: no record follows.
    pub fn is_closed(&self) -> bool {
        self.sandbox.closed.is_cancelled()
    }

    /// Waits until the sandbox is closed.
    pub fn closed(&self) -> impl Future<Output = ()> + Send + use<> {
        self.sandbox.closed.clone().cancelled_owned()
    }

    /// Returns what the sandbox has done so far.
    pub fn totals(&self) -> Totals {
        self.sandbox.totals()
    }

    /// Returns how many connections are open or being made.
    pub fn connections(&self) -> usize {
        self.sandbox.connections()
    }

    /// Marks this moment, for [`Self::denied_since`].
    pub fn mark(&self) -> u64 {
        self.sandbox.log.mark()
    }

    /// Returns the destinations that the policy has denied since `mark`, the latest first, at
    /// most [`DENIED_MAX`].
    ///
    /// [`DENIED_MAX`]: crate::DENIED_MAX
    pub fn denied_since(&self, mark: u64) -> EgressDenials {
        let egress_denied = self.sandbox.log.denied_since(mark);
        let hint = hint(&egress_denied);
        EgressDenials { egress_denied, hint }
    }

    /// Ends every session and connection, now and later.
    pub fn close(&self) {
        self.sandbox.closed.cancel();
    }
}

impl Check {
    fn refused(reason: EgressReason) -> Self {
        let decision = Decision::of(reason);
        Self { decision, reason: Some(reason), entry: None, from: None, addresses: Vec::new() }
    }
}

async fn check(sandbox: &Sandbox, host: &str, port: u16) -> Check {
    let policy = sandbox.policy();
    let text = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    let (verdict, target) = match (text.parse::<IpAddr>(), Name::parse(text)) {
        (Ok(address), _) => {
            let address = address.to_canonical();
            (policy.address(address, port), Ok(address))
        }
        (Err(_), Ok(name)) => (policy.name(&name, port), Err(name)),
        (Err(_), Err(_)) => return Check::refused(EgressReason::NoRule),
    };
    let allowed = match verdict {
        Verdict::Allowed(allowed) => allowed,
        Verdict::Denied(denied) => {
            let (entry, from) = (denied.entry, denied.source);
            return Check { entry, from, ..Check::refused(denied.reason) };
        }
    };
    let found = match &target {
        Ok(address) => {
            let checked = guard(&policy, &allowed).check(*address);
            checked.map(|address| vec![address]).map_err(Denied::by)
        }
        Err(name) => addresses(sandbox, &policy, name, Some(port), &allowed).await,
    };
    let (entry, from) = (Some(allowed.entry), Some(allowed.source));
    match found {
        Ok(addresses) => {
            Check { decision: Decision::Allowed, reason: None, entry, from, addresses }
        }
        Err(Denied { reason, entry: Some(by), source }) => {
            Check { entry: Some(by), from: source, ..Check::refused(reason) }
        }
        Err(denied) => Check { entry, from, ..Check::refused(denied.reason) },
    }
}

/// Stops a task when dropped.
struct AbortOnDrop(tokio::task::AbortHandle);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}
