//! The host's own resolver, in a network namespace whose only name server fails in many ways.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use emberd_egress::{Egress, HostNetwork};
use emberd_proto::EgressReason;
use emberd_proto::egress::{EgressAnswer, EgressFamily};
use emberd_testing::{run, with_network};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, UdpSocket};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{advance, pause, resume, timeout};

use crate::guest::Guest;
use crate::world::{WAIT_MAX, compile};

/// Where the name server of the namespace is.
const SERVER: (Ipv4Addr, u16) = (Ipv4Addr::LOCALHOST, 53);

/// Addresses in an answer of 64 KiB.
const ADDRESSES_OF_64_KIB: u16 = 4093;

/// Runs `story` on a thread in a namespace of its own. Nothing happens, which is a skip, where
/// that cannot be.
fn tell<F: Future<Output = ()>>(story: impl FnOnce() -> F + Send + 'static) {
    with_network(move || {
        let dir = tempfile::tempdir().unwrap();
        let resolv_conf = dir.path().join("resolv.conf");
        // The host's patience is longer than that of a lookup.
        std::fs::write(&resolv_conf, "nameserver 127.0.0.1\noptions timeout:30\n").unwrap();
        run(&format!("mount --bind {} /etc/resolv.conf", resolv_conf.display()));
        run("ip link set lo up");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.unwrap().block_on(story());
    });
}

/// Answer of the name server to a query: none, if it is silent.
fn answer(query: &[u8], is_tcp: bool) -> Option<Vec<u8>> {
    let mut labels = Vec::new();
    let mut at = 12;
    while query[at] > 0 {
        let end = at + 1 + usize::from(query[at]);
        labels.push(String::from_utf8(query[at + 1..end].to_vec()).unwrap());
        at = end;
    }
    let (question, is_a) = (&query[12..at + 5], query[at + 2] == 1);
    let address = |[a, b, c, d]: [u8; 4]| [0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4, a, b, c, d];
    let (mut flags, mut count, mut records) = ([0x81, 0x80], 0, Vec::new());
    match labels[0].as_str() {
        "dead" => return None,
        "failing" => flags[1] |= 2,
        "none" => flags[1] |= 3,
        // An alias of itself, by a pointer to the question.
        "loop" => (count, records) = (1, vec![0xc0, 12, 0, 5, 0, 1, 0, 0, 0, 0, 0, 2, 0xc0, 12]),
        "garbage" => return Some(vec![0xff; 600]),
        "large" if !is_tcp => flags[0] |= 2,
        _ if !is_a => {}
        "large" => {
            count = ADDRESSES_OF_64_KIB;
            let each = (0..count).map(|n| [45, 46, n.to_be_bytes()[0], n.to_be_bytes()[1]]);
            records = each.flat_map(address).collect();
        }
        "lying" => (count, records) = (1, address([10, 77, 0, 1]).to_vec()),
        "own" => (count, records) = (1, address([127, 0, 0, 1]).to_vec()),
        _ => (count, records) = (1, address([45, 45, 0, 1]).to_vec()),
    }
    let count = count.to_be_bytes();
    let head = [&query[..2], &flags, &[0, 1], &count, &[0; 4], question].concat();
    Some([head, records].concat())
}

/// Starts the name server. Queries that it does not answer arrive at the receiver. Once that is
/// dropped, it says that their names do not exist, and ends.
async fn serve() -> (mpsc::UnboundedReceiver<SocketAddr>, JoinHandle<()>) {
    let (silent, queries) = mpsc::unbounded_channel();
    let (udp, tcp) = (UdpSocket::bind(SERVER).await.unwrap(), TcpListener::bind(SERVER).await);
    let tcp = tcp.unwrap();
    let over_udp = tokio::spawn(async move {
        let mut unanswered = Vec::new();
        let mut query = vec![0; 4096];
        loop {
            tokio::select! {
                received = udp.recv_from(&mut query) => {
                    let (bytes, source) = received.unwrap();
                    if let Some(answer) = answer(&query[..bytes], false) {
                        udp.send_to(&answer, source).await.unwrap();
                    } else {
                        silent.send(source).ok();
                        unanswered.push((query[..bytes].to_vec(), source));
                    }
                }
                () = silent.closed() => {
                    for (query, source) in unanswered.drain(..) {
                        let none = [&query[..2], &[0x81, 0x83], &query[4..]].concat();
                        udp.send_to(&none, source).await.unwrap();
                    }
                    return;
                }
            }
        }
    });
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = tcp.accept().await.unwrap();
            tokio::spawn(async move {
                while let Ok(bytes) = stream.read_u16().await {
                    let mut query = vec![0; bytes.into()];
                    stream.read_exact(&mut query).await.unwrap();
                    let answer = answer(&query, true).unwrap();
                    stream.write_u16(answer.len().try_into().unwrap()).await.unwrap();
                    stream.write_all(&answer).await.unwrap();
                }
            });
        }
    });
    (queries, over_udp)
}

#[test]
fn lookups_that_fail_say_so_and_hold_up_no_other() {
    tell(async || {
        let (mut silent, server) = serve().await;
        let egress = Egress::on(tokio::runtime::Handle::current(), 16, Arc::new(HostNetwork));
        let sandbox = egress.sandbox(&compile(json!({"allow": ["*.example"]})));
        let guest = Arc::new(Guest::of(&sandbox));
        let dead = tokio::spawn({
            let guest = Arc::clone(&guest);
            async move { guest.resolve("dead.example", EgressFamily::V4).await }
        });
        timeout(WAIT_MAX, silent.recv()).await.unwrap().unwrap();
        for (name, reason) in [
            ("failing", EgressReason::LookupFailed),
            ("loop", EgressReason::NoSuchName),
            ("none", EgressReason::NoSuchName),
            ("lying", EgressReason::PrivateAddress),
            ("own", EgressReason::PrivateAddress),
        ] {
            let answer = guest.resolve(&format!("{name}.example"), EgressFamily::V4).await;
            let EgressAnswer::Refused { reason: told } = answer else {
                panic!("{name}: {answer:?}")
            };
            assert_eq!(told, reason, "{name}");
        }
        let large = guest.resolve("large.example", EgressFamily::V4).await;
        let EgressAnswer::Resolved { addresses, .. } = large else { panic!("{large:?}") };
        assert_eq!(addresses.len(), 16);
        assert!(!dead.is_finished());
        pause();
        advance(Duration::from_secs(6)).await;
        resume();
        let reason = EgressReason::LookupFailed;
        let answer = timeout(WAIT_MAX, dead).await.unwrap().unwrap();
        assert_eq!(answer, EgressAnswer::Refused { reason });
        let good = guest.resolve("good.example", EgressFamily::V4).await;
        let EgressAnswer::Resolved { addresses, .. } = good else { panic!("{good:?}") };
        assert_eq!(addresses, [IpAddr::from([45, 45, 0, 1])]);
        // The end of the runtime waits for the thread that looks up the silent name.
        drop(silent);
        server.await.unwrap();
    });
}
