//! The policy of one sandbox, compiled.
//!
//! ```text
//! operator's deny ─▶ sandbox's deny ─▶ allow and profiles ─▶ operator's ceiling ─▶ allowed
//!  operator_denied    denied_by_rule    no_rule,              and the sandbox's own
//!                                       port_not_allowed      over_ceiling
//! ```

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use emberd_proto::policy::{EgressLimits as Limits, EgressLogMode as LogMode};
use emberd_proto::{EgressReason, PolicySpec};
use ipnet::IpNet;

use crate::compile::{self, PolicyError};
use crate::name::Name;
use crate::operator::{Ceiling, Operator};
use crate::profile::PackProfiles;
use crate::rules::{Grant, Rule, Rules, Target};
use crate::verdict::{Allowed, Denied, Source, Verdict};

/// The policy of one sandbox in force: what it allows, within what the operator permits. It is
/// never changed; a sandbox gets another one.
///
/// The default allows nothing.
#[derive(Debug, Clone, Default)]
pub struct Policy {
    spec: PolicySpec,
    allow: Rules,
    deny: Rules,
    ceiling: Rules,
    /// The sandbox's own ceiling, beside the operator's; none if it has none.
    own: Option<(Ceiling, Rules)>,
    operator_deny: Arc<Rules>,
    private: Arc<[IpNet]>,
    in_force: Vec<InForce>,
}

/// An entry that allows something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InForce {
    /// The entry.
    pub entry: Arc<str>,
    /// Where it comes from.
    pub source: Source,
}

impl Policy {
    /// Compiles what a caller asks for. `packs` are the profiles of the sandbox's image.
    ///
    /// # Errors
    /// [`PolicyError`]: what is invalid, unknown, or more than the operator permits.
    pub fn compile(
        operator: &Operator,
        packs: &PackProfiles,
        spec: &PolicySpec,
    ) -> Result<Self, PolicyError> {
        Self::compile_within(operator, packs, spec, None)
    }

    /// As [`Self::compile`], for a sandbox with a ceiling of its own.
    ///
    /// # Errors
    /// As [`Self::compile`], and what is more than `own` permits.
    pub fn compile_within(
        operator: &Operator,
        packs: &PackProfiles,
        spec: &PolicySpec,
        own: Option<&Ceiling>,
    ) -> Result<Self, PolicyError> {
        let rules = compile::rules(operator, packs, spec)?.within(own, operator, packs);
        rules.check(operator, spec)?;
        Ok(Self::of(operator, spec.clone(), &rules, own))
    }

    /// Compiles the operator's default: the policy of a sandbox whose caller says nothing.
    /// Profiles that the image does not have allow nothing, and neither does what is over the
    /// sandbox's own ceiling.
    pub fn default_of(operator: &Operator, packs: &PackProfiles, own: Option<&Ceiling>) -> Self {
        let (spec, rules) = compile::default(operator, packs);
        Self::of(operator, spec, &rules.within(own, operator, packs), own)
    }

    /// A policy that is not compiled yet and allows nothing. [`Self::recompiled`] makes one of it
    /// that allows what `spec` asks for, within `own`.
    pub fn uncompiled(spec: PolicySpec, own: Option<Ceiling>) -> Self {
        let own = own.map(|own| (own, Rules::default()));
        Self { spec, own, ..Self::default() }
    }

    /// Compiles the policy again, after the operator's file has changed. Nothing is refused: what
    /// is beyond the new ceiling, or of a profile that is gone, is not allowed any more.
    #[must_use]
    pub fn recompiled(&self, operator: &Operator, packs: &PackProfiles) -> Self {
        let own = self.own_ceiling();
        let rules = compile::known_rules(operator, packs, &self.spec).within(own, operator, packs);
        Self::of(operator, self.spec.clone(), &rules, own)
    }

    fn of(
        operator: &Operator,
        spec: PolicySpec,
        rules: &compile::PolicyRules,
        own: Option<&Ceiling>,
    ) -> Self {
        let denied = [&rules.deny[..], &operator.deny[..]].concat();
        let own_rules = rules.own_ceiling.as_deref();
        let is_in_force = |rule: &&Rule| {
            rule.overlaps(&rules.ceiling)
                && own_rules.is_none_or(|own| rule.overlaps(own))
                && !rule.is_within(&denied)
        };
        let in_force = rules.allow.iter().filter(is_in_force);
        let in_force = in_force.map(|Rule { text, source, .. }| InForce {
            entry: Arc::clone(text),
            source: source.clone(),
        });
        Self {
            spec,
            in_force: in_force.collect(),
            allow: Rules::new(&rules.allow),
            deny: Rules::new(&rules.deny),
            ceiling: Rules::new(&rules.ceiling),
            own: own.cloned().zip(own_rules.map(Rules::new)),
            operator_deny: Arc::clone(&operator.denied),
            private: Arc::clone(&operator.private),
        }
    }

    /// Whether a name may be looked up: some port of it is allowed.
    pub fn lookup(&self, name: &Name) -> Verdict {
        let target = Target::Name(name);
        let mut allowed_at = None;
        // A set of ports that is not empty has its first port where a range of what is allowed
        // begins, or after one of what is denied.
        let mut ports = Vec::new();
        self.allow.visit(target, |spans| {
            ports.extend(spans.starts());
            allowed_at = allowed_at.or(spans.starts().next());
        });
        let Some(port) = allowed_at else { return self.decide(target, 0) };
        let first = self.decide(target, port);
        if matches!(first, Verdict::Allowed(_)) {
            return first;
        }
        let own = self.own.iter().map(|(_, rules)| rules);
        for ceiling in own.chain([&self.ceiling]) {
            ceiling.visit(target, |spans| ports.extend(spans.starts()));
        }
        self.deny.visit(target, |spans| ports.extend(spans.ends()));
        self.operator_deny.visit(target, |spans| ports.extend(spans.ends()));
        let mut verdicts = ports.into_iter().map(|port| self.decide(target, port));
        verdicts.find(|verdict| matches!(verdict, Verdict::Allowed(_))).unwrap_or(first)
    }

    /// Whether a port of a host may be reached by its name.
    pub fn name(&self, name: &Name, port: u16) -> Verdict {
        self.decide(Target::Name(name), port)
    }

    /// Whether a port of an address may be reached without a name, by an entry with an address
    /// range. The addresses of `*` are public ones.
    pub fn address(&self, address: IpAddr, port: u16) -> Verdict {
        match self.denied_address(address, port) {
            Some(denied) => Verdict::Denied(denied),
            None => self.decide(Target::Address(address), port),
        }
    }

    /// Whether an entry of a `deny` matches a name: for connections to an address that name a
    /// server all the same.
    pub fn denied_name(&self, name: &Name, port: u16) -> Option<Denied> {
        self.denied(Target::Name(name), port)
    }

    /// Whether an entry of a `deny` matches an address: for addresses that an allowed name was
    /// resolved to. An IPv4 address within an IPv6 address counts as itself, too.
    pub fn denied_address(&self, address: IpAddr, port: u16) -> Option<Denied> {
        let within = embedded(address).map(IpAddr::V4);
        let mut addresses = [Some(address), within].into_iter().flatten();
        addresses.find_map(|address| self.denied(Target::Address(address), port))
    }

    fn decide(&self, target: Target<'_>, port: u16) -> Verdict {
        match self.try_allow(target, port) {
            Ok(allowed) => Verdict::Allowed(allowed),
            Err(denied) => Verdict::Denied(denied),
        }
    }

    fn try_allow(&self, target: Target<'_>, port: u16) -> Result<Allowed, Denied> {
        if let Some(denied) = self.denied(target, port) {
            return Err(denied);
        }
        let Some(mut allowed) = self.allow.allowed(target, port) else {
            let is_known = self.allow.knows(target);
            let reason = if is_known { EgressReason::PortNotAllowed } else { EgressReason::NoRule };
            return Err(Denied::by(reason));
        };
        let own = self.own.iter().map(|(_, rules)| rules);
        for ceiling in own.chain([&self.ceiling]) {
            let Some(ceiling) = ceiling.allowed(target, port) else {
                let Allowed { entry, source, .. } = allowed;
                let (entry, source) = (Some(entry), Some(source));
                return Err(Denied { reason: EgressReason::OverCeiling, entry, source });
            };
            allowed.requests.stay_below(&ceiling.requests);
        }
        Ok(allowed)
    }

    fn denied(&self, target: Target<'_>, port: u16) -> Option<Denied> {
        let by = |reason, grant: &Grant| Denied {
            reason,
            entry: Some(Arc::clone(&grant.text)),
            source: Some(grant.source.clone()),
        };
        let operator = self.operator_deny.find(target, port);
        let operator = operator.map(|grant| by(EgressReason::OperatorDenied, grant));
        operator.or_else(|| {
            let grant = self.deny.find(target, port)?;
            Some(by(EgressReason::DeniedByRule, grant))
        })
    }

    /// Returns what the caller asked for.
    pub fn spec(&self) -> &PolicySpec {
        &self.spec
    }

    /// Returns the sandbox's own ceiling, if it has one.
    pub fn own_ceiling(&self) -> Option<&Ceiling> {
        self.own.as_ref().map(|(own, _)| own)
    }

    /// Returns the entries that allow something, with where they come from.
    pub fn in_force(&self) -> &[InForce] {
        &self.in_force
    }

    /// Returns the limits of the sandbox.
    pub fn limits(&self) -> &Limits {
        &self.spec.limits
    }

    /// Returns which connections are recorded.
    pub fn log(&self) -> LogMode {
        self.spec.log
    }

    /// Returns the ranges of private addresses that the operator permits.
    pub fn private(&self) -> &[IpNet] {
        &self.private
    }
}

/// The IPv4 address that an IPv6 address stands for: mapped (RFC 4291) or translated (RFC 6052).
fn embedded(address: IpAddr) -> Option<Ipv4Addr> {
    const TRANSLATED: Ipv6Addr = Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, 0, 0);
    let IpAddr::V6(address) = address else { return None };
    let translated = || {
        let low = u32::try_from(address.to_bits() ^ TRANSLATED.to_bits()).ok()?;
        Some(Ipv4Addr::from_bits(low))
    };
    address.to_ipv4_mapped().or_else(translated)
}
