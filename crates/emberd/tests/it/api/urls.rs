//! Signed URLs of ports: exchanged for a cookie, worth nothing anywhere else.

use emberd_api::{CreateUrl, ErrorCode};
use emberd_client::Client;
use emberd_keys::Role;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use super::{Api, refusal};
use crate::raw::{self, Answer};
use crate::wait;

/// A port that answers each request with what it was.
async fn mirror() -> (u16, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let server = tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                // The time of a URL may pass before its request is here.
                let Ok(byte) = stream.read_u8().await else { break };
                head.push(byte);
            }
            let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", head.len());
            stream.write_all(&[answer.as_bytes(), &head].concat()).await.ok();
        }
    });
    (port, server)
}

fn host(port: u16, id: &str) -> String {
    format!("{port}-{}.localhost:7777", id.replace('_', "-"))
}

/// Path and query of `url`.
fn path(url: &str) -> String {
    let (_, rest) = url.split_once("://").unwrap();
    rest[rest.find('/').unwrap()..].to_owned()
}

fn token(url: &str) -> String {
    url.split_once("emberd_token=").unwrap().1.to_owned()
}

async fn get(api: &Api, host: &str, path: &str, fields: &str) -> Answer {
    let head = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n{fields}\r\n");
    raw::send(&api.authority, head.into_bytes()).await
}

fn field(answer: &Answer, name: &str) -> Option<String> {
    let mut lines = answer.head.lines();
    lines.find_map(|line| Some(line.strip_prefix(name)?.strip_prefix(": ")?.to_owned()))
}

async fn url(client: &Client, id: &str, port: u16) -> String {
    let wanted = CreateUrl { port, ..CreateUrl::default() };
    client.create_url(id, &wanted).await.unwrap().url
}

#[track_caller]
fn check_refused(answer: &Answer, what: &str) {
    assert_eq!((answer.status, answer.error().code), (401, ErrorCode::Unauthenticated), "{what}");
}

#[tokio::test]
async fn a_browser_gets_a_cookie_and_the_sandbox_neither_that_nor_the_token() {
    let api = Api::start().await;
    let (_, client) = api.key(Role::User).await;
    let id = client.create(Some("shell")).await.unwrap().id;
    let (port, server) = mirror().await;
    let host = host(port, &id);
    check_refused(&get(&api, &host, "/", "").await, "without anything");
    let url = url(&client, &id, port).await;
    let expect = format!("http://{}", host.replace(":7777", ""));
    assert!(url.starts_with(&expect) && url.contains("/?emberd_token="), "{url}");
    let asked = format!("/a/b?x=1&emberd_token={}&y=%20", token(&url));
    let answer = get(&api, &host, &asked, "").await;
    assert_eq!(answer.status, 303, "{answer:?}");
    assert_eq!(field(&answer, "location").as_deref(), Some("/a/b?x=1&y=%20"));
    assert_eq!(field(&answer, "cache-control").as_deref(), Some("no-store"));
    let cookie = field(&answer, "set-cookie").unwrap();
    let (pair, attributes) = cookie.split_once("; ").unwrap();
    assert_eq!(pair, format!("emberd_port={}", token(&url)));
    let (path_and_age, rest) = attributes.split_once("; HttpOnly").unwrap();
    assert!(path_and_age.starts_with("Path=/; Max-Age=3") && rest == "; SameSite=Lax", "{cookie}");
    let over_tls = get(&api, &host, &path(&url), "X-Forwarded-Proto: https\r\n").await;
    assert!(field(&over_tls, "set-cookie").unwrap().ends_with("; SameSite=Lax; Secure"));
    // With the cookie, the request passes without it.
    let fields = format!("Cookie: theirs=1; {pair}; more=2\r\n");
    let answer = get(&api, &host, "/a/b?x=1&y=%20", &fields).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert!(answer.body.starts_with("GET /a/b?x=1&y=%20 HTTP/1.1\r\n"), "{}", answer.body);
    assert!(answer.body.contains("cookie: theirs=1; more=2\r\n"), "{}", answer.body);
    assert!(!answer.body.contains("emberd_"), "{}", answer.body);
    // A program that cannot follow a redirect sends the token itself.
    let upgrade = "Connection: upgrade\r\nUpgrade: echo\r\n";
    let head = format!("GET {asked} HTTP/1.1\r\nHost: {host}\r\n{upgrade}\r\n");
    let answer = raw::answer(&api.authority, head.into_bytes()).await;
    assert!(answer.body.starts_with("GET /a/b?x=1&y=%20 HTTP/1.1\r\n"), "{answer:?}");
    // It is for the port alone, and for pages of its own.
    for path in ["/sandboxes", "/info"] {
        let fields = format!("Cookie: {pair}\r\n");
        check_refused(&get(&api, "localhost", path, &fields).await, path);
    }
    let foreign = format!("Cookie: {pair}\r\nOrigin: http://1-sb-000000000000.localhost:7777\r\n");
    let answer = get(&api, &host, "/", &foreign).await;
    assert_eq!((answer.status, answer.error().code), (403, ErrorCode::ForeignOrigin));
    server.abort();
    api.stop().await;
}

#[tokio::test]
async fn a_token_is_of_one_sandbox_one_port_and_one_time() {
    let api = Api::start().await;
    let (key, client) = api.key(Role::User).await;
    let id = client.create(Some("shell")).await.unwrap().id;
    let other = client.create(Some("shell")).await.unwrap().id;
    let (port, server) = mirror().await;
    let (next, next_server) = mirror().await;
    let good = token(&url(&client, &id, port).await);
    // The other sandbox has a key of its own.
    url(&client, &other, port).await;
    let at = async |host: &str, token: &str| {
        let by_url = get(&api, host, &format!("/?emberd_token={token}"), "").await;
        let by_cookie = get(&api, host, "/", &format!("Cookie: emberd_port={token}\r\n")).await;
        [by_url, by_cookie]
    };
    let own = host(port, &id);
    assert_eq!(at(&own, &good).await.map(|answer| answer.status), [303, 200]);
    let (ends, rest) = good.split_once('.').unwrap();
    let (issuer, signature) = rest.split_once('.').unwrap();
    let flipped =
        signature.replace(&signature[..1], if &signature[..1] == "A" { "B" } else { "A" });
    let later = ends.parse::<u64>().unwrap() + 1;
    for (what, host, token) in [
        ("another port", host(next, &id), good.clone()),
        ("another sandbox", host(port, &other), good.clone()),
        ("no sandbox", host(port, "sb_000000000000"), good.clone()),
        ("a later end", own.clone(), format!("{later}.{issuer}.{signature}")),
        ("another issuer", own.clone(), format!("{ends}.-.{signature}")),
        ("another signature", own.clone(), format!("{ends}.{issuer}.{flipped}")),
        ("no signature", own.clone(), format!("{ends}.{issuer}.")),
        ("torn", own.clone(), good[..good.len() - 2].to_owned()),
        ("empty", own.clone(), String::new()),
        ("twice", own.clone(), format!("{good}&emberd_token={good}")),
    ] {
        let [by_url, by_cookie] = at(&host, &token).await;
        check_refused(&by_url, what);
        if what != "twice" {
            check_refused(&by_cookie, what);
        }
        assert!(!by_url.body.contains(signature), "{what}");
    }
    // The two headers name no host for a cookie.
    let fields = format!("X-Emberd-Sandbox: {id}\r\nX-Emberd-Port: {port}\r\n");
    let fields = format!("{fields}Cookie: emberd_port={good}\r\n");
    check_refused(&get(&api, "x", "/", &fields).await, "by header");
    // It ends by its time,
    let wanted = CreateUrl { port, expires_ms: Some(1_000), base: None };
    let short = token(&client.create_url(&id, &wanted).await.unwrap().url);
    wait::until(async || at(&own, &short).await.iter().all(|answer| answer.status == 401)).await;
    let [by_url, _] = at(&own, &short).await;
    assert!(by_url.error().error.contains("not valid any more"), "{by_url:?}");
    // with all of its sandbox,
    client.revoke_urls(&id).await.unwrap();
    at(&own, &good).await.iter().for_each(|answer| check_refused(answer, "revoked"));
    // and with the key that asked for it.
    let again = token(&url(&client, &id, port).await);
    assert_eq!(at(&own, &again).await[1].status, 200);
    emberd_keys::remove(&api.keys, &[key.id.to_string()]).unwrap();
    wait::until(async || at(&own, &again).await.iter().all(|answer| answer.status == 401)).await;
    server.abort();
    next_server.abort();
    api.stop().await;
}

#[tokio::test]
async fn what_is_no_url_is_refused() {
    let api = Api::start().await;
    let (_, client) = api.key(Role::User).await;
    let (_, viewer) = api.key(Role::Viewer).await;
    let id = client.create(Some("shell")).await.unwrap().id;
    let create = async |client: &Client, port, expires_ms, base: Option<&str>| {
        let wanted = CreateUrl { port, expires_ms, base: base.map(str::to_owned) };
        client.create_url(&id, &wanted).await
    };
    for (port, expires_ms, base, error) in [
        (0, None, None, "port: a port is a number from 1 to 65535"),
        (80, Some(999), None, "expires_ms: 999 is not a number of milliseconds from 1000"),
        (80, Some(604_800_001), None, "to 604800000 (7 days)"),
        (80, None, Some("javascript:x"), "base: not http://HOST or https://HOST"),
    ] {
        let (status, body) = refusal(create(&client, port, expires_ms, base).await);
        assert_eq!((status, body.code), (400, ErrorCode::InvalidRequest));
        assert!(body.error.contains(error), "{}", body.error);
    }
    let named = create(&client, 80, None, Some("https://sandboxes.example")).await.unwrap();
    let expect = format!("https://80-{}.sandboxes.example/?", id.replace('_', "-"));
    assert!(named.url.starts_with(&expect), "{}", named.url);
    assert!(!format!("{named:?}").contains(&token(&named.url)));
    for refused in [create(&viewer, 80, None, None).await.map(drop), viewer.revoke_urls(&id).await]
    {
        assert_eq!(refusal(refused).0, 403);
    }
    api.stop().await;
}
