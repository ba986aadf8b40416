//! Lookups: what the guest's resolver asks, and the addresses that a name may be reached at.

use std::net::IpAddr;
use std::sync::Arc;

use emberd_proto::EgressReason;
use emberd_proto::egress::{EGRESS_TTL, EgressAnswer, EgressFamily};

use crate::guard::is_metadata_name;
use crate::name::Name;
use crate::policy::Policy;
use crate::record::{Carried, Decision, Kind, Record};
use crate::state::{Sandbox, guard};
use crate::verdict::{Allowed, Denied, Verdict};

/// Answers a lookup.
pub(crate) async fn resolve(
    sandbox: &Arc<Sandbox>,
    text: &str,
    family: EgressFamily,
) -> EgressAnswer {
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
    let policy = sandbox.policy();
    let verdict = policy.lookup(&name);
    let is_kept = matches!(verdict, Verdict::Allowed(_)) && sandbox.daemon.resolver.keeps(&name);
    let _place = sandbox.look_up(is_kept).map_err(Denied::by)?;
    let allowed = accept(verdict, record)?;
    let found = addresses(sandbox, &policy, &name, None, &allowed).await;
    found.map_err(|denied| match denied.reason {
        EgressReason::ConnectFailed => Denied::by(EgressReason::LookupFailed),
        _ => denied,
    })
}

/// Notes the entry that decides, and returns what allows.
pub(crate) fn accept(verdict: Verdict, record: &mut Record) -> Result<Allowed, Denied> {
    match verdict {
        Verdict::Allowed(allowed) => {
            (record.entry, record.from) =
                (Some(Arc::clone(&allowed.entry)), Some(allowed.source.clone()));
            Ok(allowed)
        }
        Verdict::Denied(denied) => Err(denied),
    }
}

/// Notes a refusal.
pub(crate) fn refuse(record: &mut Record, denied: Denied) {
    record.reason = Some(denied.reason);
    record.decision = Decision::of(denied.reason);
    if denied.entry.is_some() {
        (record.entry, record.from) = (denied.entry, denied.source);
    }
}

/// Returns the addresses of a name that may be dialled, at least one. With a port, those that an
/// entry denies are not among them.
pub(crate) async fn addresses(
    sandbox: &Sandbox,
    policy: &Policy,
    name: &Name,
    port: Option<u16>,
    allowed: &Allowed,
) -> Result<Vec<IpAddr>, Denied> {
    if is_metadata_name(name.as_str()) {
        return Err(Denied::by(EgressReason::PrivateAddress));
    }
    let found = sandbox.daemon.resolver.lookup(name, &sandbox.lookups_begun).await;
    let found = found.map_err(|error| Denied::by(error.reason()))?;
    let guard = guard(policy, allowed);
    let mut refusal = Denied::by(EgressReason::NoSuchName);
    let permitted = found.iter().filter_map(|address| {
        let checked = guard.check(*address).map_err(Denied::by);
        let denied = port.and_then(|port| policy.denied_address(*address, port));
        let checked = checked.and_then(|address| denied.map_or(Ok(address), Err));
        checked.map_err(|denied| refusal = denied).ok()
    });
    let permitted: Vec<_> = permitted.collect();
    if permitted.is_empty() { Err(refusal) } else { Ok(permitted) }
}
