//! Entries compiled for lookups: names in a tree by label, addresses in sorted blocks.
//!
//! ```text
//! tree    (root) ─ com ─ example ─ api     a name walks down from its last label; on its way
//!         └ `*`          └ `*.example.com`  it meets the wildcards, at its end its own entry
//! blocks  10.0.0.0/8 ◀─ 10.20.0.0/16        the innermost block, then those around it
//! ```

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

use ipnet::IpNet;

use crate::entry::{Entry, EntryOptions, Host};
use crate::name::Name;
use crate::ports::PortSet;
use crate::verdict::{Allowed, Source};

/// One entry of a set of rules.
#[derive(Debug, Clone)]
pub struct Rule {
    /// The entry.
    pub entry: Entry,
    /// The entry as text.
    pub text: Arc<str>,
    /// Where it comes from.
    pub source: Source,
    /// The ports that it is for.
    pub ports: PortSet,
}

impl Rule {
    /// An entry that allows.
    pub fn allowing(entry: Entry, source: Source) -> Self {
        let ports = entry.allowed_ports();
        Self { text: Arc::from(entry.to_string()), entry, source, ports }
    }

    /// An entry that denies.
    pub fn denying(entry: Entry, source: Source) -> Self {
        let ports = entry.denied_ports();
        Self { text: Arc::from(entry.to_string()), entry, source, ports }
    }

    /// Whether `rules` together hold each destination of this rule.
    pub fn is_within(&self, rules: &[Self]) -> bool {
        let around = rules.iter().filter(|rule| rule.entry.host().covers(self.entry.host()));
        self.ports.is_within(around.map(|rule| &rule.ports))
    }

    /// Whether one of `rules` holds a destination of this rule.
    pub fn overlaps(&self, rules: &[Self]) -> bool {
        let hosts = rules.iter().filter(|rule| rule.entry.host().overlaps(self.entry.host()));
        hosts.into_iter().any(|rule| rule.ports.overlaps(&self.ports))
    }
}

/// The subject of a lookup.
#[derive(Debug, Clone, Copy)]
pub enum Target<'a> {
    Name(&'a Name),
    Address(IpAddr),
}

/// Entries, compiled.
#[derive(Debug, Clone, Default)]
pub struct Rules {
    any: Spans,
    tree: Node,
    v4: Blocks,
    v6: Blocks,
}

#[derive(Debug, Clone, Default)]
struct Node {
    children: HashMap<Box<str>, Node>,
    /// Entries of the name itself.
    here: Spans,
    /// Entries of the names below it.
    below: Spans,
}

impl Rules {
    /// Compiles rules.
    pub fn new(rules: &[Rule]) -> Self {
        let mut compiled = Self::default();
        let mut by_host: BTreeMap<&Host, Vec<&Rule>> = BTreeMap::new();
        for rule in rules {
            by_host.entry(rule.entry.host()).or_default().push(rule);
        }
        for (host, rules) in by_host {
            let spans = Spans::new(&rules);
            match host {
                Host::Any => compiled.any = spans,
                Host::Name(name) => compiled.tree.at(name).here = spans,
                Host::Below(name) => compiled.tree.at(name).below = spans,
                Host::Net(IpNet::V4(net)) => {
                    let range = [net.network(), net.broadcast()].map(|a| u128::from(a.to_bits()));
                    compiled.v4.add(range, spans);
                }
                Host::Net(IpNet::V6(net)) => {
                    compiled.v6.add([net.network(), net.broadcast()].map(Ipv6Addr::to_bits), spans);
                }
            }
        }
        compiled.v4.sort();
        compiled.v6.sort();
        compiled
    }

    /// Calls `visit` with the spans of every entry whose host matches, the closest first.
    pub fn visit<'a>(&'a self, target: Target<'_>, mut visit: impl FnMut(&'a Spans)) {
        match target {
            Target::Name(name) => self.tree.visit(name.labels_from_the_end(), &mut visit),
            Target::Address(IpAddr::V4(address)) => {
                self.v4.visit(u128::from(address.to_bits()), &mut visit);
            }
            Target::Address(IpAddr::V6(address)) => self.v6.visit(address.to_bits(), &mut visit),
        }
        visit(&self.any);
    }

    /// Whether an entry matches the host, on any port.
    pub fn knows(&self, target: Target<'_>) -> bool {
        let mut knows = false;
        self.visit(target, |spans| knows |= !spans.0.is_empty());
        knows
    }

    /// The grant of the closest entry that matches.
    pub fn find(&self, target: Target<'_>, port: u16) -> Option<&Grant> {
        let mut found = None;
        self.visit(target, |spans| found = found.or_else(|| spans.find(port)));
        found
    }

    /// Everything that the entries that match allow together. Names the closest of them.
    pub fn allowed(&self, target: Target<'_>, port: u16) -> Option<Allowed> {
        let mut found: Option<(&Grant, EntryOptions)> = None;
        self.visit(target, |spans| match (&mut found, spans.find(port)) {
            (Some((_, options)), Some(grant)) => options.add(&grant.options),
            (none, Some(grant)) => *none = Some((grant, grant.options.clone())),
            (_, None) => {}
        });
        let (Grant { text, source, .. }, options) = found?;
        let EntryOptions { protocol, ech, private, requests } = options;
        let (entry, source) = (Arc::clone(text), source.clone());
        Some(Allowed { entry, source, protocol, ech, private, requests })
    }
}

impl Node {
    fn at(&mut self, name: &Name) -> &mut Self {
        name.labels_from_the_end()
            .fold(self, |node, label| node.children.entry(Box::from(label)).or_default())
    }

    fn visit<'a, 'n>(
        &'a self,
        mut labels: impl Iterator<Item = &'n str>,
        visit: &mut impl FnMut(&'a Spans),
    ) {
        let Some(label) = labels.next() else { return visit(&self.here) };
        if let Some(child) = self.children.get(label) {
            child.visit(labels, visit);
        }
        visit(&self.below);
    }
}

/// Grants by port: disjoint spans in ascending order.
#[derive(Debug, Clone, Default)]
pub struct Spans(Vec<Span>);

#[derive(Debug, Clone)]
struct Span {
    first: u16,
    last: u16,
    grant: Grant,
}

/// Grants of the entries of one host, added up, for a port.
#[derive(Debug, Clone)]
pub struct Grant {
    /// The first of the entries.
    pub text: Arc<str>,
    /// Where it comes from.
    pub source: Source,
    options: EntryOptions,
}

impl Spans {
    fn new(rules: &[&Rule]) -> Self {
        let ranges = || rules.iter().flat_map(|rule| rule.ports.ranges());
        let starts = ranges().map(|(first, _)| u32::from(*first));
        let ends = ranges().map(|(_, last)| u32::from(*last) + 1);
        let mut edges: Vec<u32> = starts.chain(ends).collect();
        edges.sort_unstable();
        edges.dedup();
        let spans = edges.windows(2).filter_map(|edge| {
            let (first, last) = (u16::try_from(edge[0]).ok()?, u16::try_from(edge[1] - 1).ok()?);
            let is_there = |rule: &&&Rule| {
                rule.ports.ranges().iter().any(|(from, to)| *from <= first && last <= *to)
            };
            let grant = Grant::of(rules.iter().filter(is_there).copied())?;
            Some(Span { first, last, grant })
        });
        Self(spans.collect())
    }

    fn find(&self, port: u16) -> Option<&Grant> {
        let at = self.0.partition_point(|span| span.last < port);
        self.0.get(at).filter(|span| span.first <= port).map(|span| &span.grant)
    }

    /// The first port of each span.
    pub fn starts(&self) -> impl Iterator<Item = u16> {
        self.0.iter().map(|span| span.first)
    }

    /// The port after each span.
    pub fn ends(&self) -> impl Iterator<Item = u16> {
        self.0.iter().filter_map(|span| span.last.checked_add(1))
    }
}

impl Grant {
    fn of<'a>(mut rules: impl Iterator<Item = &'a Rule>) -> Option<Self> {
        let first = rules.next()?;
        let mut options = options_of(first);
        rules.for_each(|rule| options.add(&options_of(rule)));
        Some(Self { text: Arc::clone(&first.text), source: first.source.clone(), options })
    }
}

/// A range of addresses says by itself that private ones are meant.
fn options_of(rule: &Rule) -> EntryOptions {
    let options = rule.entry.options().clone();
    let private = options.private || matches!(rule.entry.host(), Host::Net(_));
    EntryOptions { private, ..options }
}

/// Ranges of addresses of one family, sorted. Ranges with a common prefix nest or are disjoint.
#[derive(Debug, Clone, Default)]
struct Blocks(Vec<Block>);

#[derive(Debug, Clone)]
struct Block {
    first: u128,
    last: u128,
    /// Index of the smallest block around this one.
    around: Option<usize>,
    spans: Spans,
}

impl Blocks {
    fn add(&mut self, [first, last]: [u128; 2], spans: Spans) {
        self.0.push(Block { first, last, around: None, spans });
    }

    fn sort(&mut self) {
        self.0.sort_by_key(|block| (block.first, std::cmp::Reverse(block.last)));
        let mut open: Vec<usize> = Vec::new();
        for at in 0..self.0.len() {
            let last = self.0[at].last;
            while open.last().is_some_and(|around| self.0[*around].last < last) {
                open.pop();
            }
            self.0[at].around = open.last().copied();
            open.push(at);
        }
    }

    fn visit<'a>(&'a self, address: u128, visit: &mut impl FnMut(&'a Spans)) {
        let before = self.0.partition_point(|block| block.first <= address);
        let mut at = before.checked_sub(1);
        while let Some(block) = at.map(|at| &self.0[at]) {
            if address <= block.last {
                visit(&block.spans);
            }
            at = block.around;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(texts: &[&str]) -> Rules {
        let rule = |text: &&str| Rule::allowing(Entry::parse(text).unwrap(), Source::Sandbox);
        Rules::new(&texts.iter().map(rule).collect::<Vec<_>>())
    }

    fn found(rules: &Rules, host: &str, port: u16) -> Option<String> {
        let name = Name::parse(host);
        let target = match &name {
            Ok(name) => Target::Name(name),
            Err(_) => Target::Address(host.parse().unwrap()),
        };
        rules.find(target, port).map(|grant| grant.text.to_string())
    }

    #[test]
    fn the_closest_entry_is_named() {
        let rules = rules(&["*", "*.example", "*.a.example", "b.a.example", "*.a.example:1-100"]);
        for (host, port, entry) in [
            ("b.a.example", 443, "b.a.example"),
            ("b.a.example", 90, "*.a.example:1-100"),
            ("c.a.example", 443, "*.a.example"),
            ("d.c.a.example", 443, "*.a.example"),
            ("a.example", 443, "*.example"),
            ("example", 443, "*"),
            ("192.0.2.1", 443, "*"),
        ] {
            assert_eq!(found(&rules, host, port).as_deref(), Some(entry), "{host}:{port}");
        }
        assert_eq!(found(&rules, "example", 22), None);
        let name = Name::parse("b.a.example").unwrap();
        assert!(rules.knows(Target::Name(&name)));
    }

    #[test]
    fn blocks_of_addresses_nest() {
        let rules = rules(&[
            "10.0.0.0/8:1",
            "10.20.0.0/16:2",
            "10.20.30.0/24:3",
            "10.20.30.40:4",
            "10.20.31.0/24:5",
            "0.0.0.0/0:6",
            "[::/0]:7",
            "[2001:db8::/32]:8",
        ]);
        for (address, ports) in [
            ("10.20.30.40", &[1, 2, 3, 4, 6][..]),
            ("10.20.30.41", &[1, 2, 3, 6]),
            ("10.20.31.0", &[1, 2, 5, 6]),
            ("10.20.32.0", &[1, 2, 6]),
            ("10.21.0.0", &[1, 6]),
            ("9.255.255.255", &[6]),
            ("255.255.255.255", &[6]),
            ("2001:db8::1", &[7, 8]),
            ("2001:db9::1", &[7]),
        ] {
            let allowed = |port: &u16| found(&rules, address, *port).is_some();
            assert_eq!((1..=8).filter(allowed).collect::<Vec<u16>>(), ports, "{address}");
        }
    }
}
