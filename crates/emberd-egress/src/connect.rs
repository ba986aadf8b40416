//! One connection that a guest asks for, from its request to its record.
//!
//! ```text
//! limits ─▶ policy ─┬─ TLS, HTTP: read ─▶ the name it is for ─┬─▶ resolve, guard ─▶ dial ─▶ splice
//!                   └─ else ─▶ the latest claim ──────────────┘      (else: then read)
//! ```

use std::mem;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use emberd_proto::EgressReason;
use emberd_proto::egress::{EGRESS_NAMES_MAX, EgressAnswer};
use emberd_proto::policy::EgressProtocol as Protocol;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep};

use crate::dial::dial;
use crate::hello::{self, ClientHello, Hello, ServerName};
use crate::http::{Head, Host};
use crate::lookup::{accept, addresses, refuse};
use crate::name::Name;
use crate::peer::Peer;
use crate::policy::Policy;
use crate::record::{Carried, Decision, Kind, Record, hint_for};
use crate::sniff;
use crate::splice::{Cut, IDLE_MAX, Moved, splice};
use crate::state::{Listed, Places, Sandbox, Target, guard};
use crate::verdict::{Allowed, Denied, Verdict};

/// Port on which TLS is demanded of connections to names.
const TLS_PORT: u16 = 443;

/// Port on which HTTP/1 is demanded of connections to names.
const HTTP_PORT: u16 = 80;

/// See the module. Its record is written when it is dropped.
pub(crate) struct Connect {
    sandbox: Arc<Sandbox>,
    address: IpAddr,
    port: u16,
    /// The names that the guest claims the address has, the latest first.
    claims: Vec<Name>,
    record: Record,
    moved: Moved,
    begun: Instant,
    /// Held until the end, also while a refusal is explained.
    places: Option<Places>,
    is_dialled: bool,
    /// Whether the record is written, or is not needed: the guest left before anything was dialled.
    is_recorded: bool,
}

/// A destination that the policy allows.
#[derive(Clone)]
struct Candidate {
    target: Target,
    allowed: Allowed,
}

/// Why a connection was not made.
enum Stop {
    Denied(Denied),
    /// The guest left.
    Left,
}

impl From<Denied> for Stop {
    fn from(denied: Denied) -> Self {
        Self::Denied(denied)
    }
}

impl From<EgressReason> for Stop {
    fn from(reason: EgressReason) -> Self {
        Self::Denied(Denied::by(reason))
    }
}

impl Connect {
    pub fn new(sandbox: &Arc<Sandbox>, address: IpAddr, port: u16, names: &[String]) -> Self {
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
        Self {
            sandbox,
            address,
            port,
            claims,
            record,
            moved,
            begun,
            places: None,
            is_dialled: false,
            is_recorded: false,
        }
    }

    /// Serves the connection until it ends.
    pub async fn run(mut self, peer: &mut Peer) {
        match self.connect(peer).await {
            Ok(()) => {}
            Err(Stop::Left) => self.is_recorded = !self.is_dialled,
            Err(Stop::Denied(denied)) => {
                let reason = denied.reason;
                refuse(&mut self.record, denied);
                // First: who is told of the refusal finds it in the log.
                self.record();
                let is_within_limits = self.places.is_some();
                // Nothing is left to be said over what is not HTTP.
                let explains = is_within_limits
                    && self.port == HTTP_PORT
                    && self.moved.is_nothing()
                    && reason != EgressReason::NotHttp;
                if explains && self.record.decision == Decision::Denied {
                    self.explain(peer, reason).await;
                } else if !peer.answered {
                    peer.end_with(&EgressAnswer::Refused { reason }).await;
                }
            }
        }
    }

    async fn connect(&mut self, peer: &mut Peer) -> Result<(), Stop> {
        let policy = self.sandbox.policy();
        self.places = Some(self.sandbox.enter(&policy)?);
        let mut candidates = self.choose(&policy)?;
        let is_named = matches!(candidates[0].target, Target::Name(..));
        let is_checked = is_named && candidates[0].allowed.protocol == Protocol::Auto;
        let (at, head) = match self.port {
            TLS_PORT if is_checked => {
                self.open(peer).await?;
                let hello = sniff::client_hello(peer).await.ok_or(Stop::Left)??;
                (self.server(&hello, &candidates)?, None)
            }
            HTTP_PORT if is_checked => {
                self.open(peer).await?;
                let head = sniff::head(peer).await.ok_or(Stop::Left)??;
                (self.host(&head, &candidates)?, Some(head))
            }
            _ => (0, None),
        };
        let mut chosen = candidates.swap_remove(at);
        candidates.insert(0, chosen.clone());
        let (mut upstream, mut listed) = self.dial(&chosen).await?;
        if !peer.answered {
            self.open(peer).await?;
            if chosen.allowed.protocol == Protocol::Auto {
                let looked = tokio::select! {
                    looked = self.look(peer, &upstream, &policy, &candidates) => looked?,
                    () = listed.cut.cancelled() => return Err(EgressReason::PolicyChanged.into()),
                };
                if let Some(other) = looked {
                    chosen = candidates.swap_remove(other);
                    drop((upstream, listed));
                    (upstream, listed) = self.dial(&chosen).await?;
                }
            }
        }
        self.carry(peer, upstream, &listed, &chosen.target, head).await
    }

    /// Tells the guest that the connection is open.
    async fn open(&self, peer: &mut Peer) -> Result<(), Stop> {
        peer.answer(&EgressAnswer::Opened).await.map_err(|_| Stop::Left)
    }

    /// Moves bytes until the connection ends.
    async fn carry(
        &self,
        peer: &mut Peer,
        mut upstream: TcpStream,
        listed: &Listed,
        target: &Target,
        head: Option<Head>,
    ) -> Result<(), Stop> {
        let bytes = std::mem::take(&mut peer.head);
        let (stream, traffic, moved) = (&peer.stream, &self.sandbox.traffic, &self.moved);
        let splicing = async {
            match head {
                None => splice(stream, &mut upstream, traffic, moved, |up| up.all(bytes)).await,
                Some(head) => {
                    let permit = |head: &Head| self.permit(head, target);
                    let upward = |up| sniff::requests(up, bytes, head, permit);
                    splice(stream, &mut upstream, traffic, moved, upward).await
                }
            }
        };
        let ended = tokio::select! {
            ended = splicing => ended,
            () = listed.cut.cancelled() => Err(Cut::Refused(EgressReason::PolicyChanged)),
        };
        if ended.is_ok() {
            end_in_order(&upstream);
        }
        match ended {
            Ok(()) | Err(Cut::Guest | Cut::Destination | Cut::Idle) => Ok(()),
            Err(Cut::Spent) => Err(EgressReason::Budget.into()),
            Err(Cut::Refused(reason)) => Err(reason.into()),
        }
    }

    /// Finds what allows the connection: claimed names, else the address.
    fn choose(&mut self, policy: &Policy) -> Result<Vec<Candidate>, Denied> {
        let mut candidates = Vec::new();
        let mut denial: Option<Denied> = None;
        for name in &self.claims {
            match policy.name(name, self.port) {
                Verdict::Allowed(allowed) => {
                    let target = Target::Name(name.clone(), self.port);
                    candidates.push(Candidate { target, allowed });
                }
                Verdict::Denied(denied) => drop(denial.get_or_insert(denied)),
            }
        }
        if let Some(first) = candidates.first() {
            self.note(first);
            return Ok(candidates);
        }
        // What denies the name denies it by its address, too.
        if let Some(denied) = denial.take_if(|denied| denied.reason != EgressReason::NoRule) {
            return Err(denied);
        }
        let by_address = accept(policy.address(self.address, self.port), &mut self.record);
        match (by_address, denial) {
            (Ok(allowed), _) => {
                let target = Target::Address(self.address, self.port);
                Ok(vec![Candidate { target, allowed }])
            }
            (Err(_), Some(denied)) | (Err(denied), None) => Err(denied),
        }
    }

    /// Notes what the connection goes to.
    fn note(&mut self, candidate: &Candidate) {
        if let Target::Name(name, _) = &candidate.target {
            self.record.host = Some(name.to_string());
        }
        let Allowed { entry, source, .. } = &candidate.allowed;
        (self.record.entry, self.record.from) = (Some(Arc::clone(entry)), Some(source.clone()));
    }

    /// Finds the candidate that a TLS connection is for.
    fn server(&mut self, hello: &ClientHello, candidates: &[Candidate]) -> Result<usize, Denied> {
        self.record.protocol = Some(Carried::Tls);
        let name = match &hello.server {
            ServerName::Missing => return Err(Denied::by(EgressReason::SniMissing)),
            ServerName::Invalid(text) => {
                self.record.sni = Some(text.clone());
                return Err(Denied::by(EgressReason::SniMismatch));
            }
            ServerName::Name(name) => name,
        };
        self.record.sni = Some(name.to_string());
        let at = position(candidates, name).ok_or(Denied::by(EgressReason::SniMismatch))?;
        self.note(&candidates[at]);
        if hello.is_encrypted && !candidates[at].allowed.ech {
            return Err(Denied::by(EgressReason::Ech));
        }
        Ok(at)
    }

    /// Finds the candidate that a request is for.
    fn host(&mut self, head: &Head, candidates: &[Candidate]) -> Result<usize, Denied> {
        self.record.protocol = Some(Carried::Http);
        (self.record.method, self.record.path) =
            (Some(head.method.clone()), Some(head.path.clone()));
        let mismatch = Denied::by(EgressReason::HostMismatch);
        let Host::Name(name) = &head.host else { return Err(mismatch) };
        let at = position(candidates, name).ok_or(mismatch)?;
        self.note(&candidates[at]);
        let Candidate { target, allowed } = &candidates[at];
        check(head, target, allowed).map_err(Denied::by)?;
        Ok(at)
    }

    /// As [`check`], by the policy that is in force now, and records the request.
    fn permit(&self, head: &Head, target: &Target) -> Result<(), EgressReason> {
        let permitted = match target.verdict(&self.sandbox.policy()) {
            Verdict::Allowed(allowed) => check(head, target, &allowed),
            Verdict::Denied(denied) => Err(denied.reason),
        };
        let decision = if permitted.is_ok() { Decision::Allowed } else { Decision::Denied };
        let mut record = Record::new(Kind::Request, decision);
        record.reason = permitted.err();
        record.host = match &head.host {
            Host::Name(name) => Some(name.to_string()),
            Host::Address(address) => Some(address.to_string()),
        };
        (record.port, record.protocol) = (Some(self.port), Some(Carried::Http));
        (record.method, record.path) = (Some(head.method.clone()), Some(head.path.clone()));
        self.sandbox.log.add(record, self.sandbox.policy().log());
        permitted
    }

    /// Looks at what comes first over a connection that either side may begin. Returns the
    /// candidate that it is for, if that is not the first.
    async fn look(
        &mut self,
        peer: &mut Peer,
        upstream: &TcpStream,
        policy: &Policy,
        candidates: &[Candidate],
    ) -> Result<Option<usize>, Stop> {
        if peer.head.is_empty() {
            tokio::select! {
                more = peer.more() => drop(more.map_err(|_| Stop::Left)?),
                // The server speaks first, so this is not TLS.
                _ = upstream.readable() => return Ok(None),
                () = sleep(IDLE_MAX) => return Err(Stop::Left),
            }
        }
        if peer.head.first() != Some(&hello::HANDSHAKE) || hello::read(&peer.head) == Hello::Other {
            return Ok(None);
        }
        let hello = match sniff::client_hello(peer).await.ok_or(Stop::Left)? {
            Ok(hello) => hello,
            // Something else that begins with the same bytes.
            Err(EgressReason::NotTls) => return Ok(None),
            Err(reason) => return Err(reason.into()),
        };
        if let Target::Address(..) = candidates[0].target {
            // Nothing is demanded, but what is denied by name is denied here, too.
            self.record.protocol = Some(Carried::Tls);
            if let ServerName::Name(name) = &hello.server {
                self.record.sni = Some(name.to_string());
                if let Some(denied) = policy.denied_name(name, self.port) {
                    return Err(denied.into());
                }
            }
            return Ok(None);
        }
        let at = self.server(&hello, candidates)?;
        Ok((at > 0).then_some(at))
    }

    /// Connects to a candidate, if the policy, which may have changed while the guest took its
    /// time, still allows it, and lists the connection.
    async fn dial(&mut self, chosen: &Candidate) -> Result<(TcpStream, Listed), Denied> {
        let policy = self.sandbox.policy();
        let allowed = accept(chosen.target.verdict(&policy), &mut self.record)?;
        let addresses = match &chosen.target {
            Target::Name(name, port) => {
                let port = Some(*port);
                addresses(&self.sandbox, &policy, name, port, &allowed).await?
            }
            Target::Address(address, _) => {
                let checked = guard(&policy, &allowed).check(*address);
                vec![checked.map_err(Denied::by)?]
            }
        };
        self.record.address = addresses.first().copied();
        let connected = dial(&*self.sandbox.daemon.network, &addresses, self.port).await;
        let (upstream, address) = connected.ok_or(Denied::by(EgressReason::ConnectFailed))?;
        (self.record.address, self.is_dialled) = (Some(address), true);
        let listed = self.sandbox.list(chosen.target.clone(), address)?;
        Ok((upstream, listed))
    }

    /// Writes the record, unless that is done.
    fn record(&mut self) {
        if mem::replace(&mut self.is_recorded, true) {
            return;
        }
        let mut record = self.record.clone();
        record.sent_bytes = self.moved.sent.load(Ordering::Relaxed);
        record.received_bytes = self.moved.received.load(Ordering::Relaxed);
        record.duration = self.begun.elapsed();
        self.sandbox.record(record);
    }

    /// Answers a request that is refused with the reason, in words.
    async fn explain(&self, peer: &mut Peer, reason: EgressReason) {
        if !peer.answered && self.open(peer).await.is_err() {
            return;
        }
        // Programs read an answer only after they have sent a request.
        if matches!(sniff::head(peer).await, None | Some(Err(EgressReason::NotHttp))) {
            return;
        }
        let host = self.record.host.as_deref().unwrap_or_default();
        let mut text = format!(
            "{host} port {} is refused by the sandbox's egress policy: {reason}\n",
            self.port
        );
        if let Some(hint) = hint_for(host, self.port, reason) {
            text.push_str(&hint);
            text.push('\n');
        }
        let answer = format!(
            "HTTP/1.1 403 Forbidden\r\ncontent-type: text/plain\r\ncontent-length: {}\r\n\
             connection: close\r\nx-emberd-egress: {reason}\r\n\r\n{text}",
            text.len()
        );
        peer.end_saying(answer.as_bytes()).await;
    }
}

/// Lets a connection whose directions have both ended deliver what the destination has not taken:
/// by default, dropping it would be a reset.
#[expect(deprecated, reason = "only a time to linger blocks, and there is none")]
fn end_in_order(upstream: &TcpStream) {
    upstream.set_linger(None).ok();
}

/// Whether a request may be made over a connection to `target`.
fn check(head: &Head, target: &Target, allowed: &Allowed) -> Result<(), EgressReason> {
    let Target::Name(name, port) = target else { return Ok(()) };
    let is_here = head.host == Host::Name(name.clone()) && head.port.is_none_or(|p| p == *port);
    if !is_here {
        return Err(EgressReason::HostMismatch);
    }
    allowed.requests.permit(&head.method, &head.path)
}

fn position(candidates: &[Candidate], wanted: &Name) -> Option<usize> {
    candidates.iter().position(|candidate| match &candidate.target {
        Target::Name(name, _) => name == wanted && candidate.allowed.protocol == Protocol::Auto,
        Target::Address(..) => false,
    })
}

impl Drop for Connect {
    fn drop(&mut self) {
        self.record();
    }
}
