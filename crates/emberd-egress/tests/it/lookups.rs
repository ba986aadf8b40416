//! Lookups: nothing leaves the host before the policy has decided.

use emberd_egress::{Decision, Kind};
use emberd_proto::EgressReason;
use emberd_proto::egress::{EgressAnswer, EgressFamily};
use serde_json::json;

use crate::world::{ONE, World, records};

fn refused(reason: EgressReason) -> EgressAnswer {
    EgressAnswer::Refused { reason }
}

fn addresses(answer: EgressAnswer) -> Vec<String> {
    let EgressAnswer::Resolved { addresses, ttl_s: 5..=60 } = answer else {
        panic!("not resolved: {answer:?}")
    };
    addresses.iter().map(ToString::to_string).collect()
}

#[tokio::test]
async fn a_name_without_a_rule_is_not_looked_up() {
    let world = World::new();
    let (sandbox, guest) = world.guest(json!({"allow": ["a.example"]}));
    for name in ["evil.example", "b.a.example", "not a name", ""] {
        let answer = guest.resolve(name, EgressFamily::V4).await;
        assert_eq!(answer, refused(EgressReason::NoRule), "{name}");
    }
    assert!(world.names.looked_up.lock().is_empty());
    let records = records(&sandbox, 4).await;
    assert!(
        records
            .iter()
            .all(|record| { record.kind == Kind::Lookup && record.decision == Decision::Denied })
    );
    assert_eq!(records[0].host.as_deref(), Some("evil.example"));
    assert_eq!(sandbox.totals().denied, 4);
}

#[tokio::test]
async fn both_families_come_from_one_lookup() {
    let world = World::new();
    let six = "2606:4700::1".parse().unwrap();
    world.name("both.example", &[six, ONE]);
    world.name("six.example", &[six]);
    let (_sandbox, guest) = world.guest(json!({"allow": ["*.example"]}));
    let v4 = guest.resolve("Both.Example.", EgressFamily::V4).await;
    assert_eq!(addresses(v4), [ONE.to_string()]);
    // Programs that prefer IPv6 take IPv4 where there is some.
    assert!(addresses(guest.resolve("both.example", EgressFamily::V6).await).is_empty());
    assert_eq!(addresses(guest.resolve("six.example", EgressFamily::V6).await), ["2606:4700::1"]);
    assert!(addresses(guest.resolve("six.example", EgressFamily::V4).await).is_empty());
    assert_eq!(*world.names.looked_up.lock(), ["both.example", "six.example"]);
}

#[tokio::test]
async fn addresses_that_must_not_be_reached_are_not_told() {
    let world = World::new();
    world.name("mixed.example", &["10.0.0.1".parse().unwrap(), ONE]);
    world.name("private.example", &["10.0.0.1".parse().unwrap()]);
    world.name("metadata.google.internal", &[ONE]);
    let (_sandbox, guest) = world.guest(json!({"allow": ["*"]}));
    let mixed = guest.resolve("mixed.example", EgressFamily::V4).await;
    assert_eq!(addresses(mixed), [ONE.to_string()]);
    for name in ["private.example", "metadata.google.internal"] {
        let answer = guest.resolve(name, EgressFamily::V4).await;
        assert_eq!(answer, refused(EgressReason::PrivateAddress), "{name}");
    }
    let answer = guest.resolve("none.example", EgressFamily::V4).await;
    assert_eq!(answer, refused(EgressReason::NoSuchName));
}

#[tokio::test]
async fn random_labels_below_an_allowed_name_are_slowed_down() {
    let world = World::new();
    let (sandbox, guest) = world.guest(json!({"allow": ["*.example"]}));
    let mut limited = 0;
    for number in 0..200 {
        let answer = guest.resolve(&format!("x{number}.example"), EgressFamily::V4).await;
        limited += usize::from(answer == refused(EgressReason::RateLimit));
    }
    let looked_up = world.names.looked_up.lock().len();
    assert_eq!(looked_up + limited, 200);
    assert!(limited > 0, "{looked_up} lookups");
    assert_eq!(sandbox.totals().denied, limited as u64);
}

#[tokio::test]
async fn a_name_that_is_looked_up_again_and_again_is_not_slowed_down() {
    let world = World::new();
    world.name("one.example", &[ONE]);
    let (sandbox, guest) = world.guest(json!({"allow": ["*.example"]}));
    for family in [EgressFamily::V4, EgressFamily::V6].into_iter().cycle().take(200) {
        let answer = guest.resolve("one.example", family).await;
        assert!(matches!(answer, EgressAnswer::Resolved { .. }), "{answer:?}");
    }
    assert_eq!(*world.names.looked_up.lock(), ["one.example"]);
    assert_eq!(sandbox.totals().denied, 0);
    // Names that are denied are not kept.
    let mut limited = 0;
    for _ in 0..200 {
        let answer = guest.resolve("denied.test", EgressFamily::V4).await;
        limited += usize::from(answer == refused(EgressReason::RateLimit));
    }
    assert!(limited > 0);
}
