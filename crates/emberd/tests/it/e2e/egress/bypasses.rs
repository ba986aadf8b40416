//! Ways out that are not allowed, each tried by a program inside and found in the log with its
//! reason.

use std::collections::BTreeSet;
use std::time::Instant;

use emberd_api::{ErrorCode, PolicySpec};

use super::world::World;
use super::{allow, create, denials, python};
use crate::e2e::daemon::refusal;
use crate::e2e::{Daemon, code};

/// Functions for what programs say to servers, in Python.
const SPEECH: &str = include_str!("bypasses/speech.py");

/// A way out: a port of `me`, a name of its own below an allowed one; the bytes that a program
/// sends there (in Python); the first line that comes back, or why none does; and the reason in the
/// log.
type Way = (u16, &'static str, &'static str, &'static str);

const REFUSED: &str = "HTTP/1.1 403 Forbidden";

/// Another server's name in TLS, none, several, and others that only some programs take for `me`.
const SERVER_NAMES: [Way; 13] = [
    (443, "record(real('evil.example'))", "ECONNRESET", "sni_mismatch"),
    (443, "record(real('EVIL.example'))", "ECONNRESET", "sni_mismatch"),
    (443, "record(real('good.example'))", "ECONNRESET", "sni_mismatch"),
    (443, "record(real(me + '.evil'))", "ECONNRESET", "sni_mismatch"),
    (443, "record(real(None))", "ECONNRESET", "sni_missing"),
    (443, "hello(sni(me, 'evil.example'))", "ECONNRESET", "sni_mismatch"),
    (443, "hello(sni('evil.example', me))", "ECONNRESET", "sni_mismatch"),
    (443, "hello(sni('evil.example.'))", "ECONNRESET", "sni_mismatch"),
    (443, "hello(sni(me + '..'))", "ECONNRESET", "sni_mismatch"),
    (443, r"hello(sni(me + '\0.evil.example'))", "ECONNRESET", "sni_mismatch"),
    (443, "hello(sni('45.45.0.2'))", "ECONNRESET", "sni_mismatch"),
    (443, "hello(sni(me), sni('evil.example'))", "ECONNRESET", "not_tls"),
    (443, r"b'SSH-2.0-x\r\n'", "ECONNRESET", "not_tls"),
];

/// First messages of TLS in several records, or too large, and encrypted ones.
const RECORDS: [Way; 6] = [
    (443, "record(real(me)[:40]) + record(real(me)[40:])", "ECONNRESET", "fragmented_hello"),
    (443, "record(real(me)[:3]) + record(real(me)[3:])", "ECONNRESET", "not_tls"),
    (443, r"b'\x16\3\1\x40\1' + message(sni(me), (21, bytes(16298)))", "ECONNRESET", "not_tls"),
    (
        443,
        "record(message(sni(me), (21, bytes(20000)))[:1 << 14])",
        "ECONNRESET",
        "fragmented_hello",
    ),
    (443, "hello(sni(me), (0xfe0d, bytes(8)))", "ECONNRESET", "ech"),
    (443, "hello((0xffce, bytes(8)), sni(me))", "ECONNRESET", "ech"),
];

/// Requests for another host.
const HOSTS: [Way; 9] = [
    (80, "get('evil.example')", REFUSED, "host_mismatch"),
    (80, "get('good.example')", REFUSED, "host_mismatch"),
    (80, "get(me + ':8080')", REFUSED, "host_mismatch"),
    (80, "get(None)", REFUSED, "host_mismatch"),
    (80, "get(me, 'Host: evil.example')", REFUSED, "host_mismatch"),
    (80, "get('evil.example', 'Host: ' + me)", REFUSED, "host_mismatch"),
    (80, "get(me, line='GET http://evil.example/ HTTP/1.1')", REFUSED, "host_mismatch"),
    (80, "get('evil.example', line=f'GET http://{me}/ HTTP/1.1')", REFUSED, "host_mismatch"),
    (80, "get(me, line=f'GET http://{me}@evil.example/ HTTP/1.1')", REFUSED, "host_mismatch"),
];

/// Requests that servers may read another way, and other protocols.
const FORMS: [Way; 15] = [
    (80, "get(me, 'Content-Length: 4', 'Transfer-Encoding: chunked')", "ECONNRESET", "not_http"),
    (80, "get(me, 'Content-Length: 4', 'Content-Length: 5')", "ECONNRESET", "not_http"),
    (80, "get(me, 'Transfer-Encoding: identity, chunked')", "ECONNRESET", "not_http"),
    (80, "get(me, 'Transfer-Encoding : chunked')", "ECONNRESET", "not_http"),
    (80, r"get(me, 'X: a\n Host: evil.example')", "ECONNRESET", "not_http"),
    (80, r"get(me, 'X: a\r\n folded')", "ECONNRESET", "not_http"),
    (80, r"get(me, 'X: \0')", "ECONNRESET", "not_http"),
    (80, r"b'GET / HTTP/1.1\nHost: evil.example\n\n\r\n\r\n'", "ECONNRESET", "not_http"),
    (80, "get(me, line='CONNECT evil.example:443 HTTP/1.1')", "ECONNRESET", "not_http"),
    (80, "get(me, line='TRACE / HTTP/1.1')", "ECONNRESET", "not_http"),
    (80, "get(me, 'Connection: Upgrade', 'Upgrade: h2c')", "ECONNRESET", "not_http"),
    (80, "get(me, 'Connection: Upgrade', 'Upgrade: websocket')", "ECONNRESET", "not_http"),
    (80, "get(me, 'HTTP2-Settings: AAMAAABk')", "ECONNRESET", "not_http"),
    (80, r"b'PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n'", "ECONNRESET", "not_http"),
    (80, "record(real('evil.example'))", "ECONNRESET", "not_http"),
];

/// Names that look like an allowed one, as programs write them and as they are asked for.
const TWINS: [(&str, &str); 7] = [
    ("evil-wild.example", "evil-wild.example"),
    ("wild.example", "wild.example"),
    ("a.wild.example.evil", "a.wild.example.evil"),
    ("wild.example.evil", "wild.example.evil"),
    ("a.xn--wld-rma.example", "a.xn--wld-rma.example"),
    ("b.w\u{ed}ld.example", "b.xn--wld-rma.example"),
    ("a.wild.\u{435}xample", "a.wild.xn--xample-2of"),
];

/// The policy of the sandbox that tries all of these.
fn policy() -> PolicySpec {
    allow(&[
        "*.wild.example:80,443,8443",
        "good.example",
        "also.example",
        "lan.example",
        "rebound.example:7777",
        "mixed.example:7070,7777",
    ])
}

#[test]
fn what_a_connection_says_is_not_believed() {
    World::tell(async |world| {
        let Some(daemon) = Daemon::start(&[]) else { return };
        let id = create(&daemon, "python", policy()).await;
        let guest = Guest { world: &world, daemon: &daemon, id };
        // A lookup from before the address of this name changes.
        let told = guest.run("print(told('rebound.example', 7777, b'hello\\n'))").await;
        assert_eq!(told, "hello\n");
        guest.nothing_refused_arrives().await;
        guest.only_what_is_allowed_arrives().await;
        guest.redirects_lead_nowhere_else().await;
        guest.labels_carry_little().await;
        guest.names_are_not_rebound().await;
        daemon.stop();
    });
}

/// A sandbox in a world.
struct Guest<'a> {
    world: &'a World,
    daemon: &'a Daemon,
    id: String,
}

impl Guest<'_> {
    async fn run(&self, program: &str) -> String {
        python(self.daemon, &self.id, &format!("{SPEECH}{program}")).await
    }

    /// Checks that the sandbox's log has these denials and failures.
    async fn check_log<S: AsRef<str>>(&self, expected: &[S]) {
        let log = denials(self.daemon, &self.id).await;
        let missing: Vec<_> =
            expected.iter().map(AsRef::as_ref).filter(|line| !log.contains(*line)).collect();
        assert!(missing.is_empty(), "{missing:#?} are not in {log:#?}");
    }

    async fn nothing_refused_arrives(&self) {
        self.world.log();
        let ways = [&SERVER_NAMES[..], &RECORDS, &HOSTS, &FORMS].concat();
        let (mut program, mut expected, mut logged) = (String::new(), Vec::new(), Vec::new());
        for (number, (port, says, sees, reason)) in ways.iter().enumerate() {
            let me = format!("way{number}.wild.example");
            let line = format!("me = '{me}'; print(me, told(me, {port}, {says}))\n");
            program.push_str(&line);
            expected.push(format!("{me} {sees}"));
            logged.push(format!("{me}:{port} {reason}"));
        }
        for (twin, name) in TWINS {
            let line = format!("print('{name}', told('{twin}', 80, get('{name}')))\n");
            program.push_str(&line);
            expected.push(format!("{name} no such name"));
            logged.push(format!("{name} no_rule"));
        }
        // An address that no name was looked up for has none that is allowed.
        program.push_str("print(told('45.45.0.2', 443, record(real('good.example'))))");
        expected.push("ECONNRESET".to_owned());
        logged.push("45.45.0.2:443 no_rule".to_owned());
        let told = self.run(&program).await;
        assert_eq!(told.lines().collect::<Vec<_>>(), expected);
        self.check_log(&logged).await;
        // No lookup of another name, and no connection at all.
        let reached = self.world.reached();
        let is_own =
            |line: &String| line.starts_with("query way") && line.ends_with(".wild.example");
        assert!(reached.iter().all(is_own), "{reached:#?}");
    }

    /// Names in other forms, messages in many segments, names that share an address, and
    /// connections that carry several requests.
    async fn only_what_is_allowed_arrives(&self) {
        let told = self.run(ALLOWED_IN_PART).await;
        let expect = "hello from 45.45.0.1 hello from 45.45.0.1\nhello from 45.45.0.1\n\
            hello from 45.45.0.1 ECONNRESET\nhello from 45.45.0.1 ECONNRESET\n\
            (1, 'ECONNRESET')\nECONNRESET\n(1, 1)\n";
        assert_eq!(told, expect);
        let logged = [
            "also.example:443 sni_mismatch",
            "b.wild.example:8443 sni_mismatch",
            "c.wild.example:80 host_mismatch",
            "d.wild.example:80 host_mismatch",
        ];
        self.check_log(&logged).await;
        let mut said = self.world.log();
        // The connection to `d` is reset, perhaps before its first request arrives.
        let ignored = ["query", "connect", "request GET / d.wild.example"];
        said.retain(|line| !ignored.iter().any(|start| line.starts_with(start)));
        let expect = [
            "hello GOOD.example",
            "request GET / GOOD.example",
            "hello good.example.",
            "request GET / good.example.",
            "hello good.example",
            "request GET / good.example",
            "hello good.example",
            "request GET / good.example",
            "hello a.wild.example",
            "request GET / a.wild.example",
            "request GET / c.wild.example",
            "request POST / e.wild.example",
            "request GET /last e.wild.example",
        ];
        assert_eq!(said, expect);
    }

    async fn redirects_lead_nowhere_else(&self) {
        let told = self.run(REDIRECTED).await;
        let (name, address) = ("no such name no such name\n", "403 403\n");
        assert_eq!(told, [name, name, name, address, address, address].concat());
        let logged = [
            "evil.example no_rule",
            "lan.example private_address",
            "45.45.0.2:80 no_rule",
            "10.77.0.1:80 no_rule",
            "169.254.169.254:80 no_rule",
        ];
        self.check_log(&logged).await;
        let reached = self.world.reached();
        let allowed = [
            "connect 45.45.0.1 80",
            "connect 45.45.0.1 443",
            "query good.example",
            "query lan.example",
        ];
        assert!(reached.iter().all(|line| allowed.contains(&line.as_str())), "{reached:#?}");
    }

    /// Ten thousand names below one that is denied, and below one that is allowed.
    async fn labels_carry_little(&self) {
        let counts = async |below| {
            let program = format!("print(*asked('{below}', {LABELS}), sep='\\n')");
            let told = self.run(&program).await;
            let counts: Vec<usize> = told.lines().map(|line| line.parse().unwrap()).collect();
            let [found, failed, absent] = counts[..] else { panic!("{told}") };
            assert_eq!(found + failed + absent, LABELS);
            (found, absent)
        };
        let has = |log: &BTreeSet<String>, end| log.iter().any(|line| line.ends_with(end));
        let (found, absent) = counts("evil.example").await;
        assert!(found == 0 && absent > 0);
        let log = denials(self.daemon, &self.id).await;
        assert!(has(&log, ".evil.example no_rule") && has(&log, ".evil.example rate_limit"));
        assert_eq!(self.world.reached(), [""; 0]);
        let begun = Instant::now();
        let (found, absent) = counts("wild.example").await;
        assert!(found > 0 && absent == 0);
        assert!(has(&denials(self.daemon, &self.id).await, ".wild.example rate_limit"));
        let reached = self.world.reached().len();
        // What the rate allows: 20 in a second, and 40 at once.
        let most = 40 + 20 * (usize::try_from(begun.elapsed().as_secs()).unwrap() + 1);
        assert!((found..=most).contains(&reached), "{found} {reached} {most}");
    }

    /// Names that have a private address, later, or besides another one.
    async fn names_are_not_rebound(&self) {
        let told = self.run(REBOUND).await;
        assert_eq!(told, "hello ECONNRESET\nECONNRESET no such name\n");
        let logged = [
            "mixed.example:7070 connect_failed",
            "rebound.example:7777 private_address",
            "rebound.example private_address",
        ];
        self.check_log(&logged).await;
        let mut reached = self.world.reached();
        reached.retain(|line| line.starts_with("connect"));
        // The second one as long as the first answer was kept.
        let allowed = ["connect 45.45.0.1 7777", "connect 45.45.0.3 7777"];
        assert!(reached.iter().all(|line| allowed.contains(&line.as_str())), "{reached:?}");
    }
}

/// Number of names that are asked for.
const LABELS: usize = 10_000;

const ALLOWED_IN_PART: &str = r"
print(page('good.example', 'GOOD.example'), page('good.example', 'good.example.'))
print(page('good.example', 'good.example', piece_bytes=1))
# The latest name of the address that both have is another one.
print(page('also.example', 'good.example'), page('also.example', 'evil.example'))
print(page('a.wild.example', 'a.wild.example', port=8443),
      page('b.wild.example', 'evil.example', port=8443))
def answered(me, first, *more):
    '''How many requests are answered at first, and later.'''
    count = 0
    with connect(me, 80) as s, s.makefile('rb') as lines:
        try:
            s.sendall(first)
            count = lines.readline().count(b'HTTP/1.1')
            for request in more:
                s.sendall(request)
            s.shutdown(socket.SHUT_WR)
            return count, lines.read().count(b'HTTP/1.1')
        except OSError as e:
            return count, name(e)
# A second request on a connection: later, at once, and as the body of the first.
other = get('evil.example')
print(answered('c.wild.example', get('c.wild.example'), other))
print(answered('d.wild.example', get('d.wild.example') + other)[1])
first = get('e.wild.example', f'Content-Length: {len(other)}', line='POST / HTTP/1.1')
print(answered('e.wild.example', first + other, get('e.wild.example', line='GET /last HTTP/1.1')))";

const REDIRECTED: &str = r"
def seen(url):
    '''What a page says; names are looked up no faster than is allowed.'''
    while (said := web(url)) == 'Temporary failure in name resolution':
        pass
    return said
for target in ('http://evil.example/', 'https://evil.example/', 'http://lan.example/',
               'http://45.45.0.2/', 'http://10.77.0.1/', 'http://169.254.169.254/'):
    print(seen('http://good.example/to?' + target), seen('https://good.example/to?' + target))";

const REBOUND: &str = r"
# The public address does not serve the second port, and the private one does.
print(told('mixed.example', 7777, b'hello\n'), told('mixed.example', 7070, b'hello\n'))
# Addresses are kept for some seconds.
end = time.monotonic() + 100
while (last := told('45.45.0.3', 7777, b'hello\n')) == 'hello' and time.monotonic() < end:
    time.sleep(0.1)
print(last, told('rebound.example', 7777, b'hello\n'))";

#[test]
fn a_guest_that_speaks_for_its_agent_gets_no_further() {
    World::tell(async |world| {
        let Some(daemon) = Daemon::start(&[]) else { return };
        let id = create(&daemon, "python", allow(&["good.example:7777"])).await;
        let neighbour = create(&daemon, "shell", allow(&["*"])).await;
        world.log();
        let port = daemon.authority.rsplit(':').next().unwrap();
        let run = async |call: &str| python(&daemon, &id, &format!("{MUX}{call}")).await;
        let alive = async || {
            // From a public host to a private one.
            let get = "curl -sSL http://good.example http://good.example/to?http://10.77.0.1";
            let told = daemon.output(&neighbour, get).await;
            let private = "10.77.0.1 port 80 is refused by the sandbox's egress policy: \
                private_address\n";
            assert_eq!(told, format!("hello from 45.45.0.1{private}"));
        };
        let speaking = format!("speak({port})");
        let (told, ()) = tokio::join!(run(&speaking), alive());
        assert_eq!(told, SPOKEN);
        let log = denials(&daemon, &id).await;
        for expect in [
            "45.45.0.2:7777 no_rule",
            "45.45.0.2:7777 rate_limit",
            "evil.example:7777 no_rule",
            "evil.example:443 no_rule",
            "10.77.0.1:7777 no_rule",
            "stolen.evil.example no_rule",
            &format!("localhost:{port} no_rule"),
            &format!("127.0.0.1:{port} no_rule"),
        ] {
            assert!(log.contains(expect), "{expect} is not in {log:#?}");
        }
        let echo = "print(echo('good.example', 7777))";
        assert_eq!(python(&daemon, &id, echo).await, "hello\n");
        assert_eq!(run("break_session()").await, "");
        // Another session begins; until then a connection may still fail.
        let again = "while (told := echo('good.example', 7777)) != 'hello': pass\nprint(told)";
        assert_eq!(python(&daemon, &id, again).await, "hello\n");
        let broken = daemon.client.exec(&id, &code(format!("{MUX}break_channel()"))).await;
        assert_eq!(refusal(broken).1.code, ErrorCode::GuestFailed);
        alive().await;
        daemon.client.delete(&id).await.unwrap();
        alive().await;
        let mut reached = world.reached();
        reached.retain(|line| !line.ends_with("good.example"));
        assert_eq!(reached, ["connect 45.45.0.1 7777", "connect 45.45.0.1 80"]);
        daemon.stop();
    });
}

/// A program of root's that speaks to the host in the place of the agent, in Python.
const MUX: &str = include_str!("bypasses/mux.py");

/// The outcome: no other way to the host; an answer to each claim, of which one names a host that
/// is allowed, and leads there; and none of ten thousand connections.
const SPOKEN: &str = "[]\nno_rule\nno_rule\nno_rule\nno_rule\nno_rule\nno_rule\nopened\nno_rule\n\
    other\nTrue True\n";
