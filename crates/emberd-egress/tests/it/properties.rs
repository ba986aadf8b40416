//! Properties of the policy, against the reference matcher.

use emberd_egress::{Entry, EntrySpec, Name, Operator, PackProfiles, Policy, PolicySpec, Verdict};
use proptest::prelude::*;

use crate::reference;

/// Ports of entries and of questions: near each other, so that they often meet.
const PORTS: [u16; 8] = [1, 22, 79, 80, 81, 443, 444, 65_535];

fn label() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec!["a", "b", "evil-a", "xn--a"])
}

fn name() -> impl Strategy<Value = String> {
    prop::collection::vec(label(), 0..3)
        .prop_map(|labels| labels.into_iter().chain(["example"]).collect::<Vec<_>>().join("."))
}

fn address() -> impl Strategy<Value = String> {
    let v4 = (0..4u8, 0..4u8).prop_map(|(c, d)| format!("10.0.{c}.{d}"));
    let v6 = (0..4u16).prop_map(|last| format!("2001:db8::{last:x}"));
    prop_oneof![v4, v6]
}

fn net() -> impl Strategy<Value = String> {
    let v4 = (0..4u8, 22..=32u8).prop_map(|(c, length)| {
        let net: ipnet::Ipv4Net = format!("10.0.{c}.0/{length}").parse().unwrap();
        net.trunc().to_string()
    });
    let v6 = (0..4u16, 120..=128u8).prop_map(|(last, length)| {
        let net: ipnet::Ipv6Net = format!("2001:db8::{last:x}/{length}").parse().unwrap();
        net.trunc().to_string()
    });
    prop_oneof![address(), v4, v6, Just("0.0.0.0/0".to_owned()), Just("::/0".to_owned())]
}

fn port() -> impl Strategy<Value = u16> {
    prop::sample::select(PORTS.to_vec())
}

fn ports() -> impl Strategy<Value = String> {
    let range = (port(), port()).prop_map(|(a, b)| format!("{}-{}", a.min(b), a.max(b)));
    let part = prop_oneof![port().prop_map(|port| port.to_string()), range];
    let list = prop::collection::vec(part, 1..3).prop_map(|parts| parts.join(","));
    prop_oneof![4 => list, 1 => Just("*".to_owned())]
}

/// The text of an entry.
fn entry() -> impl Strategy<Value = String> {
    let host = prop_oneof![
        4 => name(),
        4 => name().prop_map(|name| format!("*.{name}")),
        1 => Just("*".to_owned()),
        3 => net(),
    ];
    (host, prop::option::of(ports())).prop_map(|(host, ports)| match ports {
        Some(ports) if host.contains(':') => format!("[{host}]:{ports}"),
        Some(ports) => format!("{host}:{ports}"),
        None => host,
    })
}

fn entries() -> impl Strategy<Value = Vec<String>> {
    prop::collection::vec(entry(), 0..6)
}

fn host() -> impl Strategy<Value = String> {
    prop_oneof![2 => name(), 1 => address()]
}

fn operator(ceiling: &[String], deny: &[String]) -> Operator {
    // Profiles keep words without a dot apart from entries.
    let text = format!("ceiling = [\"p\"]\ndeny = {deny:?}\n[profiles.p]\nallow = {ceiling:?}");
    Operator::parse(&text).unwrap()
}

fn spec(allow: &[String], deny: &[String]) -> PolicySpec {
    let specs = |texts: &[String]| texts.iter().map(|text| EntrySpec::from(&**text)).collect();
    PolicySpec { allow: specs(allow), deny: specs(deny), ..PolicySpec::default() }
}

/// Compiles a policy without a refusal of what is over the ceiling, as after a change of it.
fn policy(operator: &Operator, allow: &[String], deny: &[String]) -> Policy {
    let none = PackProfiles::new();
    let open = Policy::compile(&operator_of_all(), &none, &spec(allow, deny)).unwrap();
    open.recompiled(operator, &none)
}

fn operator_of_all() -> Operator {
    Operator::parse("ceiling = [\"*:*\"]").unwrap()
}

fn ask(policy: &Policy, host: &str, port: u16) -> Verdict {
    match Name::parse(host) {
        Ok(name) => policy.name(&name, port),
        Err(_) => policy.address(host.parse().unwrap(), port),
    }
}

fn allows(policy: &Policy, host: &str, port: u16) -> bool {
    matches!(ask(policy, host, port), Verdict::Allowed(_))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn a_decision_is_that_of_the_reference(
        allow in entries(), deny in entries(), ceiling in entries(), never in entries(),
        host in host(), port in port(),
    ) {
        let policy = policy(&operator(&ceiling, &never), &allow, &deny);
        let any = |entries: &[String], ports: &str| {
            entries.iter().any(|entry| reference::matches(entry, &host, port, ports))
        };
        let expected = any(&allow, "80,443") && any(&ceiling, "80,443")
            && !any(&deny, "*") && !any(&never, "*");
        let verdict = ask(&policy, &host, port);
        prop_assert_eq!(matches!(verdict, Verdict::Allowed(_)), expected, "{:?}", &verdict);
        // The entry that is named is one that matches.
        match verdict {
            Verdict::Allowed(allowed) => {
                prop_assert!(reference::matches(&allowed.entry, &host, port, "80,443"));
            }
            Verdict::Denied(denied) => if let Some(entry) = denied.entry {
                prop_assert!(reference::matches(&entry, &host, port, "*"));
            }
        }
    }

    #[test]
    fn a_lookup_is_allowed_where_a_port_is(
        allow in entries(), deny in entries(), ceiling in entries(), name in name(),
    ) {
        let policy = policy(&operator(&ceiling, &[]), &allow, &deny);
        let name = Name::parse(&name).unwrap();
        // Ranges begin and end at these ports only.
        let around = |port: &u16| [port.saturating_sub(1), *port, port.saturating_add(1)];
        let is_allowed = |port: &u16| matches!(policy.name(&name, *port), Verdict::Allowed(_));
        let some_port = PORTS.iter().flat_map(around).find(is_allowed);
        let looked_up = matches!(policy.lookup(&name), Verdict::Allowed(_));
        prop_assert_eq!(looked_up, some_port.is_some(), "{:?}", some_port);
    }

    #[test]
    fn one_more_denial_never_allows_more(
        allow in entries(), deny in entries(), one_more in entry(), host in host(), port in port(),
    ) {
        let less = policy(&operator_of_all(), &allow, &deny);
        let more = policy(&operator_of_all(), &allow, &[deny, vec![one_more]].concat());
        prop_assert!(allows(&less, &host, port) || !allows(&more, &host, port));
    }

    #[test]
    fn one_more_entry_never_allows_less(
        allow in entries(), deny in entries(), one_more in entry(), host in host(), port in port(),
    ) {
        let less = policy(&operator_of_all(), &allow, &deny);
        let more = policy(&operator_of_all(), &[allow, vec![one_more]].concat(), &deny);
        prop_assert!(allows(&more, &host, port) || !allows(&less, &host, port));
    }

    #[test]
    fn what_the_ceiling_refuses_is_not_within_it(
        allow in entries(), ceiling in entries(), never in entries(),
    ) {
        let operator = operator(&ceiling, &never);
        let compiled = Policy::compile(&operator, &PackProfiles::new(), &spec(&allow, &[]));
        let Ok(compiled) = compiled else { return Ok(()) };
        // Each entry that was accepted allows all that it says, but for the operator's denials.
        let samples = allow.iter().map(|text| Entry::parse(text).unwrap());
        for entry in samples {
            let host = entry.host().to_string().replace('*', "a");
            let host = host.split('/').next().unwrap();
            for (first, last) in entry.allowed_ports().ranges() {
                for port in [*first, *last] {
                    let over = match ask(&compiled, host, port) {
                        Verdict::Allowed(_) => false,
                        Verdict::Denied(denied) => denied.reason.name() != "operator_denied",
                    };
                    prop_assert!(!over, "{host}:{port} of {entry}");
                }
            }
        }
    }

    #[test]
    fn an_entry_is_printed_as_it_is_read(text in entry()) {
        let entry = Entry::parse(&text).unwrap();
        prop_assert_eq!(Entry::parse(&entry.to_string()), Ok(entry));
    }

    #[test]
    fn any_text_is_read_or_refused(text in "[-a-z0-9.:*/,\\[\\]_%A-Z ]{0,40}") {
        if let Ok(entry) = Entry::parse(&text) {
            prop_assert_eq!(Entry::parse(&entry.to_string()), Ok(entry));
        }
    }
}
