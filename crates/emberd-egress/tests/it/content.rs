//! What TLS connections and HTTP requests say of their server.

use std::net::IpAddr;

use emberd_egress::{Carried, Decision, Kind, SandboxEgress};
use emberd_proto::EgressReason;
use serde_json::json;
use tokio::io::AsyncWriteExt as _;

use crate::guest::Guest;
use crate::world::{ONE, Server, TWO, World, read_exact, records, until};

fn length(content: impl AsRef<[u8]>) -> [u8; 2] {
    u16::try_from(content.as_ref().len()).unwrap().to_be_bytes()
}

/// The first message of a TLS connection, in one record, with these extensions.
fn hello(extensions: &[(u16, Vec<u8>)]) -> Vec<u8> {
    let vector = |content: &[u8]| [&length(content)[..], content].concat();
    let all: Vec<u8> = extensions
        .iter()
        .flat_map(|(kind, content)| [&kind.to_be_bytes()[..], &vector(content)].concat())
        .collect();
    let body = [&[3, 3][..], &[7; 32], &[0], &vector(&[0x13, 1]), &[1, 0], &vector(&all)].concat();
    let message = [&[1, 0][..], &vector(&body)].concat();
    [&[0x16, 3, 1][..], &vector(&message)].concat()
}

fn sni(name: &str) -> (u16, Vec<u8>) {
    let name = [&[0][..], &length(name)[..], name.as_bytes()].concat();
    (0, [&length(&name)[..], &name].concat())
}

pub fn naming(name: &str) -> Vec<u8> {
    hello(&[sni(name)])
}

/// A guest, and servers behind one shared address and another one.
async fn shared(policy: serde_json::Value, port: u16) -> (World, SandboxEgress, Guest, Server) {
    let world = World::new();
    for name in ["a.example", "b.example", "c.example"] {
        world.name(name, &[ONE]);
    }
    let server = world.server(ONE, port).await;
    let (sandbox, guest) = world.guest(policy);
    (world, sandbox, guest, server)
}

#[tokio::test]
async fn the_name_in_a_tls_connection_selects_among_the_claims() {
    let (_world, sandbox, guest, mut server) =
        shared(json!({"allow": ["a.example", "b.example"]}), 443).await;
    for name in ["b.example", "A.Example", "a.example."] {
        let mut stream = guest.open(ONE, 443, &["a.example", "b.example", "c.example"]).await;
        let hello = naming(name);
        // Piece by piece, as a slow network would.
        let (first, rest) = hello.split_at(7);
        stream.send(first).await;
        stream.opened().await;
        stream.send(rest).await;
        let mut upstream = server.accept().await;
        assert_eq!(read_exact(&mut upstream, hello.len()).await, hello);
        drop((stream, upstream));
    }
    let records = records(&sandbox, 3).await;
    let hosts: Vec<_> = records.iter().map(|record| record.host.as_deref().unwrap()).collect();
    assert_eq!(hosts, ["b.example", "a.example", "a.example"]);
    assert!(records.iter().all(|record| record.protocol == Some(Carried::Tls)));
    assert_eq!(records[0].sni.as_deref(), Some("b.example"));
}

/// Sends `bytes` over a connection to `a.example`, which must be reset for this reason.
async fn check_refused(world: &World, port: u16, bytes: &[u8], reason: EgressReason) {
    let (sandbox, guest) =
        world.guest(json!({"allow": [{"host": "a.example", "ports": "80,443,8443"}, "b.example"]}));
    let mut stream = guest.open(ONE, port, &["a.example"]).await;
    stream.opened().await;
    stream.send(bytes).await;
    stream.rest().await;
    let record = &records(&sandbox, 1).await[0];
    assert_eq!(record.reason, Some(reason), "{:?}", String::from_utf8_lossy(bytes));
    assert_eq!((record.decision, record.sent_bytes), (Decision::Denied, 0));
}

#[tokio::test]
async fn tls_connections_that_do_not_name_their_server_are_refused() {
    let world = World::new();
    world.name("a.example", &[ONE]);
    world.name("b.example", &[TWO]);
    let mut server = world.server(ONE, 443).await;
    let whole = naming("a.example");
    let (one, other) = whole[5..].split_at(20);
    let record = |part: &[u8]| [&[0x16, 3, 1][..], &length(part)[..], part].concat();
    let fragmented = [record(one), record(other)].concat();
    let large = [&[0x16, 3, 1, 0x40, 1, 1, 0, 0x3f, 0xfd][..], &[0; 100]].concat();
    let two_names = {
        let name = [&[0, 0, 9][..], b"a.example", &[0, 0, 9], b"b.example"].concat();
        (0, [&length(&name)[..], &name].concat())
    };
    for (bytes, reason) in [
        (naming("b.example"), EgressReason::SniMismatch),
        (naming("evil.example"), EgressReason::SniMismatch),
        (naming("a.example.evil.example"), EgressReason::SniMismatch),
        (naming("a.example\0.evil"), EgressReason::SniMismatch),
        (naming("151.101.0.1"), EgressReason::SniMismatch),
        (hello(&[two_names]), EgressReason::SniMismatch),
        (hello(&[]), EgressReason::SniMissing),
        (hello(&[sni("a.example"), (0xfe0d, vec![0; 8])]), EgressReason::Ech),
        (fragmented, EgressReason::FragmentedHello),
        (large, EgressReason::NotTls),
        (b"SSH-2.0-x\r\n".to_vec(), EgressReason::NotTls),
        (hello(&[sni("a.example"), sni("b.example")]), EgressReason::NotTls),
    ] {
        check_refused(&world, 443, &bytes, reason).await;
    }
    assert!(server.is_untouched());
    assert!(world.names.dialled.lock().is_empty());
}

#[tokio::test]
async fn an_entry_can_allow_encrypted_names_or_anything() {
    let (_world, _sandbox, guest, mut server) = shared(
        json!({"allow": [
            {"host": "a.example", "ech": true},
            {"host": "b.example", "protocol": "tcp"},
        ]}),
        443,
    )
    .await;
    let encrypted = hello(&[sni("a.example"), (0xfe0d, vec![0; 8])]);
    for (name, bytes) in [("a.example", &encrypted[..]), ("b.example", b"anything")] {
        let mut stream = guest.open(ONE, 443, &[name]).await;
        stream.send(bytes).await;
        stream.opened().await;
        let mut upstream = server.accept().await;
        assert_eq!(read_exact(&mut upstream, bytes.len()).await, bytes);
    }
}

#[tokio::test]
async fn tls_on_another_port_is_checked_when_it_comes() {
    let world = World::new();
    world.name("a.example", &[ONE]);
    world.name("b.example", &[TWO]);
    let (mut one, mut two) = (world.server(ONE, 8443).await, world.server(TWO, 8443).await);
    let (sandbox, guest) = world.guest(json!({"allow": ["a.example:8443", "b.example:8443"]}));
    // The latest claim is dialled; the connection turns out to be for the other.
    let mut stream = guest.open(ONE, 8443, &["a.example", "b.example"]).await;
    stream.opened().await;
    let _first = one.accept().await;
    let hello = naming("b.example");
    stream.send(&hello).await;
    let mut upstream = two.accept().await;
    assert_eq!(read_exact(&mut upstream, hello.len()).await, hello);
    drop((stream, upstream));
    let mut stream = guest.open(ONE, 8443, &["a.example"]).await;
    stream.opened().await;
    stream.send(&naming("evil.example")).await;
    stream.reset().await;
    let records = records(&sandbox, 2).await;
    assert_eq!(records[1].reason, Some(EgressReason::SniMismatch));
    // Other protocols are not looked at.
    let mut stream = guest.open(ONE, 8443, &["a.example"]).await;
    stream.opened().await;
    stream.send(b"\x16\x05hello").await;
    one.accept().await;
    let mut upstream = one.accept().await;
    assert_eq!(read_exact(&mut upstream, 7).await, b"\x16\x05hello");
}

#[tokio::test]
async fn a_denied_name_is_denied_by_address_too() {
    let (_world, sandbox, guest, mut server) =
        shared(json!({"allow": ["*"], "deny": ["b.example"]}), 443).await;
    let mut stream = guest.open(ONE, 443, &[]).await;
    stream.opened().await;
    stream.send(&naming("b.example")).await;
    stream.reset().await;
    let record = &records(&sandbox, 1).await[0];
    assert_eq!(record.reason, Some(EgressReason::DeniedByRule));
    drop(server.accept().await);
    let mut stream = guest.open(ONE, 443, &[]).await;
    stream.opened().await;
    stream.send(&naming("a.example")).await;
    let mut upstream = server.accept().await;
    read_exact(&mut upstream, 5).await;
}

#[tokio::test]
async fn every_request_is_for_the_host_of_its_connection() {
    let (_world, sandbox, guest, mut server) =
        shared(json!({"allow": ["a.example", "b.example"]}), 80).await;
    let mut stream = guest.open(ONE, 80, &["a.example", "b.example"]).await;
    stream.opened().await;
    let requests: [&[u8]; 4] = [
        b"GET /x?q=secret HTTP/1.1\r\nHost: b.example\r\n\r\n",
        b"POST /y HTTP/1.1\r\nHost: B.example:80\r\nContent-Length: 5\r\n\r\nhello",
        b"POST /z HTTP/1.1\r\nHost: b.example\r\nTransfer-Encoding: chunked\r\n\r\n\
          5;x=y\r\nGET /\r\n0\r\nT: u\r\n\r\n",
        b"GET http://b.example/w HTTP/1.1\r\nHost: b.example\r\n\r\n",
    ];
    let all = requests.concat();
    for piece in all.chunks(11) {
        stream.send(piece).await;
    }
    let mut upstream = server.accept().await;
    assert_eq!(read_exact(&mut upstream, all.len()).await, all);
    upstream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
    assert_eq!(stream.read_exact(19).await, b"HTTP/1.1 200 OK\r\n\r\n");
    // A kept connection does not lead elsewhere.
    stream.send(b"GET / HTTP/1.1\r\nHost: a.example\r\n\r\n").await;
    stream.reset().await;
    let records = records(&sandbox, 6).await;
    let paths: Vec<_> = records[..4].iter().map(|record| record.path.as_deref().unwrap()).collect();
    assert_eq!(paths, ["/x", "/y", "/z", "/w"]);
    assert!(records[..5].iter().all(|record| record.kind == Kind::Request));
    assert_eq!(records[4].reason, Some(EgressReason::HostMismatch));
    let connection = &records[5];
    assert_eq!(connection.reason, Some(EgressReason::HostMismatch));
    assert_eq!(connection.host.as_deref(), Some("b.example"));
    assert_eq!(connection.sent_bytes, all.len() as u64);
}

/// The answer to a request that is refused before anything is sent.
async fn answer_to(guest: &Guest, address: IpAddr, claims: &[&str], request: &str) -> String {
    let mut stream = guest.open(address, 80, claims).await;
    stream.opened().await;
    stream.send(request.replace('\n', "\r\n").as_bytes()).await;
    String::from_utf8(stream.rest().await).unwrap()
}

#[tokio::test]
async fn a_refused_request_is_answered_in_words() {
    let (world, sandbox, guest, mut server) = shared(
        json!({"allow": [
            {"host": "a.example", "ports": "80", "methods": ["GET"], "paths": ["/open/*"]},
        ]}),
        80,
    )
    .await;
    for (claims, request, reason) in [
        (&["a.example"][..], "GET / HTTP/1.1\nHost: b.example\n\n", "host_mismatch"),
        (&["a.example"], "GET / HTTP/1.1\nHost: a.example:81\n\n", "host_mismatch"),
        (&["a.example"], "POST /open/x HTTP/1.1\nHost: a.example\n\n", "method_not_allowed"),
        (&["a.example"], "GET /open/../x HTTP/1.1\nHost: a.example\n\n", "path_not_allowed"),
        (&["c.example"], "GET / HTTP/1.1\nHost: c.example\n\n", "no_rule"),
        (&[], "GET / HTTP/1.1\nHost: 151.101.0.1\n\n", "no_rule"),
    ] {
        let answer = answer_to(&guest, ONE, claims, request).await;
        assert!(answer.starts_with("HTTP/1.1 403 Forbidden\r\n"), "{request}: {answer}");
        assert!(answer.contains(&format!("x-emberd-egress: {reason}\r\n")), "{request}: {answer}");
        let hinted = answer.contains("ask for \"allow\"");
        assert_eq!(hinted, reason == "no_rule", "{answer}");
    }
    until(|| sandbox.totals().denied == 6).await;
    assert!(server.is_untouched());
    assert!(world.names.dialled.lock().is_empty());
}

#[tokio::test]
async fn forms_that_are_not_carried_are_refused() {
    let world = World::new();
    world.name("a.example", &[ONE]);
    let mut server = world.server(ONE, 80).await;
    for request in [
        &b"CONNECT b.example:443 HTTP/1.1\r\nHost: a.example\r\n\r\n"[..],
        b"TRACE / HTTP/1.1\r\nHost: a.example\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a.example\r\nUpgrade: h2c\r\nHTTP2-Settings: x\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a.example\nHost: b.example\r\n\r\n",
        b"\x16\x03\x01\x00\x05hello",
        b"SSH-2.0-x\r\n\r\n\r\n",
    ] {
        check_refused(&world, 80, request, EgressReason::NotHttp).await;
    }
    check_refused(
        &world,
        80,
        b"GET / HTTP/1.1\r\nHost: a.example\r\nHost: a.example\r\n\r\n",
        EgressReason::HostMismatch,
    )
    .await;
    assert!(server.is_untouched());
}
