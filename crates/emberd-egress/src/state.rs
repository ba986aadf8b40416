//! One sandbox's side of the daemon's egress: its policy, limits, connections and records.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use emberd_proto::EgressReason;
use parking_lot::Mutex;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::guard::Guard;
use crate::limits::{Bucket, Gate, Place, Traffic};
use crate::name::Name;
use crate::network::Network;
use crate::policy::Policy;
use crate::record::{Decision, Kind, Log, Record};
use crate::resolve::Resolver;
use crate::tally::Tally;
use crate::verdict::{Allowed, Denied, Verdict};

/// Lookups of one sandbox in a second, on average; twice as many at once.
const LOOKUPS_PER_S: u64 = 20;

/// Lookups of names whose answers are kept that count as one.
const KEPT_PER_LOOKUP: u64 = 10;

/// Lookups of one sandbox under way.
const LOOKUPS_UNDER_WAY_MAX: usize = 8;

/// State that all sandboxes of one daemon share.
pub(crate) struct Daemon {
    pub network: Arc<dyn Network>,
    pub resolver: Resolver,
    pub connections: Arc<Gate>,
    pub connections_max: usize,
    /// Whether the logs of sandboxes keep what policies do not list.
    pub keeps_all: bool,
    pub tally: Arc<Tally>,
}

/// See the module.
pub(crate) struct Sandbox {
    pub daemon: Arc<Daemon>,
    pub log: Log,
    pub traffic: Traffic,
    opens: Bucket,
    lookups: Bucket,
    lookups_under_way: Arc<Gate>,
    /// Places of lookups until the host's resolver has answered, those of connections among them.
    pub lookups_begun: Arc<Semaphore>,
    connections: Arc<Gate>,
    live: Mutex<Live>,
    opened: AtomicU64,
    denied: AtomicU64,
    failed: AtomicU64,
    /// Cancelled when the sandbox ends.
    pub closed: CancellationToken,
}

/// The policy, and the connections that it allowed: changed together.
struct Live {
    policy: Arc<Policy>,
    by_number: HashMap<u64, Arc<Connection>>,
    next: u64,
}

/// A connection that was made.
struct Connection {
    target: Target,
    address: IpAddr,
    cut: CancellationToken,
}

/// Destination of a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Target {
    Name(Name, u16),
    Address(IpAddr, u16),
}

/// Places of one connection in the limits, until it is dropped.
#[derive(Debug)]
pub(crate) struct Places {
    _sandbox: Place,
    _daemon: Place,
}

/// A connection in the list of those that a new policy may cut, until it is dropped.
pub(crate) struct Listed {
    sandbox: Arc<Sandbox>,
    number: u64,
    /// Cancelled when the policy does not allow the connection any more.
    pub cut: CancellationToken,
}

/// Counts of a sandbox so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Totals {
    /// Connections that were made.
    pub opened: u64,
    /// Connections and lookups that were denied.
    pub denied: u64,
    /// Connections and lookups that were allowed and failed.
    pub failed: u64,
    /// Bytes to destinations.
    pub sent_bytes: u64,
    /// Bytes from destinations.
    pub received_bytes: u64,
}

impl Sandbox {
    pub fn new(daemon: Arc<Daemon>, policy: &Arc<Policy>) -> Self {
        // In lookups whose answers are kept.
        let kept_lookups_per_s = LOOKUPS_PER_S * KEPT_PER_LOOKUP;
        let keeps_all = daemon.keeps_all;
        let tally = Arc::clone(&daemon.tally);
        let sandbox = Self {
            daemon,
            log: Log::new(keeps_all),
            traffic: Traffic::new(policy.limits(), tally),
            opens: Bucket::new(0, 0),
            lookups: Bucket::new(kept_lookups_per_s, 2 * kept_lookups_per_s),
            lookups_under_way: Arc::default(),
            lookups_begun: Arc::new(Semaphore::new(LOOKUPS_UNDER_WAY_MAX)),
            connections: Arc::default(),
            live: Mutex::new(Live {
                policy: Arc::clone(policy),
                by_number: HashMap::new(),
                next: 0,
            }),
            opened: AtomicU64::new(0),
            denied: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            closed: CancellationToken::new(),
        };
        sandbox.limit(policy);
        sandbox
    }

    fn limit(&self, policy: &Policy) {
        let opens = u64::from(policy.limits().opens_per_s);
        self.opens.set(opens, 2 * opens);
        self.traffic.set(policy.limits());
    }

    pub fn policy(&self) -> Arc<Policy> {
        Arc::clone(&self.live.lock().policy)
    }

    /// Puts the first policy in force: no connection depends on another.
    pub fn begin(&self, policy: Arc<Policy>) {
        self.limit(&policy);
        self.live.lock().policy = policy;
    }

    /// Puts another policy in force and cuts the connections that it does not allow; returns how
    /// many those are.
    pub fn replace(&self, policy: Arc<Policy>) -> usize {
        self.limit(&policy);
        let mut live = self.live.lock();
        live.policy = policy;
        let policy = &live.policy;
        let gone = live
            .by_number
            .values()
            .filter(|connection| judge(policy, &connection.target, connection.address).is_err());
        let count = gone.inspect(|connection| connection.cut.cancel()).count();
        let mode = policy.log();
        drop(live);
        self.log.add(Record::new(Kind::Policy, Decision::Allowed), mode);
        count
    }

    /// Takes the places of one more connection.
    ///
    /// # Errors
    /// The limit that it would exceed.
    pub fn enter(&self, policy: &Policy) -> Result<Places, EgressReason> {
        if !self.opens.try_take(1) {
            return Err(EgressReason::RateLimit);
        }
        let most = policy.limits().connections as usize;
        let sandbox = self.connections.enter(most).ok_or(EgressReason::ConnectionLimit)?;
        let daemon = &self.daemon;
        let place = daemon.connections.enter(daemon.connections_max);
        let daemon = place.ok_or(EgressReason::ConnectionLimit)?;
        Ok(Places { _sandbox: sandbox, _daemon: daemon })
    }

    /// Takes the place of one more lookup. One whose answer is kept asks nobody, so programs that
    /// look up the same host for each of their connections may go on.
    ///
    /// # Errors
    /// The limit that it would exceed.
    pub fn look_up(&self, is_kept: bool) -> Result<Place, EgressReason> {
        let place = self.lookups_under_way.enter(LOOKUPS_UNDER_WAY_MAX);
        let amount = if is_kept { 1 } else { KEPT_PER_LOOKUP };
        place.filter(|_| self.lookups.try_take(amount)).ok_or(EgressReason::RateLimit)
    }

    /// Lists a connection that was made to `address`, if the policy, which may have changed in the
    /// meantime, still allows it.
    ///
    /// # Errors
    /// Why it does not.
    pub fn list(self: &Arc<Self>, target: Target, address: IpAddr) -> Result<Listed, Denied> {
        let mut live = self.live.lock();
        judge(&live.policy, &target, address)?;
        let (number, cut) = (live.next, CancellationToken::new());
        live.next += 1;
        live.by_number.insert(number, Arc::new(Connection { target, address, cut: cut.clone() }));
        self.opened.fetch_add(1, Ordering::Relaxed);
        self.daemon.tally.allowed.fetch_add(1, Ordering::Relaxed);
        Ok(Listed { sandbox: Arc::clone(self), number, cut })
    }

    /// Adds a record, and counts it.
    pub fn record(&self, record: Record) {
        match record.decision {
            Decision::Allowed => {}
            Decision::Denied => drop(self.denied.fetch_add(1, Ordering::Relaxed)),
            Decision::Failed => drop(self.failed.fetch_add(1, Ordering::Relaxed)),
        }
        self.daemon.tally.count(&record);
        let mode = self.policy().log();
        self.log.add(record, mode);
    }

    /// Returns how many connections are open or being made.
    pub fn connections(&self) -> usize {
        self.connections.taken()
    }

    pub fn totals(&self) -> Totals {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        Totals {
            opened: read(&self.opened),
            denied: read(&self.denied),
            failed: read(&self.failed),
            sent_bytes: read(&self.traffic.sent),
            received_bytes: read(&self.traffic.received),
        }
    }
}

impl Target {
    /// Returns what `policy` says about the target.
    pub fn verdict(&self, policy: &Policy) -> Verdict {
        match self {
            Self::Name(name, port) => policy.name(name, *port),
            Self::Address(address, port) => policy.address(*address, *port),
        }
    }
}

/// Whether `policy` allows a connection to `address` in the place of `target`.
fn judge(policy: &Policy, target: &Target, address: IpAddr) -> Result<(), Denied> {
    match target.verdict(policy) {
        Verdict::Allowed(allowed) => {
            match guard(policy, &allowed).check(address) {
                Err(reason) if Decision::of(reason) == Decision::Denied => Err(Denied::by(reason)),
                // Without sockets to look with, what was found when it was dialled holds.
                _ => Ok(()),
            }
        }
        Verdict::Denied(denied) => Err(denied),
    }
}

/// The guard of what an entry of `policy` allows.
pub(crate) fn guard<'a>(policy: &'a Policy, allowed: &Allowed) -> Guard<'a> {
    Guard { private: policy.private(), entry_private: allowed.private }
}

impl Drop for Listed {
    fn drop(&mut self) {
        self.sandbox.live.lock().by_number.remove(&self.number);
    }
}
