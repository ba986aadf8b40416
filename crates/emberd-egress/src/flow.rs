//! One stream of a session, from its request to its end.
//!
//! ```text
//! request ─▶ limits ─▶ policy ─▶ resolve ─▶ guard ─▶ dial ─▶ listed ─▶ splice ─▶ record
//!               └────────┴──────────┴─────────┴────────┴────────┴─▶ refused ─▶ record
//! ```

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use emberd_proto::EgressReason;
use emberd_proto::egress::{
    EGRESS_NAMES_MAX, EGRESS_TTL, EgressAnswer, EgressFamily, EgressRequest,
};
use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::dial::dial;
use crate::guard::is_metadata_name;
use crate::mux::MuxStream;
use crate::name::Name;
use crate::peer::Peer;
use crate::policy::Policy;
use crate::record::{Carried, Decision, Kind, Record};
use crate::resolve::LookupError;
use crate::splice::{Cut, Moved, splice};
use crate::state::{Listed, Sandbox, Target, guard};
use crate::verdict::{Allowed, Denied, Verdict};

/// Serves one stream that the guest opened.
pub(crate) async fn serve(sandbox: Arc<Sandbox>, stream: MuxStream) {
    let mut peer = Peer::new(stream);
    // A guest that sends no request, or something else, is reset.
    match peer.request().await {
        Some(EgressRequest::Open { address, port, names }) => {
            let address = address.to_canonical();
            Open::new(&sandbox, address, port, &names).run(&mut peer).await;
        }
        Some(EgressRequest::Resolve { name, family }) => {
            let answer = resolve(&sandbox, &name, family).await;
            peer.end_with(&answer).await;
        }
        Some(EgressRequest::Unknown) => {
            peer.end_with(&EgressAnswer::Refused { reason: EgressReason::Other }).await;
        }
        None => {}
    }
}

/// Answers a lookup.
async fn resolve(sandbox: &Arc<Sandbox>, text: &str, family: EgressFamily) -> EgressAnswer {
    let mut record = Record::new(Kind::Lookup, Decision::Allowed);
    (record.host, record.protocol) = (Some(text.to_owned()), Some(Carried::Dns));
    let found = look_up(sandbox, text, &mut record).await;
    let answer = match found {
        Ok(addresses) => {
            let has_v4 = addresses.iter().any(IpAddr::is_ipv4);
            // Programs try IPv6 first, which the host may lack; names with both are reached by
            // IPv4 from the guest and by either from the host.
            let wanted = |address: &IpAddr| match family {
                EgressFamily::V4 => address.is_ipv4(),
                EgressFamily::V6 => address.is_ipv6() && !has_v4,
            };
            let ttl_s = u32::try_from(EGRESS_TTL.end().as_secs()).unwrap_or(u32::MAX);
            EgressAnswer::Resolved {
                addresses: addresses.into_iter().filter(wanted).collect(),
                ttl_s,
            }
        }
        Err(denied) => {
            let reason = denied.reason;
            refuse(&mut record, denied);
            EgressAnswer::Refused { reason }
        }
    };
    sandbox.record(record);
    answer
}

async fn look_up(
    sandbox: &Arc<Sandbox>,
    text: &str,
    record: &mut Record,
) -> Result<Vec<IpAddr>, Denied> {
    let name = Name::parse(text).map_err(|_| Denied::by(EgressReason::NoRule))?;
    record.host = Some(name.to_string());
    let _place = sandbox.look_up().map_err(Denied::by)?;
    let policy = sandbox.policy();
    let allowed = accept(policy.lookup(&name), record)?;
    addresses(sandbox, &policy, &name, &allowed).await.map_err(Denied::by)
}

/// Notes the entry that decides, and returns what allows.
fn accept(verdict: Verdict, record: &mut Record) -> Result<Allowed, Denied> {
    match verdict {
        Verdict::Allowed(allowed) => {
            (record.entry, record.from) =
                (Some(Arc::clone(&allowed.entry)), Some(allowed.source.clone()));
            Ok(allowed)
        }
        Verdict::Denied(denied) => Err(denied),
    }
}

fn refuse(record: &mut Record, denied: Denied) {
    record.reason = Some(denied.reason);
    record.decision = Decision::of(denied.reason);
    if denied.entry.is_some() {
        (record.entry, record.from) = (denied.entry, denied.source);
    }
}

/// Returns the addresses of a name that may be dialled, at least one.
pub(crate) async fn addresses(
    sandbox: &Sandbox,
    policy: &Policy,
    name: &Name,
    allowed: &Allowed,
) -> Result<Vec<IpAddr>, EgressReason> {
    if is_metadata_name(name.as_str()) {
        return Err(EgressReason::PrivateAddress);
    }
    let found = sandbox.daemon.resolver.lookup(name).await.map_err(LookupError::reason)?;
    let guard = guard(policy, allowed);
    let mut refusal = EgressReason::NoSuchName;
    let permitted = found
        .iter()
        .filter_map(|address| guard.check(*address).inspect_err(|reason| refusal = *reason).ok());
    let permitted: Vec<_> = permitted.collect();
    if permitted.is_empty() { Err(refusal) } else { Ok(permitted) }
}

/// A connection that the guest asks for. Its record is written when it is dropped.
struct Open {
    sandbox: Arc<Sandbox>,
    address: IpAddr,
    port: u16,
    /// The names that the guest claims the address has.
    claims: Vec<Name>,
    record: Record,
    moved: Moved,
    begun: Instant,
}

impl Open {
    fn new(sandbox: &Arc<Sandbox>, address: IpAddr, port: u16, names: &[String]) -> Self {
        let names = names.iter().take(EGRESS_NAMES_MAX);
        let claims: Vec<_> = names.filter_map(|name| Name::parse(name).ok()).collect();
        let host = claims.first().map_or_else(|| address.to_string(), Name::to_string);
        let record = Record {
            host: Some(host),
            port: Some(port),
            address: Some(address),
            protocol: Some(Carried::Tcp),
            ..Record::new(Kind::Connection, Decision::Allowed)
        };
        let (sandbox, moved, begun) = (Arc::clone(sandbox), Moved::default(), Instant::now());
        Self { sandbox, address, port, claims, record, moved, begun }
    }

    async fn run(mut self, peer: &mut Peer) {
        if let Err(denied) = self.connect(peer).await {
            let reason = denied.reason;
            refuse(&mut self.record, denied);
            if !peer.answered {
                peer.end_with(&EgressAnswer::Refused { reason }).await;
            }
        }
    }

    async fn connect(&mut self, peer: &mut Peer) -> Result<(), Denied> {
        let policy = self.sandbox.policy();
        let _places = self.sandbox.enter(&policy).map_err(Denied::by)?;
        let (target, allowed) = self.choose(&policy)?;
        let (mut upstream, listed) = self.dial(&policy, target, &allowed).await?;
        let opened = peer.answer(&EgressAnswer::Opened).await;
        if opened.is_err() {
            return Ok(());
        }
        let head = std::mem::take(&mut peer.head);
        let traffic = &self.sandbox.traffic;
        let splicing =
            splice(&peer.stream, &mut upstream, traffic, &self.moved, |upward| upward.all(head));
        let ended = tokio::select! {
            ended = splicing => ended,
            () = listed.cut.cancelled() => Err(Cut::Refused(EgressReason::PolicyChanged)),
        };
        if ended.is_err() {
            // The destination, too, must not take a part for the whole.
            upstream.set_zero_linger().ok();
        }
        match ended {
            Ok(()) | Err(Cut::Guest | Cut::Destination | Cut::Idle) => Ok(()),
            Err(Cut::Spent) => Err(Denied::by(EgressReason::Budget)),
            Err(Cut::Refused(reason)) => Err(Denied::by(reason)),
        }
    }

    /// Finds what allows the connection: a claimed name, else the address.
    fn choose(&mut self, policy: &Policy) -> Result<(Target, Allowed), Denied> {
        let mut denial = None;
        for name in &self.claims {
            match policy.name(name, self.port) {
                Verdict::Allowed(allowed) => {
                    self.record.host = Some(name.to_string());
                    let allowed = accept(Verdict::Allowed(allowed), &mut self.record)?;
                    return Ok((Target::Name(name.clone(), self.port), allowed));
                }
                Verdict::Denied(denied) => drop(denial.get_or_insert(denied)),
            }
        }
        // What denies the name denies it by its address, too.
        if let Some(denied) = denial.take_if(|denied| denied.reason != EgressReason::NoRule) {
            return Err(denied);
        }
        let by_address = accept(policy.address(self.address, self.port), &mut self.record);
        match (by_address, denial) {
            (Ok(allowed), _) => Ok((Target::Address(self.address, self.port), allowed)),
            (Err(_), Some(denied)) | (Err(denied), None) => Err(denied),
        }
    }

    /// Connects to the target, and lists the connection.
    async fn dial(
        &mut self,
        policy: &Policy,
        target: Target,
        allowed: &Allowed,
    ) -> Result<(TcpStream, Listed), Denied> {
        let addresses = match &target {
            Target::Name(name, _) => addresses(&self.sandbox, policy, name, allowed).await,
            Target::Address(address, _) => guard(policy, allowed).check(*address).map(|a| vec![a]),
        };
        let addresses = addresses.map_err(Denied::by)?;
        self.record.address = addresses.first().copied();
        let connected = dial(&addresses, self.port).await;
        let (upstream, address) = connected.ok_or(Denied::by(EgressReason::ConnectFailed))?;
        self.record.address = Some(address);
        let listed = self.sandbox.list(target, address)?;
        Ok((upstream, listed))
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        let mut record = self.record.clone();
        record.sent_bytes = self.moved.sent.load(Ordering::Relaxed);
        record.received_bytes = self.moved.received.load(Ordering::Relaxed);
        record.duration = self.begun.elapsed();
        self.sandbox.record(record);
    }
}
