//! From what a caller asks for to the rules of a policy.

use emberd_proto::PolicySpec;
use emberd_proto::policy::{
    EGRESS_CONNECTIONS_MAX, EGRESS_ENTRIES_MAX, EGRESS_OPENS_PER_S_MAX, EGRESS_PROFILES_MAX,
    EntrySpec,
};

use crate::entry::{Entry, EntryError, Host};
use crate::operator::{Ceiling, Operator, Permit};
use crate::profile::{self, PackProfiles};
use crate::rules::Rule;
use crate::verdict::Source;

/// Most entries of a policy with those of its profiles.
const RULES_MAX: usize = 4096;

/// Most ranges of ports in all entries of `allow` and `deny`. Entries of one host are compiled
/// range by range, so that their number bounds the time that a policy takes.
const PORT_RANGES_MAX: usize = 2048;

/// Why a policy cannot be compiled. `pointer` is where in the policy (RFC 6901).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    /// A list is too long.
    #[error("{pointer}: at most {most} {what}")]
    TooMany {
        /// Where.
        pointer: String,
        /// The elements of the list.
        what: &'static str,
        /// The limit.
        most: usize,
    },
    /// An entry is invalid.
    #[error("{pointer}: `{entry}`")]
    Entry {
        /// Where.
        pointer: String,
        /// The entry.
        entry: String,
        /// Why.
        #[source]
        error: EntryError,
    },
    /// A number is out of range.
    #[error("{pointer}: {value} is not {least} to {most}")]
    Limit {
        /// Where.
        pointer: String,
        /// The number.
        value: u32,
        /// The least.
        least: u32,
        /// The most.
        most: u32,
    },
    /// An entry is the name of a profile.
    #[error("{pointer}: `{name}` is a profile, which `profiles` takes; a host is `{name}:443`")]
    IsProfile {
        /// Where.
        pointer: String,
        /// The name.
        name: String,
    },
    /// Neither emberd, nor the operator, nor the image has the profile.
    #[error("{pointer}: unknown profile `{name}`")]
    UnknownProfile {
        /// Where.
        pointer: String,
        /// The name.
        name: String,
    },
    /// The operator does not permit an entry or a profile.
    #[error("{pointer}: the operator does not permit `{entry}`")]
    Forbidden {
        /// Where.
        pointer: String,
        /// The entry, or the name of the profile.
        entry: String,
    },
    /// The sandbox may not have an entry or a profile, whatever the operator permits to others.
    #[error(transparent)]
    OverCeiling(#[from] OverCeiling),
}

/// Something is over the sandbox's own ceiling.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{pointer}: the key of the sandbox does not permit `{entry}`")]
pub struct OverCeiling {
    /// Where.
    pub pointer: String,
    /// The entry, or the name of the profile.
    pub entry: String,
}

impl PolicyError {
    /// The error of a policy that is part of something else: `at` comes before the pointer.
    #[must_use]
    pub fn within(mut self, at: &str) -> Self {
        match &mut self {
            Self::TooMany { pointer, .. }
            | Self::Entry { pointer, .. }
            | Self::Limit { pointer, .. }
            | Self::IsProfile { pointer, .. }
            | Self::UnknownProfile { pointer, .. }
            | Self::OverCeiling(OverCeiling { pointer, .. })
            | Self::Forbidden { pointer, .. } => pointer.insert_str(0, at),
        }
        self
    }
}

/// The rules of a policy, before they are compiled.
#[derive(Debug, Default)]
pub struct PolicyRules {
    /// The rules of `allow`, then those of profiles.
    pub allow: Vec<Rule>,
    pub deny: Vec<Rule>,
    pub ceiling: Vec<Rule>,
    /// The sandbox's own ceiling, if it has one.
    pub own_ceiling: Option<Vec<Rule>>,
}

/// Reads a policy.
pub fn rules(
    operator: &Operator,
    packs: &PackProfiles,
    spec: &PolicySpec,
) -> Result<PolicyRules, PolicyError> {
    check_counts(spec)?;
    check_limits(spec)?;
    let mut allow = Vec::new();
    for (at, spec) in spec.allow.iter().enumerate() {
        let pointer = || format!("/allow/{at}");
        let entry = entry(spec, pointer)?;
        if let (Host::Name(name), None) = (entry.host(), entry.ports())
            && entries_of(operator, packs, name.as_str()).is_some()
        {
            return Err(PolicyError::IsProfile { pointer: pointer(), name: name.to_string() });
        }
        allow.push(Rule::allowing(entry, Source::Sandbox));
    }
    for (at, name) in spec.profiles.iter().enumerate() {
        let unknown = || PolicyError::UnknownProfile {
            pointer: format!("/profiles/{at}"),
            name: name.clone(),
        };
        allow.extend(of_profile(name, operator, packs).ok_or_else(unknown)?);
    }
    if allow.len() > RULES_MAX {
        let (pointer, what) = ("/profiles".to_owned(), "entries of profiles");
        return Err(PolicyError::TooMany { pointer, what, most: RULES_MAX });
    }
    let deny = spec.deny.iter().enumerate().map(|(at, spec)| deny(spec, || format!("/deny/{at}")));
    let deny = deny.collect::<Result<Vec<_>, _>>()?;
    let own = allow.iter().filter(|rule| rule.source == Source::Sandbox).chain(&deny);
    if own.map(|rule| rule.ports.ranges().len()).sum::<usize>() > PORT_RANGES_MAX {
        let (pointer, what) = (longer(spec), "ranges of ports in all entries");
        return Err(PolicyError::TooMany { pointer, what, most: PORT_RANGES_MAX });
    }
    let ceiling = permitted(&operator.ceiling, operator, packs);
    Ok(PolicyRules { allow, deny, ceiling, own_ceiling: None })
}

/// Reads a policy that was accepted before: what is not known any more is left out.
pub fn known_rules(operator: &Operator, packs: &PackProfiles, spec: &PolicySpec) -> PolicyRules {
    let entries = |list: &[EntrySpec]| -> Vec<Entry> {
        list.iter().filter_map(|spec| Entry::new(spec).ok()).collect()
    };
    let own = entries(&spec.allow).into_iter().map(|entry| Rule::allowing(entry, Source::Sandbox));
    let profiles = spec.profiles.iter().filter_map(|name| of_profile(name, operator, packs));
    let deny = entries(&spec.deny).into_iter().map(|entry| Rule::denying(entry, Source::Sandbox));
    PolicyRules {
        allow: own.chain(profiles.flatten()).take(RULES_MAX).collect(),
        deny: deny.collect(),
        ceiling: permitted(&operator.ceiling, operator, packs),
        own_ceiling: None,
    }
}

/// The operator's default.
pub fn default(operator: &Operator, packs: &PackProfiles) -> (PolicySpec, PolicyRules) {
    let mut spec = PolicySpec::default();
    for permit in &operator.default {
        match permit {
            Permit::Profile(name) => spec.profiles.push(name.clone()),
            Permit::Entry(entry) => spec.allow.push(EntrySpec::Text(entry.to_string())),
        }
    }
    let allow = permitted(&operator.default, operator, packs);
    let ceiling = permitted(&operator.ceiling, operator, packs);
    (spec, PolicyRules { allow, deny: Vec::new(), ceiling, own_ceiling: None })
}

impl PolicyRules {
    /// Adds the sandbox's own ceiling.
    #[must_use]
    pub fn within(self, own: Option<&Ceiling>, operator: &Operator, packs: &PackProfiles) -> Self {
        let own_ceiling = own.map(|own| permitted(&own.0, operator, packs));
        Self { own_ceiling, ..self }
    }

    /// Checks that the operator and the sandbox's own ceiling permit what the caller asks for: each
    /// entry of `allow` as a whole, and something of each profile.
    pub fn check(&self, operator: &Operator, spec: &PolicySpec) -> Result<(), PolicyError> {
        if let Some((pointer, entry)) = self.first_over(&self.ceiling, &operator.deny, spec) {
            return Err(PolicyError::Forbidden { pointer, entry });
        }
        let own = self.own_ceiling.as_deref();
        match own.and_then(|own| self.first_over(own, &[], spec)) {
            Some((pointer, entry)) => Err(OverCeiling { pointer, entry }.into()),
            None => Ok(()),
        }
    }

    /// The first entry or profile that is over `ceiling`, or denied, and where it is.
    fn first_over(
        &self,
        ceiling: &[Rule],
        deny: &[Rule],
        spec: &PolicySpec,
    ) -> Option<(String, String)> {
        let is_permitted = |rule: &Rule| rule.is_within(ceiling) && !rule.is_within(deny);
        let own = self.allow.iter().filter(|rule| rule.source == Source::Sandbox);
        if let Some((at, rule)) = own.enumerate().find(|(_, rule)| !is_permitted(rule)) {
            return Some((format!("/allow/{at}"), rule.text.to_string()));
        }
        let gives = |rule: &Rule| rule.overlaps(ceiling) && !rule.is_within(deny);
        let is_forbidden = |name: &String| {
            let source = Source::Profile(name.as_str().into());
            let mut rules = self.allow.iter().filter(|rule| rule.source == source).peekable();
            rules.peek().is_some() && !rules.any(gives)
        };
        let (at, name) = spec.profiles.iter().enumerate().find(|(_, name)| is_forbidden(name))?;
        Some((format!("/profiles/{at}"), name.clone()))
    }
}

fn check_counts(spec: &PolicySpec) -> Result<(), PolicyError> {
    if spec.profiles.len() > EGRESS_PROFILES_MAX {
        let (pointer, most) = ("/profiles".to_owned(), EGRESS_PROFILES_MAX);
        return Err(PolicyError::TooMany { pointer, what: "profiles", most });
    }
    if spec.allow.len() + spec.deny.len() > EGRESS_ENTRIES_MAX {
        let what = "entries in `allow` and `deny` together";
        let (pointer, most) = (longer(spec), EGRESS_ENTRIES_MAX);
        return Err(PolicyError::TooMany { pointer, what, most });
    }
    Ok(())
}

/// Pointer to the longer list of entries.
fn longer(spec: &PolicySpec) -> String {
    let longer = if spec.allow.len() >= spec.deny.len() { "/allow" } else { "/deny" };
    longer.to_owned()
}

fn check_limits(spec: &PolicySpec) -> Result<(), PolicyError> {
    let limits = &spec.limits;
    for (name, value, most) in [
        ("connections", limits.connections, EGRESS_CONNECTIONS_MAX),
        ("opens_per_s", limits.opens_per_s, EGRESS_OPENS_PER_S_MAX),
    ] {
        if !(1..=most).contains(&value) {
            let pointer = format!("/limits/{name}");
            return Err(PolicyError::Limit { pointer, value, least: 1, most });
        }
    }
    Ok(())
}

fn entry(spec: &EntrySpec, pointer: impl Fn() -> String) -> Result<Entry, PolicyError> {
    let failed = |error| PolicyError::Entry { pointer: pointer(), entry: spec.text(), error };
    Entry::new(spec).map_err(failed)
}

fn deny(spec: &EntrySpec, pointer: impl Fn() -> String) -> Result<Rule, PolicyError> {
    let read = entry(spec, &pointer)?;
    if read.is_plain() {
        return Ok(Rule::denying(read, Source::Sandbox));
    }
    let error = EntryError::Option("`deny` has hosts and ports only");
    Err(PolicyError::Entry { pointer: pointer(), entry: spec.text(), error })
}

/// The rules of profiles and entries of the operator; unknown profiles have none.
fn permitted(permits: &[Permit], operator: &Operator, packs: &PackProfiles) -> Vec<Rule> {
    let rules = |permit: &Permit| match permit {
        Permit::Profile(name) => of_profile(name, operator, packs).unwrap_or_default(),
        Permit::Entry(entry) => vec![Rule::allowing(entry.clone(), Source::Operator)],
    };
    permits.iter().flat_map(rules).take(RULES_MAX).collect()
}

/// The rules of a profile; nothing if it is unknown.
fn of_profile(name: &str, operator: &Operator, packs: &PackProfiles) -> Option<Vec<Rule>> {
    let source = Source::Profile(name.into());
    let rule = |entry: Entry| Rule::allowing(entry, source.clone());
    Some(entries_of(operator, packs, name)?.into_iter().map(rule).collect())
}

/// The entries of a profile. An image cannot change what the operator's profiles and the
/// built-in ones mean. Its own are checked when it is built; an invalid entry allows nothing.
fn entries_of(operator: &Operator, packs: &PackProfiles, name: &str) -> Option<Vec<Entry>> {
    let operators = operator.profiles.get(name).cloned();
    let built_in = || profile::built_in(name).map(<[Entry]>::to_vec);
    let packs = || {
        let texts = packs.get(name)?;
        Some(texts.iter().filter_map(|text| Entry::parse(text).ok()).collect())
    };
    operators.or_else(built_in).or_else(packs)
}
