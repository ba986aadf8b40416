//! Connections from their request to their record.

use std::net::IpAddr;

use emberd_egress::{Decision, Kind};
use emberd_proto::EgressReason;
use emberd_proto::egress::EgressAnswer;
use serde_json::json;
use tokio::io::AsyncWriteExt as _;

use crate::guest::Guest;
use crate::world::{ONE, TWO, World, compile, compile_under, read_exact, read_to_end, records};

fn refused(reason: EgressReason) -> EgressAnswer {
    EgressAnswer::Refused { reason }
}

#[tokio::test]
async fn bytes_go_both_ways_and_each_end_is_passed_on() {
    let world = World::new();
    world.name("a.example", &[ONE]);
    let mut server = world.server(ONE, 7000).await;
    let (sandbox, guest) = world.guest(json!({"allow": ["a.example:7000"]}));
    // The guest's address does not matter: the host dials the name.
    let mut stream = guest.open(TWO, 7000, &["a.example"]).await;
    stream.send(b"question").await;
    stream.opened().await;
    let mut upstream = server.accept().await;
    assert_eq!(read_exact(&mut upstream, 8).await, b"question");
    stream.finish().await;
    assert_eq!(read_to_end(&mut upstream).await.unwrap(), b"");
    // The other direction is still open.
    upstream.write_all(b"answer").await.unwrap();
    drop(upstream);
    assert_eq!(stream.rest().await, b"answer");
    let record = &records(&sandbox, 1).await[0];
    assert_eq!((record.kind, record.decision), (Kind::Connection, Decision::Allowed));
    assert_eq!((record.host.as_deref(), record.port), (Some("a.example"), Some(7000)));
    assert_eq!(record.address, Some(ONE));
    assert_eq!(record.entry.as_deref(), Some("a.example:7000"));
    assert_eq!((record.sent_bytes, record.received_bytes), (8, 6));
    let totals = sandbox.totals();
    assert_eq!((totals.opened, totals.sent_bytes, totals.received_bytes), (1, 8, 6));
}

const NOT_ALLOWED: EgressReason = EgressReason::PortNotAllowed;

#[tokio::test]
async fn the_daemon_counts_all_sandboxes_and_those_that_have_ended() {
    let world = World::new();
    world.name("a.example", &[ONE]);
    let mut server = world.server(ONE, 7000).await;
    for round in 1..=2 {
        let (sandbox, guest) = world.guest(json!({"allow": ["a.example:7000"]}));
        let mut stream = guest.open(ONE, 7000, &["a.example"]).await;
        stream.opened().await;
        let mut upstream = server.accept().await;
        stream.send(b"four").await;
        assert_eq!(read_exact(&mut upstream, 4).await, b"four");
        assert_eq!(world.egress.totals().connections, 1);
        drop(upstream);
        stream.finish().await;
        assert_eq!(stream.rest().await, b"");
        for (port, names, reason) in
            [(7001, "a.example", NOT_ALLOWED), (7000, "b.example", EgressReason::NoRule)]
        {
            let mut stream = guest.open(TWO, port, &[names]).await;
            assert_eq!(stream.answer().await, refused(reason));
        }
        records(&sandbox, 3).await;
        sandbox.close();
        let totals = world.egress.totals();
        assert_eq!(
            (totals.allowed, totals.sent_bytes, totals.received_bytes),
            (round, 4 * round, 0)
        );
        let counted: Vec<_> = totals.denied.into_iter().filter(|(_, count)| *count > 0).collect();
        assert_eq!(counted, [(EgressReason::NoRule, round), (NOT_ALLOWED, round)]);
        assert!(totals.failed.iter().all(|(_, count)| *count == 0), "{:?}", totals.failed);
    }
}

#[tokio::test]
async fn servers_may_speak_first() {
    let world = World::new();
    world.name("a.example", &[ONE]);
    let mut server = world.server(ONE, 22).await;
    let (_sandbox, guest) = world.guest(json!({"allow": ["a.example:22"]}));
    let mut stream = guest.open(ONE, 22, &["a.example"]).await;
    stream.opened().await;
    let mut upstream = server.accept().await;
    upstream.write_all(b"SSH-2.0").await.unwrap();
    assert_eq!(stream.read_exact(7).await, b"SSH-2.0");
}

#[tokio::test]
async fn large_transfers_are_whole() {
    let world = World::new();
    world.name("a.example", &[ONE]);
    world.server(ONE, 7000).await.echo();
    let (_sandbox, guest) = world.guest(json!({"allow": ["a.example:7000"]}));
    let mut ends = Vec::new();
    for seed in 0..4_u8 {
        let stream = guest.open(ONE, 7000, &["a.example"]).await;
        ends.push(tokio::spawn(async move {
            let mut stream = stream;
            let data: Vec<u8> = (0..2_000_000_u32).map(|n| n.to_le_bytes()[1] ^ seed).collect();
            stream.opened().await;
            let (reader, mut writer) = futures::io::AsyncReadExt::split(stream.0);
            let (sent, mut back) = (data.clone(), Vec::new());
            let write = async {
                futures::io::AsyncWriteExt::write_all(&mut writer, &sent).await.unwrap();
                futures::io::AsyncWriteExt::close(&mut writer).await.unwrap();
            };
            let mut reader = reader;
            let read = futures::io::AsyncReadExt::read_to_end(&mut reader, &mut back);
            let ((), read) = tokio::join!(write, read);
            read.unwrap();
            assert!(back == data);
        }));
    }
    for end in ends {
        end.await.unwrap();
    }
}

#[tokio::test]
async fn what_no_rule_allows_is_refused_with_its_reason() {
    let world = World::new();
    world.name("a.example", &[ONE]);
    world.name("private.example", &["10.0.0.1".parse().unwrap()]);
    let policy = json!({
        "allow": ["a.example:7000", "*.b.example:*", "private.example:7000", "dead.example:7000"],
        "deny": ["t.b.example"],
    });
    let (sandbox, guest) = world.guest(policy);
    let mark = sandbox.mark();
    for (address, port, names, reason) in [
        (ONE, 7000, &[][..], EgressReason::NoRule),
        (ONE, 7000, &["evil.example"], EgressReason::NoRule),
        (ONE, 22, &["a.example"], EgressReason::PortNotAllowed),
        (ONE, 443, &["t.b.example"], EgressReason::DeniedByRule),
        (ONE, 7000, &["private.example"], EgressReason::PrivateAddress),
        (ONE, 7000, &["dead.example"], EgressReason::NoSuchName),
        // Nothing listens there.
        (ONE, 7000, &["a.example"], EgressReason::ConnectFailed),
    ] {
        let mut stream = guest.open(address, port, names).await;
        assert_eq!(stream.answer().await, refused(reason), "{port} {names:?}");
        assert_eq!(stream.rest().await, b"");
    }
    let records = records(&sandbox, 7).await;
    assert_eq!(records[2].reason, Some(EgressReason::PortNotAllowed));
    assert_eq!(records[3].entry.as_deref(), Some("t.b.example"));
    assert_eq!(records[6].decision, Decision::Failed);
    let denied = sandbox.denied_since(mark);
    assert_eq!(denied.egress_denied.len(), 5);
    let hint = denied.hint.unwrap();
    let entries = format!(r#"["{ONE}:7000", "a.example:22", "evil.example:7000"]"#);
    assert!(hint.ends_with(&entries), "{hint}");
    let dialled = world.names.dialled.lock().clone();
    assert_eq!(dialled, [(ONE, 7000).into()]);
}

#[tokio::test]
async fn addresses_of_this_host_and_special_ones_are_not_dialled() {
    let world = World::new();
    let (sandbox, guest) = world.guest(json!({"allow": ["*:*"]}));
    let addresses = [
        "127.0.0.1",
        "127.1.2.3",
        "0.0.0.0",
        "10.0.0.1",
        "169.254.169.254",
        "168.63.129.16",
        "::1",
        "::ffff:127.0.0.1",
        "64:ff9b::7f00:1",
        "fd00:ec2::254",
        "2002:7f00:1::",
    ];
    for address in addresses {
        let mut stream = guest.open(address.parse().unwrap(), 7000, &[]).await;
        let EgressAnswer::Refused { reason } = stream.answer().await else { panic!("{address}") };
        assert!(
            matches!(
                reason,
                EgressReason::PrivateAddress | EgressReason::OwnAddress | EgressReason::NoRule
            ),
            "{address}: {reason}"
        );
        world.name("rebinds.example", &[address.parse().unwrap()]);
    }
    assert!(world.names.dialled.lock().is_empty());
    assert_eq!(sandbox.totals().opened, 0);
}

#[tokio::test]
async fn a_name_that_changes_its_address_is_checked_when_it_is_dialled() {
    let world = World::new();
    let own: IpAddr = "127.0.0.1".parse().unwrap();
    world.name("rebinds.example", &[own, "192.168.1.1".parse().unwrap()]);
    let (_sandbox, guest) = world.guest(json!({"allow": ["rebinds.example:7000"]}));
    // As it was when the guest asked.
    let mut stream = guest.open(ONE, 7000, &["rebinds.example"]).await;
    assert_eq!(stream.answer().await, refused(EgressReason::PrivateAddress));
    assert!(world.names.dialled.lock().is_empty());
}

#[tokio::test]
async fn an_exact_private_address_of_the_operator_is_reached() {
    let world = World::new();
    let own: IpAddr = "127.0.0.1".parse().unwrap();
    world.name("local.example", &[own]);
    let mut server = world.server(own, 7000).await;
    let entry = json!({"allow": [{"host": "local.example", "ports": "7000", "private": true}]});
    let operator = "ceiling = [\"public\"]\nprivate = [\"127.0.0.1/32\"]";
    let sandbox = world.egress.sandbox(&compile_under(operator, entry));
    let guest = Guest::of(&sandbox);
    let mut stream = guest.open(own, 7000, &["local.example"]).await;
    stream.opened().await;
    server.accept().await;
}

#[tokio::test]
async fn a_reset_is_passed_on_in_both_directions() {
    let world = World::new();
    world.name("a.example", &[ONE]);
    let mut server = world.server(ONE, 7000).await;
    let (_sandbox, guest) = world.guest(json!({"allow": ["a.example:7000"]}));
    let mut stream = guest.open(ONE, 7000, &["a.example"]).await;
    stream.send(b"x").await;
    stream.opened().await;
    let mut upstream = server.accept().await;
    read_exact(&mut upstream, 1).await;
    upstream.write_all(b"part").await.unwrap();
    upstream.set_zero_linger().unwrap();
    assert_eq!(stream.read_exact(4).await, b"part");
    drop(upstream);
    stream.reset().await;

    let mut stream = guest.open(ONE, 7000, &["a.example"]).await;
    stream.send(b"x").await;
    stream.opened().await;
    let mut upstream = server.accept().await;
    read_exact(&mut upstream, 1).await;
    drop(stream);
    let error = read_to_end(&mut upstream).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn a_new_policy_cuts_what_it_does_not_allow() {
    let world = World::new();
    world.name("a.example", &[ONE]);
    world.name("b.example", &[TWO]);
    let (mut one, mut two) = (world.server(ONE, 7000).await, world.server(TWO, 7000).await);
    let (sandbox, guest) = world.guest(json!({"allow": ["a.example:7000", "b.example:7000"]}));
    let mut cut = guest.open(ONE, 7000, &["a.example"]).await;
    let mut kept = guest.open(TWO, 7000, &["b.example"]).await;
    cut.opened().await;
    kept.opened().await;
    let mut upstream = (one.accept().await, two.accept().await);
    assert_eq!(sandbox.replace(compile(json!({"allow": ["b.example:7000"]}))), 1);
    cut.reset().await;
    assert!(read_to_end(&mut upstream.0).await.is_err());
    kept.send(b"still").await;
    assert_eq!(read_exact(&mut upstream.1, 5).await, b"still");
    let mut again = guest.open(ONE, 7000, &["a.example"]).await;
    assert_eq!(again.answer().await, refused(EgressReason::NoRule));
    let records = records(&sandbox, 3).await;
    let changed = records.iter().find(|record| record.kind == Kind::Policy);
    assert!(changed.is_some());
    let cut = records.iter().find(|record| record.reason == Some(EgressReason::PolicyChanged));
    assert_eq!(cut.unwrap().host.as_deref(), Some("a.example"));
}

#[tokio::test]
async fn the_end_of_a_session_ends_its_connections_and_another_may_follow() {
    let world = World::new();
    world.name("a.example", &[ONE]);
    let mut server = world.server(ONE, 7000).await;
    let (sandbox, guest) = world.guest(json!({"allow": ["a.example:7000"]}));
    let mut stream = guest.open(ONE, 7000, &["a.example"]).await;
    stream.send(b"x").await;
    stream.opened().await;
    let mut upstream = server.accept().await;
    read_exact(&mut upstream, 1).await;
    drop(guest);
    assert!(read_to_end(&mut upstream).await.is_err());
    let guest = Guest::of(&sandbox);
    let mut stream = guest.open(ONE, 7000, &["a.example"]).await;
    stream.opened().await;
    sandbox.close();
    stream.rest().await;
    assert!(sandbox.serve(tokio::io::duplex(1).0).await.is_ok());
    assert_eq!(records(&sandbox, 2).await.len(), 2);
}

#[tokio::test]
async fn limits_are_held() {
    let world = World::with_connections(3);
    world.name("a.example", &[ONE]);
    let _server = world.server(ONE, 7000).await;
    let policy = json!({"allow": ["a.example:7000"], "limits": {"connections": 2}});
    let (_one, guest) = world.guest(policy.clone());
    let mut held = Vec::new();
    for _ in 0..2 {
        let mut stream = guest.open(ONE, 7000, &["a.example"]).await;
        stream.opened().await;
        held.push(stream);
    }
    let mut over = guest.open(ONE, 7000, &["a.example"]).await;
    assert_eq!(over.answer().await, refused(EgressReason::ConnectionLimit));
    // The daemon has one left.
    let (_other, guest) = world.guest(policy);
    let mut stream = guest.open(ONE, 7000, &["a.example"]).await;
    stream.opened().await;
    let mut over = guest.open(ONE, 7000, &["a.example"]).await;
    assert_eq!(over.answer().await, refused(EgressReason::ConnectionLimit));
}

#[tokio::test]
async fn a_budget_cuts_a_connection() {
    let world = World::new();
    world.name("a.example", &[ONE]);
    world.server(ONE, 7000).await.echo();
    let policy = json!({"allow": ["a.example:7000"], "limits": {"upload_mib": 1}});
    let (sandbox, guest) = world.guest(policy);
    let mut stream = guest.open(ONE, 7000, &["a.example"]).await;
    stream.opened().await;
    let (mut reader, mut writer) = futures::io::AsyncReadExt::split(stream.0);
    let writing = tokio::spawn(async move {
        // Fails once it is cut.
        futures::io::AsyncWriteExt::write_all(&mut writer, &vec![0; 2 << 20]).await.ok();
    });
    let mut back = Vec::new();
    futures::io::AsyncReadExt::read_to_end(&mut reader, &mut back).await.unwrap();
    writing.await.unwrap();
    assert!(back.len() <= 1 << 20);
    let record = &records(&sandbox, 1).await[0];
    assert_eq!(record.reason, Some(EgressReason::Budget));
    assert!(sandbox.totals().sent_bytes <= 1 << 20);
}

#[tokio::test]
async fn opens_that_come_too_fast_are_refused() {
    let world = World::new();
    let (_sandbox, guest) = world.guest(json!({"limits": {"opens_per_s": 1}}));
    let mut limited = 0;
    for _ in 0..50 {
        let mut stream = guest.open(ONE, 7000, &[]).await;
        limited += usize::from(stream.answer().await == refused(EgressReason::RateLimit));
    }
    assert!(limited > 0);
}

#[tokio::test]
async fn a_check_tells_what_would_happen_and_sends_nothing() {
    let world = World::new();
    world.name("a.example", &[ONE]);
    world.name("private.example", &["10.0.0.1".parse().unwrap()]);
    let sandbox = world.sandbox(json!({"allow": ["a.example", "private.example"]}));
    let allowed = sandbox.check("A.example", 443).await;
    assert_eq!((allowed.decision, allowed.addresses), (Decision::Allowed, vec![ONE]));
    assert_eq!(allowed.entry.as_deref(), Some("a.example"));
    for (host, port, reason) in [
        ("a.example", 22, EgressReason::PortNotAllowed),
        ("evil.example", 443, EgressReason::NoRule),
        ("private.example", 443, EgressReason::PrivateAddress),
        ("151.101.0.1", 443, EgressReason::NoRule),
        ("not a host", 443, EgressReason::NoRule),
    ] {
        let check = sandbox.check(host, port).await;
        assert_eq!((check.decision, check.reason), (Decision::Denied, Some(reason)), "{host}");
    }
    assert_eq!(*world.names.looked_up.lock(), ["a.example", "private.example"]);
    assert!(world.names.dialled.lock().is_empty());
    assert!(sandbox.log(0, None, 10).records.is_empty());
}
