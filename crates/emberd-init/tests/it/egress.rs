//! Egress: connections of programs in a network namespace, and a scripted host.

mod host;

use std::net::IpAddr;

use emberd_proto::egress::{EgressCapture, EgressFamily, EgressReason, EgressRequest};
use emberd_proto::{ExecSpec, GuestMessage, HostMessage};

use crate::guest::{Guest, Outcome};
use host::{Reply, Session};

/// The beginning of every program here.
const PRELUDE: &str = r"
import errno, os, socket, subprocess, sys, threading
def ends(family, address, port, send=b''):
    '''What a connection brings, and how it ends.'''
    s = socket.socket(family, socket.SOCK_STREAM)
    try:
        s.connect((address, port))
        if send:
            s.sendall(send)
            s.shutdown(socket.SHUT_WR)
        got = b''
        while True:
            more = s.recv(65536)
            if not more:
                return got.decode() + '.'
            got += more
    except OSError as e:
        return errno.errorcode[e.errno]
    finally:
        s.close()
V4, V6 = socket.AF_INET, socket.AF_INET6
";

/// Runs a program in the namespace of `guest`.
fn python(guest: &Guest, code: &str) -> Outcome {
    guest.greet().exec(&ExecSpec::new(format!("{PRELUDE}{code}")), b"")
}

/// Runs a program and checks what it prints.
fn check(guest: &Guest, code: &str, expect: &str) {
    let outcome = python(guest, code);
    let errors = String::from_utf8_lossy(&outcome.stderr);
    assert_eq!(outcome.text(), expect, "{errors}");
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// Whether this test may make namespaces.
fn may_make_namespaces() -> bool {
    let root = nix::unistd::geteuid().is_root();
    if !root {
        emberd_testing::skip("a network namespace needs root");
    }
    root
}

/// A host that knows two names, and echoes what is sent to their addresses.
fn usual(request: &EgressRequest) -> Reply {
    match request {
        EgressRequest::Resolve { name, family } => match (name.as_str(), family) {
            ("a.example" | "b.example", EgressFamily::V4) => {
                Reply::Resolved(vec![ip("203.0.113.1")])
            }
            ("six.example", EgressFamily::V6) => Reply::Resolved(vec![ip("2001:db8::6")]),
            ("a.example" | "b.example" | "six.example", _) => Reply::Resolved(Vec::new()),
            ("gone.example", _) => Reply::Refused(EgressReason::NoSuchName),
            ("slow.example", _) => Reply::Refused(EgressReason::RateLimit),
            _ => Reply::Refused(EgressReason::NoRule),
        },
        EgressRequest::Open { port: 9, .. } => Reply::Refused(EgressReason::NoRule),
        _ => Reply::Echo,
    }
}

#[test]
fn connections_to_any_address_go_to_the_host() {
    if !may_make_namespaces() {
        return;
    }
    let guest = Guest::captured();
    let session = Session::open(&guest, usual);
    check(
        &guest,
        r"
for family, address, port in [(V4, '203.0.113.1', 443), (V4, '10.1.2.3', 1),
                              (V6, '2001:db8::1', 80), (V6, '::ffff:203.0.113.9', 65535),
                              (V4, '169.254.169.254', 80)]:
    print(ends(family, address, port, b'hello'))
print(ends(V4, '203.0.113.1', 9, b'x'), ends(V4, '203.0.113.1', 9))
print(len(ends(V4, '203.0.113.1', 443, b'x' * 3_000_000)))",
        "HELLO.\nHELLO.\nHELLO.\nHELLO.\nHELLO.\nECONNRESET ECONNRESET\n3000001",
    );
    let opens: Vec<_> = session.opens().into_iter().map(|(to, _)| to).collect();
    let expect = [
        "203.0.113.1 443",
        "10.1.2.3 1",
        "2001:db8::1 80",
        "203.0.113.9 65535",
        "169.254.169.254 80",
        "203.0.113.1 9",
        "203.0.113.1 9",
        "203.0.113.1 443",
    ];
    assert_eq!(opens, expect);
}

#[test]
fn names_are_asked_for_and_claimed() {
    if !may_make_namespaces() {
        return;
    }
    let guest = Guest::captured();
    let session = Session::open(&guest, usual);
    check(
        &guest,
        r"
def look(name):
    try:
        found = socket.getaddrinfo(name, 443, type=socket.SOCK_STREAM)
        return sorted({info[4][0] for info in found})
    except socket.gaierror as e:
        return e.errno == socket.EAI_NONAME
print(look('a.example'), look('B.Example'), look('six.example'), look('gone.example'),
      look('denied.example'), look('some.localhost'))
print(ends(V4, '203.0.113.1', 443, b'open'), socket.gethostbyaddr('203.0.113.1')[0])",
        "['203.0.113.1'] ['203.0.113.1'] ['2001:db8::6'] True True ['127.0.0.1', '::1']\n\
         OPEN. b.example",
    );
    let opens = session.opens();
    let names = vec!["b.example".to_owned(), "a.example".to_owned()];
    assert_eq!(opens, [("203.0.113.1 443".to_owned(), names)]);
}

#[test]
fn every_name_server_is_the_agent() {
    if !may_make_namespaces() {
        return;
    }
    let guest = Guest::captured();
    let _session = Session::open(&guest, usual);
    check(
        &guest,
        r"
def query(name, kind=1):
    labels = b''.join(bytes([len(l)]) + l.encode() for l in name.split('.'))
    return (b'\xab\xcd\x01\0\0\x01\0\0\0\0\0\x01' + labels + b'\0\0' + bytes([kind]) + b'\0\x01'
            + b'\0\0\x29\x04\xd0\0\0\0\0\0\0')
def over_udp(family, server, message):
    s = socket.socket(family, socket.SOCK_DGRAM)
    s.sendto(message, (server, 53))
    answer, source = s.recvfrom(4096)
    return source[0], answer
def over_tcp(family, server, message):
    s = socket.socket(family, socket.SOCK_STREAM)
    s.connect((server, 53))
    s.sendall(len(message).to_bytes(2, 'big') + message)
    f = s.makefile('rb')
    answer = f.read(int.from_bytes(f.read(2), 'big'))
    return s.getpeername()[0], answer
for way in over_udp, over_tcp:
    for family, server in (V4, '8.8.8.8'), (V4, '198.18.0.1'), (V6, '2001:db8::53'):
        source, answer = way(family, server, query('a.example'))
        assert answer[:2] == b'\xab\xcd' and answer[3] & 15 == 0, answer
        source, denied = way(family, server, query('denied.example'))
        # Blocked, of the extended errors.
        assert denied[3] & 15 == 3 and denied.endswith(b'\0\x06\0\x0f\0\x02\0\x0f'), denied
        print(source)
print(over_udp(V4, '1.1.1.1', query('slow.example'))[1][3] & 15)
print(over_udp(V4, '1.1.1.1', query('a.example', 16))[1][3:8])",
        "8.8.8.8\n198.18.0.1\n2001:db8::53\n8.8.8.8\n198.18.0.1\n2001:db8::53\n2\n\
         b'\\x80\\x00\\x01\\x00\\x00'",
    );
}

#[test]
fn end_and_failure_are_told_apart() {
    if !may_make_namespaces() {
        return;
    }
    let guest = Guest::captured();
    let _session = Session::open(&guest, |request| match request {
        EgressRequest::Open { port: 1, .. } => Reply::Say("said"),
        EgressRequest::Open { port: 2, .. } => Reply::Reset("cut"),
        _ => Reply::Echo,
    });
    check(
        &guest,
        r"
print(ends(V4, '203.0.113.1', 1), ends(V4, '203.0.113.1', 1, b'x'), ends(V4, '203.0.113.1', 2))",
        "said. said. ECONNRESET",
    );
}

#[test]
fn everything_but_tcp_and_names_is_refused_at_once() {
    if !may_make_namespaces() {
        return;
    }
    let guest = Guest::captured();
    let session = Session::open(&guest, usual);
    check(
        &guest,
        r"
for family, address in (V4, '203.0.113.1'), (V6, '2001:db8::1'):
    s = socket.socket(family, socket.SOCK_DGRAM)
    s.connect((address, 443))
    s.send(b'quic')
    try:
        print(s.recv(10))
    except OSError as e:
        print(errno.errorcode[e.errno])",
        "ECONNREFUSED\nECONNREFUSED",
    );
    assert_eq!(session.opens(), []);
}

#[test]
fn what_is_the_guests_own_stays_there() {
    if !may_make_namespaces() {
        return;
    }
    let guest = Guest::captured();
    let session = Session::open(&guest, usual);
    check(
        &guest,
        r"
def server(family, address, port=0):
    s = socket.socket(family, socket.SOCK_STREAM)
    s.bind((address, port))
    s.listen()
    def serve():
        while True:
            c, _ = s.accept()
            c.sendall(b'own')
            c.close()
    threading.Thread(target=serve, daemon=True).start()
    return s.getsockname()[1]
everywhere, local = server(V4, '0.0.0.0'), server(V4, '127.0.0.1')
six = server(V6, '::')
print(ends(V4, '127.0.0.1', local), ends(V4, '127.9.9.9', everywhere),
      ends(V4, '198.18.0.2', everywhere), ends(V4, 'localhost', local), ends(V6, '::1', six),
      ends(V4, '0.0.0.0', everywhere))
# Nothing listens there.
print([ends(V4, a, 7) for a in ('127.0.0.1', '198.18.0.2', '198.18.0.1')], ends(V6, '::1', 7))
# Listeners of the agent cannot be used as such.
print(ends(V4, '198.18.0.1', 1))
# A name server of the guest's own.
s = socket.socket(V4, socket.SOCK_DGRAM)
s.bind(('127.0.0.1', 53))
c = socket.socket(V4, socket.SOCK_DGRAM)
c.sendto(b'mine', ('127.0.0.1', 53))
print(s.recvfrom(10)[0])",
        "own. own. own. own. own. own.\n\
         ['ECONNREFUSED', 'ECONNREFUSED', 'ECONNREFUSED'] ECONNREFUSED\nECONNRESET\nb'mine'",
    );
    assert_eq!(session.opens(), []);
}

#[test]
fn addresses_and_namespaces_that_come_later() {
    if !may_make_namespaces() {
        return;
    }
    let guest = Guest::captured();
    let session = Session::open(&guest, usual);
    check(
        &guest,
        r"
def run(line):
    subprocess.run(line, shell=True, check=True)
r, w = os.pipe()
inner = subprocess.Popen(['unshare', '-n', 'sh', '-c', 'echo; exec sleep 1000'], stdout=w)
os.read(r, 1)
try:
    run(f'ip link add veth0 type veth peer name eth0 netns {inner.pid}')
    run('ip addr add 10.9.8.1/24 dev veth0; ip link set veth0 up')
    within = f'nsenter --net=/proc/{inner.pid}/ns/net '
    for line in ('addr add 10.9.8.2/24 dev eth0', 'link set lo up', 'link set eth0 up',
                 'route add default via 10.9.8.1'):
        run(within + 'ip ' + line)
    s = socket.socket(V4, socket.SOCK_STREAM)
    s.bind(('0.0.0.0', 7000))
    s.listen()
    def serve():
        while True:
            c, _ = s.accept()
            # A close with bytes unread resets the connection.
            while c.recv(64):
                pass
            c.sendall(b'own')
            c.close()
    threading.Thread(target=serve, daemon=True).start()
    # The agent learns of the address soon; until then a connection goes to the host.
    while ends(V4, '10.9.8.1', 7000, b'x') != 'own.':
        pass
    client = '''
import socket, sys
s = socket.create_connection((sys.argv[1], int(sys.argv[2])))
s.sendall(sys.argv[3].encode())
s.shutdown(socket.SHUT_WR)
print(s.makefile().read())
'''
    for to in ('10.9.8.1', '7000', ''), ('203.0.113.77', '443', 'nested'):
        out = subprocess.run(within.split() + ['python3', '-c', client, *to], capture_output=True)
        print(out.stdout.decode().strip(), out.stderr.decode().strip())
finally:
    inner.kill()
    inner.wait()",
        "own \nNESTED",
    );
    let opens = session.opens();
    assert!(opens.contains(&("203.0.113.77 443".to_owned(), Vec::new())), "{opens:?}");
}

#[test]
fn next_session_resets_connections_of_the_one_before() {
    if !may_make_namespaces() {
        return;
    }
    let guest = Guest::captured();
    let first = Session::open(&guest, |_| Reply::Hold("first"));
    let mut host = guest.greet();
    host.start(&ExecSpec::new(format!(
        "{PRELUDE}
s = socket.create_connection(('203.0.113.1', 443))
print(s.recv(5).decode(), flush=True)
try:
    print(s.recv(5), flush=True)
except ConnectionResetError:
    print('reset', flush=True)
print(ends(V4, '203.0.113.1', 443), flush=True)"
    )));
    assert_eq!(host.line(), "first");
    let second = Session::open(&guest, |_| Reply::Say("second"));
    first.join();
    assert_eq!(host.line(), "reset");
    assert_eq!(host.line(), "second.");
    host.outcome();
    assert_eq!(second.opens().len(), 1);
}

#[test]
fn connections_wait_for_a_session() {
    if !may_make_namespaces() {
        return;
    }
    let guest = Guest::captured();
    let mut host = guest.greet();
    host.start(&ExecSpec::new(format!(
        "{PRELUDE}
s = socket.create_connection(('203.0.113.1', 443))
print('connected', flush=True)
s.sendall(b'early')
s.shutdown(socket.SHUT_WR)
print(s.recv(100))"
    )));
    assert_eq!(host.line(), "connected");
    let _session = Session::open(&guest, usual);
    assert_eq!(host.line(), "b'EARLY'");
    host.outcome();
}

#[test]
fn session_that_the_host_closes_resets_its_connections() {
    if !may_make_namespaces() {
        return;
    }
    let guest = Guest::captured();
    let session = Session::open(&guest, |_| Reply::Hold("open"));
    let mut host = guest.greet();
    host.start(&ExecSpec::new(format!(
        "{PRELUDE}
s = socket.create_connection(('203.0.113.1', 443))
s.shutdown(socket.SHUT_WR)
print(s.recv(4).decode(), flush=True)
try:
    print(s.recv(5))
except ConnectionResetError:
    print('reset')"
    )));
    assert_eq!(host.line(), "open");
    drop(session);
    assert_eq!(host.line(), "reset");
    host.outcome();
    host.ping();
}

#[test]
fn connections_beyond_the_limit_are_reset_and_the_rest_go_on() {
    if !may_make_namespaces() {
        return;
    }
    let guest = Guest::captured();
    let session = Session::open(&guest, usual);
    check(
        &guest,
        r"
kept, reset = [], 0
for _ in range(1100):
    s = socket.create_connection(('203.0.113.1', 443))
    try:
        s.sendall(b'x')
        kept.append((s, s.recv(1)))
    except (ConnectionResetError, BrokenPipeError):
        reset += 1
print(len(kept), reset)
for s, _ in kept:
    s.close()
# The agent notices the ends of those before it accepts this one, or resets it.
while (end := ends(V4, '203.0.113.1', 443, b'x')) != 'X.':
    assert end in ('ECONNRESET', 'EPIPE'), end
print(end)",
        "1024 76\nX.",
    );
    assert!(session.opens().len() >= 1025);
}

#[test]
fn agent_without_capture_says_why() {
    let guest = Guest::shell();
    let mut host = guest.greet();
    host.send(&HostMessage::Egress);
    let GuestMessage::Egress(EgressCapture::Unavailable { why }) = host.answer() else {
        panic!("nothing is captured");
    };
    assert_eq!(why, "the agent does not own the network");
    // The connection is idle again.
    host.ping();
}

#[test]
fn many_connections_in_sequence_leave_nothing() {
    if !may_make_namespaces() {
        return;
    }
    let guest = Guest::captured();
    let descriptors = || std::fs::read_dir(format!("/proc/{}/fd", guest.pid())).unwrap().count();
    let session = Session::open(&guest, usual);
    check(&guest, "print(ends(V4, '203.0.113.1', 443, b'x'))", "X.");
    let before = descriptors();
    check(&guest, "print({ends(V4, '203.0.113.1', 443, b'x') for _ in range(10_000)})", "{'X.'}");
    assert_eq!(session.opens().len(), 10_001);
    // The last connection, and that of the exec, may not have been closed yet.
    let mut host = guest.greet();
    let own = 1;
    while descriptors() > before + own {
        host.ping();
    }
}
