//! Web pages of other origins that the operator allows: what their browsers may send, and read.

use emberd_api::{BODY_BYTES_MAX, ErrorCode, ExecBody, PORT_HEADER, ProcessSpec, SANDBOX_HEADER};
use emberd_keys::Role;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use super::{Api, body};
use crate::raw::{self, Answer};

const ORIGIN: &str = "https://console.example";

const PAGE: (&str, &str) = ("Origin", ORIGIN);

/// Sent by browsers with the requests of such a page.
const CROSS_SITE: (&str, &str) = ("Sec-Fetch-Site", "cross-site");

async fn start() -> Api {
    Api::with_pages(&[ORIGIN, "http://localhost:3000"]).await
}

impl Answer {
    /// The value of a field of the head; none if there is none, and all of several.
    fn field(&self, name: &str) -> Option<String> {
        let fields = self.head.lines().filter_map(|line| line.split_once(": "));
        let values: Vec<_> =
            fields.filter(|(field, _)| *field == name).map(|(_, value)| value).collect();
        (!values.is_empty()).then(|| values.join(" | "))
    }

    /// Whether the browser gives the answer to a page of `origin` (Fetch §3.3).
    #[track_caller]
    fn is_readable_by(&self, origin: &str) -> bool {
        let varies = self.field("vary").is_some_and(|vary| vary.contains("origin"));
        assert!(varies, "a cache would mix up pages: {self:?}");
        assert_eq!(self.field("access-control-allow-credentials"), None);
        self.field("access-control-allow-origin").as_deref() == Some(origin)
    }
}

#[tokio::test]
async fn a_browser_learns_what_an_allowed_page_may_send_before_it_has_a_key() {
    let api = start().await;
    let preflight = async |path: &str, origin: &str, more: &[(&str, &str)]| {
        let asks = [("Origin", origin), ("Access-Control-Request-Method", "DELETE"), CROSS_SITE];
        api.request("OPTIONS", path, &[&asks, more].concat()).await
    };
    let wants = [("Access-Control-Request-Headers", "authorization,content-type")];
    for with_keys in [false, true] {
        if with_keys {
            api.secret(Some(Role::User), &[]).await;
        }
        for path in ["/sandboxes/sb_000000000000", "/mcp", "/healthz", "/nothing"] {
            for origin in [ORIGIN, "http://localhost:3000"] {
                let answer = preflight(path, origin, &wants).await;
                assert_eq!((answer.status, &*answer.body), (204, ""), "{answer:?}");
                assert!(answer.is_readable_by(origin), "{answer:?}");
                let methods = answer.field("access-control-allow-methods").unwrap();
                assert_eq!(methods, "DELETE, GET, HEAD, PATCH, POST, PUT");
                let sent = answer.field("access-control-allow-headers").unwrap();
                let sent: Vec<_> = sent.split(", ").collect();
                for name in ["authorization", "content-type", "idempotency-key", "mcp-method"] {
                    assert!(sent.contains(&name), "{name}");
                }
                assert!(!sent.contains(&SANDBOX_HEADER) && !sent.contains(&PORT_HEADER));
                assert_eq!(answer.field("access-control-max-age").as_deref(), Some("7200"));
                assert!(answer.field("x-request-id").is_some());
            }
        }
        let of_sandbox = "http://8000-sb-000000000000.localhost:7777";
        for origin in ["https://evil.example", "https://console.example:8443", of_sandbox, "null"] {
            let answer = preflight("/sandboxes", origin, &wants).await;
            let code = answer.error().code;
            let refused = (403, ErrorCode::ForeignOrigin);
            let unknown = (401, ErrorCode::Unauthenticated);
            let expect = if with_keys { unknown } else { refused };
            assert_eq!((answer.status, code), expect, "{origin}");
            assert!(!answer.is_readable_by(origin), "{answer:?}");
            assert_eq!(answer.field("access-control-allow-methods"), None);
        }
    }
    // A page asks for nothing by that, nor does one that hides what it is.
    let bare = api.request("OPTIONS", "/sandboxes", &[PAGE]).await;
    assert_eq!((bare.status, bare.error().code), (401, ErrorCode::Unauthenticated));
    let odd = [PAGE, ("Access-Control-Request-Method", "GET"), ("Sec-Fetch-Site", "of-tomorrow")];
    let odd = api.request("OPTIONS", "/sandboxes", &odd).await;
    assert_eq!((odd.status, odd.error().code), (403, ErrorCode::CrossSite));
    api.stop().await;
}

#[tokio::test]
async fn a_page_with_a_key_is_a_caller_with_that_key() {
    let api = start().await;
    let key = api.secret(Some(Role::Viewer), &[]).await.1;
    let bearer = format!("Bearer {key}");
    for site in ["cross-site", "same-site", "same-origin"] {
        for sent in [("Authorization", &*bearer), ("X-API-Key", &*key)] {
            for path in ["/info", "/healthz", "/openapi.json", "/metrics", "/sandboxes"] {
                let fields = [PAGE, sent, ("Sec-Fetch-Site", site)];
                let answer = api.request("GET", path, &fields).await;
                assert_eq!(answer.status, 200, "{path} {answer:?}");
                assert!(answer.is_readable_by(ORIGIN), "{answer:?}");
                let read = answer.field("access-control-expose-headers").unwrap();
                assert!(["retry-after", "x-request-id"].iter().all(|name| read.contains(name)));
                assert_eq!(answer.field("access-control-allow-methods"), None);
            }
        }
    }
    // Its errors can be read too: no scope, no such thing, no such method, the wrong host.
    let refused = async |method: &str, path: &str, more: &[(&str, &str)]| {
        let fields = [PAGE, ("Authorization", &*bearer), CROSS_SITE];
        let answer = api.request(method, path, &[&fields, more].concat()).await;
        assert!(answer.is_readable_by(ORIGIN), "{answer:?}");
        (answer.status, answer.error().code)
    };
    assert_eq!(refused("POST", "/sandboxes", &[]).await, (403, ErrorCode::Forbidden));
    assert_eq!(refused("GET", "/nothing", &[]).await, (404, ErrorCode::UnknownRoute));
    assert_eq!(refused("PUT", "/sandboxes", &[]).await, (405, ErrorCode::MethodNotAllowed));
    let absolute = "http://evil.example/info";
    assert_eq!(refused("GET", absolute, &[]).await, (421, ErrorCode::ForeignHost));
    let odd = refused("GET", "/info", &[("Sec-Fetch-Site", "of-tomorrow")]).await;
    assert_eq!(odd, (403, ErrorCode::CrossSite));
    // A request without `Origin` is none of a page that may read the answer.
    let fields = [("Authorization", &*bearer), CROSS_SITE];
    let silent = api.request("GET", "/info", &fields).await;
    assert_eq!((silent.status, silent.error().code), (403, ErrorCode::CrossSite));
    assert_eq!(silent.field("access-control-allow-origin"), None);
    // And programs are as they were.
    let program = api.request("GET", "/info", &[("Authorization", &bearer)]).await;
    assert_eq!((program.status, program.field("vary").as_deref()), (200, Some("origin")));
    assert_eq!(program.field("access-control-allow-origin"), None);
    api.stop().await;
}

#[tokio::test]
async fn a_page_without_a_key_is_nobody() {
    let api = start().await;
    let wrong = format!("Bearer emb_0a1b2c3d_{}", "0".repeat(32));
    for with_keys in [false, true] {
        if with_keys {
            api.secret(Some(Role::User), &[]).await;
        }
        for (method, path) in [("GET", "/info"), ("POST", "/sandboxes"), ("POST", "/mcp")] {
            let none = api.request(method, path, &[PAGE, CROSS_SITE]).await;
            assert_eq!(none.error().code, ErrorCode::Unauthenticated, "{none:?}");
            assert!(none.error().error.contains("a web page of another origin needs a key"));
            let fields = [PAGE, CROSS_SITE, ("Authorization", &*wrong)];
            let invalid = api.request(method, path, &fields).await;
            assert_eq!(invalid.error().error, "the key is not valid", "{invalid:?}");
            for answer in [none, invalid] {
                assert_eq!(answer.status, 401);
                assert!(answer.is_readable_by(ORIGIN), "{answer:?}");
                let challenge = answer.field("www-authenticate");
                assert_eq!(challenge.as_deref(), Some("Bearer realm=\"emberd\""));
            }
        }
        for path in ["/healthz", "/openapi.json"] {
            for fields in [&[PAGE][..], &[PAGE, ("Authorization", &wrong)]] {
                let answer = api.request("GET", path, fields).await;
                assert_eq!((answer.status, answer.error().code), (403, ErrorCode::ForeignOrigin));
                assert!(answer.is_readable_by(ORIGIN), "{answer:?}");
            }
        }
        // Neither is one that is not allowed, with whatever key.
        for (name, value) in [("Origin", "https://evil.example"), ("Origin", "null")] {
            let key = api.secret(Some(Role::Admin), &[]).await.1;
            let fields = [(name, value), CROSS_SITE, ("X-API-Key", &*key)];
            let answer = api.request("GET", "/info", &fields).await;
            assert_eq!((answer.status, answer.error().code), (403, ErrorCode::ForeignOrigin));
            assert!(answer.error().hint.unwrap().contains("--allowed-origin"));
            assert!(!answer.is_readable_by(value), "{answer:?}");
        }
    }
    assert_eq!(api.key(Role::Admin).await.1.list().await.unwrap().sandboxes, []);
    api.stop().await;
}

/// The head of the answer to a request that goes on.
async fn head(api: &Api, request: &str) -> Answer {
    let mut stream = TcpStream::connect(&api.authority).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    let head = String::from_utf8(head).unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    Answer { status, head, body: String::new() }
}

#[tokio::test]
async fn streams_files_and_large_bodies_are_for_pages_too() {
    let api = start().await;
    let (key, client) = api.key(Role::User).await;
    let secret = api.secret(Some(Role::Admin), &[]).await.1;
    let id = client.create(Some("shell")).await.unwrap().id;
    let spec = ProcessSpec::of_argv(["sleep", "1000"]);
    let pid = client.start_process(&id, &spec).await.unwrap().pid;
    let of_page = format!("Host: localhost\r\nOrigin: {ORIGIN}\r\nX-API-Key: {secret}\r\n");
    for path in ["/events".to_owned(), format!("/sandboxes/{id}/processes/{pid}/events")] {
        let stream = head(&api, &format!("GET {path} HTTP/1.1\r\n{of_page}\r\n")).await;
        assert_eq!(stream.status, 200, "{stream:?}");
        assert_eq!(stream.field("content-type").as_deref(), Some("text/event-stream"));
        assert!(stream.is_readable_by(ORIGIN), "{stream:?}");
    }
    // A browser lets no page set a field of the handshake, so that a WebSocket has no key.
    let upgrade = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
        Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    let path = format!("/sandboxes/{id}/processes/{pid}/events");
    let bare = format!("Host: localhost\r\nOrigin: {ORIGIN}\r\n{upgrade}");
    assert_eq!(head(&api, &format!("GET {path} HTTP/1.1\r\n{bare}\r\n")).await.status, 401);
    client.exec(&id, &ExecBody { ..body("echo -n abc > /tmp/page") }).await.unwrap();
    let file = format!("GET /sandboxes/{id}/files?path=/tmp/page HTTP/1.1\r\n{of_page}");
    let file = format!("{file}Connection: close\r\n\r\n");
    let file = raw::send(&api.authority, file.into_bytes()).await;
    assert_eq!(
        (file.status, file.field("vary").as_deref()),
        (200, Some("accept-encoding | origin"))
    );
    assert!(file.is_readable_by(ORIGIN));
    let length = BODY_BYTES_MAX + 1;
    let large = format!("POST /sandboxes HTTP/1.1\r\n{of_page}Content-Length: {length}\r\n");
    let large = format!("{large}Connection: close\r\n\r\n");
    let large = raw::send(&api.authority, large.into_bytes()).await;
    assert_eq!((large.status, large.error().code), (413, ErrorCode::BodyTooLarge));
    assert!(large.is_readable_by(ORIGIN), "{large:?}");
    emberd_keys::remove(&api.keys, &[key.id.to_string()]).unwrap();
    api.stop().await;
}

/// A server in a sandbox: the double's loopback is the host's.
async fn server() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                request.push(stream.read_u8().await.unwrap());
            }
            let line = request.split(|byte| *byte == b'\r').next().unwrap();
            let length = line.len();
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n");
            stream.write_all(&[head.as_bytes(), line].concat()).await.unwrap();
        }
    });
    port
}

#[tokio::test]
async fn ports_of_sandboxes_have_rules_of_their_own() {
    let api = start().await;
    let id = api.create().await;
    let secret = api.secret(Some(Role::Admin), &[]).await.1;
    let port = server().await.to_string();
    let host = format!("{port}-{}.localhost", id.replace('_', "-"));
    let asks = ("Access-Control-Request-Method", "PUT");
    let key = ("X-API-Key", &*secret);
    let by_host = [("Host", &*host)];
    let by_fields = [(SANDBOX_HEADER, &*id), (PORT_HEADER, &*port)];
    for target in [&by_host[..], &by_fields] {
        // The helper's own host comes first, and two are refused.
        let (host, target) = match target {
            [(_, host)] => (*host, &[][..]),
            fields => ("localhost", fields),
        };
        let fields = [&[PAGE, key, asks, CROSS_SITE], target].concat();
        let line = |(name, value): &(&str, &str)| [*name, ": ", *value, "\r\n"].concat();
        let fields: String = fields.iter().map(line).collect();
        let request = format!("OPTIONS /a HTTP/1.1\r\nHost: {host}\r\n{fields}");
        let request = format!("{request}Connection: close\r\n\r\n");
        let answer = raw::send(&api.authority, request.into_bytes()).await;
        assert_eq!((answer.status, &*answer.body), (200, "OPTIONS /a HTTP/1.1"), "{answer:?}");
        for name in ["vary", "access-control-allow-origin", "access-control-allow-methods"] {
            assert_eq!(answer.field(name), None);
        }
    }
    api.stop().await;
}

#[tokio::test]
async fn without_the_option_no_page_reads_anything() {
    let api = Api::start().await;
    let key = api.secret(Some(Role::Admin), &[]).await.1;
    for method in ["GET", "OPTIONS"] {
        let fields = [PAGE, ("X-API-Key", &*key), ("Access-Control-Request-Method", "GET")];
        let answer = api.request(method, "/info", &fields).await;
        assert_eq!((answer.status, answer.error().code), (403, ErrorCode::ForeignOrigin));
        assert!(!answer.head.contains("access-control") && answer.field("vary").is_none());
    }
    api.stop().await;
}
