//! What a policy says, and what it refuses to be.

use emberd_egress::{
    Ceiling, EntrySpec, Name, Operator, PackProfiles, Policy, PolicyError, PolicySpec, Protocol,
    Source, Verdict,
};
use serde_json::json;

fn packs() -> PackProfiles {
    let entries = ["index.example", "files.example"].map(str::to_owned).to_vec();
    PackProfiles::from([
        ("pip".to_owned(), entries),
        ("github".to_owned(), vec!["*:*".to_owned()]),
        ("torn".to_owned(), vec!["not a host".to_owned()]),
    ])
}

fn spec(json: serde_json::Value) -> PolicySpec {
    serde_json::from_value(json).unwrap()
}

fn compile(operator: &str, json: serde_json::Value) -> Result<Policy, PolicyError> {
    Policy::compile(&Operator::parse(operator).unwrap(), &packs(), &spec(json))
}

/// The decision in words: the entry and its source, or the reason.
fn ask(policy: &Policy, host: &str, port: u16) -> String {
    let verdict = match Name::parse(host) {
        Ok(name) => policy.name(&name, port),
        Err(_) => policy.address(host.parse().unwrap(), port),
    };
    match verdict {
        Verdict::Allowed(allowed) => format!("{} {}", allowed.entry, allowed.source),
        Verdict::Denied(denied) => denied.reason.to_string(),
    }
}

#[test]
fn each_reason_has_its_case() {
    let operator = "ceiling = [\"*.example:*\", \"10.0.0.0/8\"]\ndeny = [\"corp.example\"]";
    let operator = Operator::parse(operator).unwrap();
    let asked = spec(json!({
        "profiles": ["pip"],
        "allow": ["a.example:443", "*.b.example", "corp.example", "elsewhere.test", "10.0.0.1"],
        "deny": ["t.b.example"],
    }));
    let policy = Policy::compile(&Operator::default(), &packs(), &asked).unwrap();
    let policy = policy.recompiled(&operator, &packs());
    for (host, port, expected) in [
        ("a.example", 443, "a.example:443 sandbox"),
        ("a.example", 80, "port_not_allowed"),
        ("index.example", 443, "index.example profile:pip"),
        ("c.b.example", 80, "*.b.example sandbox"),
        ("t.b.example", 443, "denied_by_rule"),
        ("corp.example", 443, "operator_denied"),
        ("elsewhere.test", 443, "over_ceiling"),
        ("b.example", 443, "no_rule"),
        ("10.0.0.1", 443, "10.0.0.1 sandbox"),
        ("10.0.0.2", 443, "no_rule"),
    ] {
        assert_eq!(ask(&policy, host, port), expected, "{host}:{port}");
    }
    let in_force: Vec<_> =
        policy.in_force().iter().map(|rule| format!("{} {}", rule.entry, rule.source)).collect();
    assert_eq!(
        in_force,
        [
            "a.example:443 sandbox",
            "*.b.example sandbox",
            "10.0.0.1 sandbox",
            "index.example profile:pip",
            "files.example profile:pip",
        ]
    );
}

#[test]
fn the_default_allows_nothing() {
    let policy = Policy::default();
    assert_eq!(ask(&policy, "a.example", 443), "no_rule");
    assert_eq!(ask(&policy, "192.0.2.1", 443), "no_rule");
    let name = Name::parse("a.example").unwrap();
    assert!(
        matches!(policy.lookup(&name), Verdict::Denied(denied) if denied.reason.name() == "no_rule")
    );
}

#[test]
fn an_invalid_policy_is_refused_where_it_is_wrong() {
    let many = vec!["a.example"; 513];
    for (json, expected) in [
        (json!({"allow": ["a.example", "https://b.example"]}), "/allow/1: `https://b.example`"),
        (json!({"deny": [{"host": "a.example", "private": true}]}), "/deny/0: `a.example`"),
        (json!({"profiles": ["pip", "pop"]}), "/profiles/1: unknown profile `pop`"),
        (json!({"profiles": vec!["pip"; 65]}), "/profiles: at most 64 profiles"),
        (json!({"allow": many}), "/allow: at most 512 entries in `allow` and `deny` together"),
        (
            json!({"allow": vec!["a.example:1,3,5,7,9"; 410]}),
            "/allow: at most 2048 ranges of ports in all entries",
        ),
        (
            json!({"allow": ["pip"]}),
            "/allow/0: `pip` is a profile, which `profiles` takes; a host \
            is `pip:443`",
        ),
        (json!({"limits": {"connections": 1025}}), "/limits/connections: 1025 is not 1 to 1024"),
        (json!({"limits": {"opens_per_s": 0}}), "/limits/opens_per_s: 0 is not 1 to 10000"),
    ] {
        assert_eq!(compile("", json).unwrap_err().to_string(), expected);
    }
    let within = compile("", json!({"profiles": ["pop"]})).unwrap_err().within("/egress");
    assert_eq!(within.to_string(), "/egress/profiles/0: unknown profile `pop`");
}

#[test]
fn what_is_over_the_ceiling_is_named() {
    let operator = "ceiling = [\"*.example\", \"pip\"]\ndeny = [\"*.corp.example\"]";
    for (json, expected) in [
        (json!({"allow": ["a.example"]}), None),
        (json!({"allow": ["a.example:443"], "deny": ["*"]}), None),
        (json!({"profiles": ["pip"]}), None),
        // Part of a profile may be more than the ceiling; the sandbox gets the rest.
        (json!({"profiles": ["public"]}), None),
        (json!({"profiles": ["torn"]}), None),
        (json!({"allow": ["a.test"]}), Some("/allow/0: the operator does not permit `a.test`")),
        (
            json!({"allow": ["a.example", "a.example:22,443"]}),
            Some("/allow/1: the operator does not permit `a.example:22,443`"),
        ),
        (json!({"allow": ["*"]}), Some("/allow/0: the operator does not permit `*`")),
        (
            json!({"allow": ["x.corp.example"]}),
            Some("/allow/0: the operator does not permit `x.corp.example`"),
        ),
        (
            json!({"profiles": ["pip", "github"]}),
            Some("/profiles/1: the operator does not permit `github`"),
        ),
    ] {
        let error = compile(operator, json.clone()).err().map(|error| error.to_string());
        assert_eq!(error.as_deref(), expected, "{json}");
    }
}

#[test]
fn an_image_does_not_change_what_a_profile_of_others_means() {
    let policy = compile("", json!({"profiles": ["github"]})).unwrap();
    assert_eq!(ask(&policy, "github.com", 22), "github.com:22,80,443 profile:github");
    assert_eq!(ask(&policy, "a.example", 443), "no_rule");
    let operator = "[profiles.pip]\nallow = [\"mirror.example\"]";
    let policy = compile(operator, json!({"profiles": ["pip"]})).unwrap();
    assert_eq!(ask(&policy, "mirror.example", 443), "mirror.example profile:pip");
    assert_eq!(ask(&policy, "index.example", 443), "no_rule");
}

#[test]
fn the_operators_default_is_for_sandboxes_that_say_nothing() {
    let operator = "default = [\"pip\", \"npm\", \"a.example\"]\nceiling = [\"pip\"]";
    let policy = Policy::default_of(&Operator::parse(operator).unwrap(), &packs(), None);
    assert_eq!(ask(&policy, "index.example", 443), "index.example profile:pip");
    assert_eq!(ask(&policy, "a.example", 443), "over_ceiling");
    assert_eq!(policy.spec().profiles, ["pip", "npm"]);
    assert_eq!(policy.spec().allow, [EntrySpec::from("a.example")]);
}

#[test]
fn the_ceiling_of_a_sandbox_holds_beside_that_of_the_operator() {
    let ceiling = |texts: &[&str]| {
        let texts: Vec<_> = texts.iter().map(|text| (*text).to_owned()).collect();
        Ceiling::parse(&texts).unwrap()
    };
    let operator = "ceiling = [\"*.example\"]\ndefault = [\"pip\"]\n\
        [profiles.mirrors]\nallow = [\"m.example\"]";
    let operator = Operator::parse(operator).unwrap();
    let compile = |own: &Ceiling, json: serde_json::Value| {
        let spec = serde_json::from_value(json).unwrap();
        Policy::compile_within(&operator, &packs(), &spec, Some(own))
    };
    let own = ceiling(&["a.example", "b.other", "pip"]);
    let policy = compile(&own, json!({"allow": ["a.example"], "profiles": ["pip"]})).unwrap();
    assert_eq!(ask(&policy, "a.example", 443), "a.example sandbox");
    assert_eq!(ask(&policy, "index.example", 443), "index.example profile:pip");
    for (json, at) in [
        (json!({"allow": ["a.example", "c.example"]}), "/allow/1: the key of the sandbox"),
        (json!({"allow": ["*.example"]}), "/allow/0: the key of the sandbox"),
        (json!({"profiles": ["mirrors"]}), "/profiles/0: the key of the sandbox"),
        // Over both, it is the operator's.
        (json!({"allow": ["b.other"]}), "/allow/0: the operator"),
    ] {
        let error = compile(&own, json.clone()).unwrap_err().to_string();
        assert!(error.starts_with(at), "{json}: {error}");
    }
    // It stays when the policy is compiled again, also by another daemon.
    let wide = Operator::parse("[profiles.pip]\nallow = [\"c.example\", \"a.example\"]").unwrap();
    let narrow = compile(&ceiling(&["a.example"]), json!({"allow": ["a.example"]})).unwrap();
    let own = narrow.own_ceiling().map(|own| Ceiling::parse(&own.texts()).unwrap());
    let spec = serde_json::from_value(json!({"profiles": ["pip"]})).unwrap();
    let policy = Policy::uncompiled(spec, own).recompiled(&wide, &packs());
    assert_eq!(ask(&policy, "a.example", 443), "a.example profile:pip");
    assert_eq!(ask(&policy, "c.example", 443), "over_ceiling");
    assert_eq!(policy.in_force().len(), 1);
    // Who says nothing gets no more than that either.
    let nothing = Policy::default_of(&operator, &packs(), Some(&Ceiling::nothing()));
    assert_eq!(ask(&nothing, "index.example", 443), "over_ceiling");
    assert!(nothing.in_force().is_empty() && !nothing.spec().profiles.is_empty());
}

#[test]
fn a_profile_that_is_gone_allows_nothing_any_more() {
    let operator = "[profiles.corp]\nallow = [\"nexus.example\"]";
    let policy = compile(operator, json!({"profiles": ["corp"], "allow": ["a.example"]})).unwrap();
    assert_eq!(ask(&policy, "nexus.example", 443), "nexus.example profile:corp");
    let policy = policy.recompiled(&Operator::default(), &packs());
    assert_eq!(ask(&policy, "nexus.example", 443), "no_rule");
    assert_eq!(ask(&policy, "a.example", 443), "a.example sandbox");
}

#[test]
fn options_of_entries_that_match_add_up() {
    let policy = compile(
        "ceiling = [\"*:*\", \"10.0.0.0/8:*\"]",
        json!({"allow": [
            "*.example:*",
            {"host": "a.example", "ports": "443", "ech": true},
            {"host": "*.a.example", "ports": "22", "protocol": "tcp"},
            {"host": "*.b.example", "private": true},
            {"host": "h.test", "ports": "80", "methods": ["GET"]},
            {"host": "h.test", "ports": "80", "methods": ["POST"], "paths": ["/p"]},
            "*.192.test", "10.0.0.0/8:5432", "*:5432",
        ]}),
    )
    .unwrap();
    let allowed = |host: &str, port| {
        let verdict = match Name::parse(host) {
            Ok(name) => policy.name(&name, port),
            Err(_) => policy.address(host.parse().unwrap(), port),
        };
        match verdict {
            Verdict::Allowed(allowed) => allowed,
            Verdict::Denied(denied) => panic!("{host}:{port}: {denied:?}"),
        }
    };
    assert!(allowed("a.example", 443).ech);
    assert!(!allowed("a.example", 444).ech);
    let tcp = allowed("x.a.example", 22);
    assert_eq!((tcp.protocol, &*tcp.entry), (Protocol::Tcp, "*.a.example:22"));
    assert_eq!(allowed("x.a.example", 443).protocol, Protocol::Auto);
    assert!(allowed("x.b.example", 80).private);
    assert!(!allowed("b.example", 80).private);
    let requests = allowed("h.test", 80).requests;
    assert!(requests.permit("GET", "/q").is_ok());
    assert!(requests.permit("POST", "/q").is_err());
    // A range of addresses says that private ones are meant; a star does not.
    assert!(allowed("10.1.2.3", 5432).private);
    assert!(!allowed("192.0.2.1", 5432).private);
}

#[test]
fn the_ceiling_limits_requests() {
    let ceiling = "ceiling = [{ host = \"a.example\", ports = \"80\", methods = [\"GET\"] }]";
    let policy = compile(ceiling, json!({"allow": ["a.example:80"]})).unwrap();
    let Verdict::Allowed(allowed) = policy.name(&Name::parse("a.example").unwrap(), 80) else {
        panic!("denied");
    };
    assert!(allowed.requests.permit("GET", "/").is_ok());
    assert!(allowed.requests.permit("POST", "/").is_err());
}

#[test]
fn a_denied_address_is_denied_in_every_form() {
    let operator = "deny = [\"198.51.100.0/24\"]";
    let policy = compile(operator, json!({"allow": ["*:*"], "deny": ["2001:db8::/32"]})).unwrap();
    for (address, expected) in [
        ("198.51.100.7", "operator_denied"),
        ("::ffff:198.51.100.7", "operator_denied"),
        ("64:ff9b::198.51.100.7", "operator_denied"),
        ("2001:db8::1", "denied_by_rule"),
        ("203.0.113.1", "*:* sandbox"),
    ] {
        assert_eq!(ask(&policy, address, 443), expected, "{address}");
    }
    let denied = policy.denied_address("198.51.100.7".parse().unwrap(), 443).unwrap();
    assert_eq!(denied.entry.as_deref(), Some("198.51.100.0/24"));
    assert_eq!(denied.source, Some(Source::Operator));
    let policy = compile("", json!({"allow": ["*"], "deny": ["t.example:443"]})).unwrap();
    let name = Name::parse("t.example").unwrap();
    assert!(policy.denied_name(&name, 443).is_some() && policy.denied_name(&name, 80).is_none());
}
